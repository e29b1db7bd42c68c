"""Losses of a student with several teachers: pure functions of logits.

B images, C classes in the union, n teachers. Teacher i knows the classes Lᵢ, indices into the union; the teachers' logits
stand side by side in one tensor (B, Σ|Lᵢ|), in the teachers' order. For an image only some teachers are *active*: those that
know its class where its label is used, all of them where not. Logits of the others are ignored and may be NaN.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from amalgam.dataset import LabelSets
from amalgam.joint import joint_estimate
from amalgam.target_names import Objective, Target

DKD_TARGET, DKD_OTHERS = 1.0, 8.0  # weights of DKD's two parts (Zhao et al., CVPR 2022, CIFAR-100)
DIST_ROWS, DIST_COLUMNS = 1.0, 1.0  # weights of DIST's two relations (Huang et al., NeurIPS 2022)
STANDARDIZE_EPSILON = 1e-7
PEARSON_EPSILON = 1e-8
MIN_VARIANCE = 1e-12
MIN_LOG_PROB = -1e30  # of probability zero: finite, so that no gradient is undefined

Combination = Callable[[Tensor], Tensor]  # from all teachers' logits (B, Σ|Lᵢ|) to logits over the union (B, C)


class LabelBlocks:
    """The label sets as tables for batched arithmetic, each padded to the widest: K entries, of which ``valid`` says which count."""

    def __init__(self, columns: Sequence[Sequence[int]], classes: int, device: torch.device | None = None) -> None:
        widest = max(map(len, columns))
        starts = [sum(map(len, columns[:i])) for i in range(len(columns))]
        self.classes = classes
        self.valid = torch.tensor([[k < len(own) for k in range(widest)] for own in columns], device=device)  # (n, K)
        self.union = torch.tensor([[*own, *[own[0]] * (widest - len(own))] for own in columns], device=device)  # (n, K)
        stored = [[start + min(k, len(own) - 1) for k in range(widest)] for start, own in zip(starts, columns, strict=True)]
        self.logit_columns = torch.tensor(stored, device=device)  # (n, K)
        self.sizes = self.valid.sum(1)  # (n,)
        self.one_hot = functional.one_hot(self.union, classes).float() * self.valid[..., None]  # (n, K, C)

    @classmethod
    def of(cls, label_sets: LabelSets, device: torch.device | None = None) -> "LabelBlocks":
        return cls([label_sets.columns(name) for name in label_sets.teachers], len(label_sets.classes), device)

    def of_teachers(self, logits: Tensor, active: Tensor) -> Tensor:
        """(B, n, K) of the teachers' logits (B, Σ|Lᵢ|), zero where a teacher is not active."""
        precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return torch.where(active[..., None], precise[:, self.logit_columns], 0.0)

    def of_student(self, logits: Tensor) -> Tensor:
        """(B, n, K) of the student's logits (B, C)."""
        return logits[:, self.union]

    def log_softmax(self, blocks: Tensor) -> Tensor:
        """Log-probabilities of each block's own distribution (B, n, K); zero where an entry does not count."""
        return functional.log_softmax(blocks.masked_fill(~self.valid, -torch.inf), dim=2).masked_fill(~self.valid, 0.0)

    def softmax(self, blocks: Tensor) -> Tensor:
        """Each block's own distribution (B, n, K); zero where an entry does not count."""
        return torch.softmax(blocks.masked_fill(~self.valid, -torch.inf), dim=2)

    def argmax(self, blocks: Tensor) -> Tensor:
        """The index (B, n) of the largest logit in each block."""
        return blocks.masked_fill(~self.valid, -torch.inf).argmax(2)

    def standardize(self, blocks: Tensor) -> Tensor:
        """Each block (B, n, K) with mean zero and standard deviation one over its own entries (Sun et al., CVPR 2024)."""
        count = self.sizes[:, None]
        mean = torch.where(self.valid, blocks, 0.0).sum(2, keepdim=True) / count
        centred = torch.where(self.valid, blocks - mean, 0.0)
        deviation = (centred.square().sum(2, keepdim=True) / (count - 1)).clamp(min=MIN_VARIANCE).sqrt()
        return centred / (deviation + STANDARDIZE_EPSILON)

    def spread(self, values: Tensor) -> Tensor:
        """(B, C): the sum of the blocks (B, n, K), each entry at its class."""
        return values.flatten(1) @ self.one_hot.flatten(0, 1).to(values.dtype)


class Knowledge(NamedTuple):
    """What the teachers say of a batch."""

    blocks: LabelBlocks
    logits: Tensor  # (B, n, K)
    active: Tensor  # bool (B, n), at least one True a row
    labels: Tensor  # int64 (B,), −1 where the label may not be used

    @classmethod
    def of_every_teacher(cls, blocks: LabelBlocks, logits: Tensor) -> "Knowledge":
        """What all say, none of them ruled out, from their logits (B, Σ|Lᵢ|) and no label."""
        active = torch.full((len(logits), len(blocks.sizes)), True, device=logits.device)
        return cls(blocks, blocks.of_teachers(logits, active), active, torch.full((len(logits),), -1, device=logits.device))


@dataclass(frozen=True)
class TargetRules:
    """How the teachers' logits become what the student is to learn: the settings of these names."""

    target: Target
    temperature: float
    standardize_logits: bool
    confidence_temperature: float


@dataclass(frozen=True)
class Distilled:
    """The distillation loss and, for the record, what each teacher had to do with it."""

    losses: Tensor  # (B,), T² included; where an objective relates images to each other, each has an equal part
    weight: Tensor | None  # (B, n): each teacher's share in an image's target, rows sum to one; None where that is no weighted mean
    divergence: Tensor  # (B, n): T² · KL inside each teacher's label set
    agreement: Tensor  # bool (B, n): whether teacher and student prefer the same class of that set


def standardized(logits: Tensor) -> Tensor:
    """Rows (B, C) with mean zero and standard deviation one."""
    mean = logits.mean(1, keepdim=True)
    return (logits - mean) / (logits.var(1, keepdim=True).clamp(min=MIN_VARIANCE).sqrt() + STANDARDIZE_EPSILON)


def distillation(
    logits: Tensor,
    teacher_logits: Tensor,
    active: Tensor,
    labels: Tensor,
    blocks: LabelBlocks,
    rules: TargetRules,
    objective: Objective,
    combine: Combination | None = None,
) -> Distilled:
    """How far the student's ``logits`` (B, C) are from what its ``active`` teachers (B, n) say by ``teacher_logits`` (B, Σ|Lᵢ|).

    Target blocks compares inside each active teacher's label set, and takes the mean over them; the others form one distribution over
    the union. The losses are T² times the divergence of distributions softened by T. ``labels`` (B,), −1 where none may be used, count
    for dkd alone, which takes the target's likeliest class there. Targets that are fitted before training (stacked, balanced) come as
    ``combine``, which needs every teacher's logits.
    """
    target, temperature, standardize = rules.target, rules.temperature, rules.standardize_logits
    said = Knowledge(blocks, blocks.of_teachers(teacher_logits, active), active, labels)
    knowledge, weight = soften(said, rules)
    mine = blocks.of_student(logits)
    inside = (blocks.standardize(mine) if standardize else mine) / temperature
    is_loss = target == "blocks" and objective == "kl"  # else it is but watched
    with torch.set_grad_enabled(torch.is_grad_enabled() and is_loss):
        divergence = block_divergence(inside, knowledge)
    if target == "blocks":
        losses = block_objective(inside, knowledge, objective, divergence)
    else:
        whole = (standardized(logits) if standardize else logits) / temperature
        if combine is None:
            log_target = union_log_probs(knowledge, target, weight)
        else:
            combined = combine(teacher_logits)
            log_target = functional.log_softmax((standardized(combined) if standardize else combined) / temperature, dim=1)
        losses = union_objective(whole, log_target, labels, objective)
    agreement = blocks.argmax(inside) == blocks.argmax(knowledge.logits)
    is_mean = combine is None and target != "joint"
    return Distilled(temperature**2 * losses, weight if is_mean else None, temperature**2 * divergence.detach(), agreement)


def soften(said: Knowledge, rules: TargetRules) -> tuple[Knowledge, Tensor]:
    """What the teachers have ``said``, as the student is to learn it: divided by the temperature; and each teacher's weight (B, n)."""
    softened = said._replace(logits=said.logits / rules.temperature)
    weight = confidence_weights(softened, rules.confidence_temperature) if rules.target == "confidence" else equal_weights(softened)
    if rules.standardize_logits:  # which makes all teachers equally sure
        softened = said._replace(logits=said.blocks.standardize(said.logits) / rules.temperature)
    return softened, weight


def equal_weights(knowledge: Knowledge) -> Tensor:
    """(B, n): one over the number of an image's active teachers."""
    return knowledge.active / knowledge.active.sum(1, keepdim=True)


def confidence_weights(knowledge: Knowledge, temperature: float) -> Tensor:
    """(B, n): softmax(s / τ) of the active teachers' confidences sᵢ = 1 − H(pᵢ) / log|Lᵢ| (MUKI, Li et al., 2022)."""
    blocks = knowledge.blocks
    entropy = -(blocks.softmax(knowledge.logits) * blocks.log_softmax(knowledge.logits)).sum(2)  # (B, n)
    confidence = 1 - entropy / blocks.sizes.log()
    return torch.softmax((confidence / temperature).masked_fill(~knowledge.active, -torch.inf), dim=1)


def union_log_probs(knowledge: Knowledge, target: Target, weight: Tensor) -> Tensor:
    """One distribution over the union (B, C) from the teachers alone: the joint estimate, or the mean by each teacher's weight (B, n)."""
    match target:
        case "joint":
            return joint_log_probs(knowledge)
        case "mean" | "confidence":
            return mean_log_probs(knowledge, weight)
        case "blocks" | "stacked" | "balanced":
            raise ValueError(f"target {target} is no distribution that the teachers' answers to an image give by themselves")


def joint_log_probs(knowledge: Knowledge) -> Tensor:
    """The active teachers' joint estimate (B, C)."""
    blocks = knowledge.blocks
    return functional.log_softmax(joint_estimate(blocks.log_softmax(knowledge.logits), knowledge.active, blocks.one_hot), dim=1)


def mean_log_probs(knowledge: Knowledge, weight: Tensor) -> Tensor:
    """The mean of the teachers' zero-padded distributions (B, C) by weights (B, n), minus infinity where no teacher leaves a class
    anything."""
    blocks = knowledge.blocks
    return blocks.spread(blocks.softmax(knowledge.logits) * weight[..., None]).log()


def union_objective(logits: Tensor, log_target: Tensor, labels: Tensor, objective: Objective) -> Tensor:
    """The objective (B,) between a target (B, C), by its log-probabilities, and the student's ``logits`` (B, C) / T, T² left out."""
    every, log_student = torch.ones_like(log_target, dtype=torch.bool), functional.log_softmax(logits, dim=1)
    match objective:
        case "kl":
            return kl(log_target, log_student)
        case "dist":
            return dist(torch.softmax(logits, dim=1), log_target.exp(), every).expand(len(logits))
        case "dkd":
            main_class = functional.one_hot(torch.where(labels < 0, log_target.argmax(1), labels), log_target.shape[1]).bool()
            return dkd(log_target.clamp(min=MIN_LOG_PROB), log_student, main_class, every)


def block_objective(logits: Tensor, knowledge: Knowledge, objective: Objective, divergence: Tensor) -> Tensor:
    """The objective (B,) inside each active teacher's label set (B, n, K), mean over an image's active teachers; T² left out.

    That of kl is the ``divergence`` (B, n) there. That of dist, which relates images to each other, is a mean over all pairs of an image
    and an active teacher.
    """
    match objective:
        case "kl":
            return _mean_of_active(divergence, knowledge.active)
        case "dist":
            return _block_dist(logits, knowledge).expand(len(logits))
        case "dkd":
            return _mean_of_active(_block_dkd(logits, knowledge), knowledge.active)


def _mean_of_active(values: Tensor, active: Tensor) -> Tensor:
    """(B,) of (B, n)."""
    return torch.where(active, values, 0.0).sum(1) / active.sum(1)


def _block_dist(logits: Tensor, knowledge: Knowledge) -> Tensor:
    """DIST inside each teacher's label set (B, n, K), over the images on which it is active; mean over all such pairs."""
    blocks, active = knowledge.blocks, knowledge.active
    distributions = blocks.softmax(logits), blocks.softmax(knowledge.logits), active[..., None] & blocks.valid
    of_student, of_teacher, counted = (values.transpose(0, 1) for values in distributions)  # (n, B, K)
    return (dist(of_student, of_teacher, counted) * active.sum(0)).sum() / active.sum()


def _block_dkd(logits: Tensor, knowledge: Knowledge) -> Tensor:
    """DKD inside each teacher's label set (B, n)."""
    blocks = knowledge.blocks
    known = (blocks.union == knowledge.labels[:, None, None]) & blocks.valid  # (B, n, K)
    likeliest = functional.one_hot(blocks.argmax(knowledge.logits), known.shape[2]).bool()
    main_class = torch.where((knowledge.labels < 0)[:, None, None], likeliest, known)
    return dkd(blocks.log_softmax(knowledge.logits), blocks.log_softmax(logits), main_class, blocks.valid)


def block_divergence(logits: Tensor, knowledge: Knowledge) -> Tensor:
    """KL(pᵢ ‖ q̂ᵢ) inside each teacher's label set (B, n) (UHC's cross-entropy, Vongkulbhisal et al., CVPR 2019)."""
    blocks = knowledge.blocks
    return kl(blocks.log_softmax(knowledge.logits).masked_fill(~blocks.valid, -torch.inf), blocks.log_softmax(logits))


def kl(log_target: Tensor, log_student: Tensor) -> Tensor:
    """KL(target ‖ student) over the last dimension, from log-probabilities; entries of probability zero count nothing."""
    target = log_target.exp()
    return torch.where(target > 0, target * (log_target - log_student), 0.0).sum(-1)


def dkd(log_target: Tensor, log_student: Tensor, main_class: Tensor, valid: Tensor) -> Tensor:
    """Decoupled distillation over the last dimension (Zhao et al., CVPR 2022): the ``main_class``, a mask with one True, against the
    others, and the others among themselves, however little the target leaves them; nothing if it leaves them none.

    Both come as log-probabilities. Entries that are not ``valid`` are padding.
    """
    others = valid & ~main_class

    def parts(log_probs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the main class, of all others together, and of each of the others among them."""
        rest = torch.logsumexp(log_probs.masked_fill(~others, MIN_LOG_PROB), dim=-1)
        return torch.where(main_class, log_probs, 0.0).sum(-1), rest, (log_probs - rest[..., None]).masked_fill(~others, 0.0)

    (target_main, target_rest, target_others), (main, rest, student_others) = parts(log_target), parts(log_student)
    binary = target_main.exp() * (target_main - main) + target_rest.exp() * (target_rest - rest)
    among = (target_others.exp() * (target_others - student_others)).sum(-1)
    return DKD_TARGET * binary + DKD_OTHERS * torch.where(target_rest > MIN_LOG_PROB / 2, among, 0.0)


def dist(student: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """DIST (Huang et al., NeurIPS 2022): one minus Pearson's correlation, over rows and over columns, of (…, B, K); mean of each.

    Entries that are not ``counted`` (…, B, K) are left out, and so are rows and columns with fewer than two.
    """
    rows = _relation(student, target, counted)
    columns = _relation(student.transpose(-1, -2), target.transpose(-1, -2), counted.transpose(-1, -2))
    return DIST_ROWS * rows + DIST_COLUMNS * columns


def _relation(student: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Mean over rows of 1 − correlation along the last dimension: (…,)."""
    count = counted.sum(-1, keepdim=True)

    def centred(values: Tensor) -> Tensor:
        mean = torch.where(counted, values, 0.0).sum(-1, keepdim=True) / count.clamp(min=1)
        return torch.where(counted, values - mean, 0.0)

    correlation = functional.cosine_similarity(centred(student), centred(target), dim=-1, eps=PEARSON_EPSILON)
    used = (count >= 2).squeeze(-1)
    return torch.where(used, 1 - correlation, 0.0).sum(-1) / used.sum(-1).clamp(min=1)


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of logits (B, C) with labels (B,), zero for an image whose label is −1 and may not be used; mean over the batch.

    ``smoothing``, from 0 to below 1, is the share of a label that is spread over all classes.
    """
    return functional.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=smoothing, reduction="sum") / len(labels)
