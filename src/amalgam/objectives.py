"""How far a student's distribution is from what it is taught: KL, DKD and DIST, over the union or inside each teacher's label set.

Shapes as in blocks.py; T is the temperature.
"""

import torch
from torch import Tensor
from torch.nn import functional

from amalgam.blocks import Knowledge
from amalgam.soft_targets import equal_weights
from amalgam.target_names import Objective

DKD_TARGET, DKD_OTHERS = 1.0, 8.0  # weights of DKD's two parts (Zhao et al., CVPR 2022, CIFAR-100)
DIST_ROWS, DIST_COLUMNS = 1.0, 1.0  # weights of DIST's two relations (Huang et al., NeurIPS 2022)
PEARSON_EPSILON = 1e-8
TINY = 1e-12  # of a sum of weights that is none
MIN_LOG_PROB = -1e30  # of probability zero: finite, so that no gradient is undefined

Parts = dict[str, Tensor]  # an objective's addends, weighted, by their names in the paper


def union_objective(logits: Tensor, log_target: Tensor, labels: Tensor, objective: Objective) -> Parts:
    """The objective (B,) between a target (B, C), by its log-probabilities, and the student's ``logits`` (B, C) / T, T² left out."""
    every, log_student = torch.ones_like(log_target, dtype=torch.bool), functional.log_softmax(logits, dim=1)
    match objective:
        case "kl":
            return {"kl": kl(log_target, log_student)}
        case "dist":
            parts = dist(torch.softmax(logits, dim=1), log_target.exp(), every.to(logits.dtype))
            return {name: part.expand(len(logits)) for name, part in parts.items()}
        case "dkd":
            main_class = functional.one_hot(torch.where(labels < 0, log_target.argmax(1), labels), log_target.shape[1]).bool()
            return dkd(log_target.to(logits.dtype).clamp(min=MIN_LOG_PROB), log_student, main_class, every)


def block_objective(logits: Tensor, knowledge: Knowledge, objective: Objective, divergence: Tensor) -> Parts:
    """The objective (B,) inside each active teacher's label set (B, n, K), mean over an image's active teachers; T² left out.

    That of kl is the ``divergence`` (B, n) there. In that of dist, which relates images to each other, each image counts with its active
    teachers as one.
    """
    match objective:
        case "kl":
            return {"kl": _mean_of_active(divergence, knowledge.active)}
        case "dist":
            return {name: part.expand(len(logits)) for name, part in _block_dist(logits, knowledge).items()}
        case "dkd":
            return {name: _mean_of_active(part, knowledge.active) for name, part in _block_dkd(logits, knowledge).items()}


def _mean_of_active(values: Tensor, active: Tensor) -> Tensor:
    """(B,) of (B, n)."""
    return torch.where(active, values, 0.0).sum(1) / active.sum(1)


def _block_dist(logits: Tensor, knowledge: Knowledge) -> Parts:
    """DIST (one number a part) inside each teacher's label set (B, n, K): an image counts there by one over the number of its active
    teachers, and nothing where the teacher is not one of these; mean over teachers by what their images count."""
    blocks, share = knowledge.blocks, equal_weights(knowledge)  # (B, n)
    distributions = blocks.softmax(logits), blocks.softmax(knowledge.logits), share[..., None] * blocks.valid
    of_student, of_teacher, counted = (values.transpose(0, 1) for values in distributions)  # (n, B, K)
    parts = dist(of_student, of_teacher, counted)
    return {name: (part * share.sum(0)).sum() / len(share) for name, part in parts.items()}


def _block_dkd(logits: Tensor, knowledge: Knowledge) -> Parts:
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


def dkd(log_target: Tensor, log_student: Tensor, main_class: Tensor, valid: Tensor) -> Parts:
    """Decoupled distillation (…,) over the last dimension (Zhao et al., CVPR 2022): the ``main_class``, a mask with one True, against the
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
    others_part = torch.where(target_rest > MIN_LOG_PROB / 2, among, 0.0)
    return {"target_class": DKD_TARGET * binary, "non_target_classes": DKD_OTHERS * others_part}


def dist(student: Tensor, target: Tensor, counted: Tensor) -> Parts:
    """DIST (…,) of (…, B, K) (Huang et al., NeurIPS 2022): one minus Pearson's correlation, over rows and over columns; mean of each.

    How much each entry counts, ``counted`` (…, B, K), is its weight in the correlations, and a row's in the mean of rows. Rows and columns
    with fewer than two entries that count are left out.
    """
    rows = _relation(student, target, counted)
    columns = _relation(student.transpose(-1, -2), target.transpose(-1, -2), counted.transpose(-1, -2))
    return {"inter_class": DIST_ROWS * rows, "intra_class": DIST_COLUMNS * columns}


def _relation(student: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Mean over rows of 1 − correlation along the last dimension: (…,)."""
    total = counted.sum(-1, keepdim=True).clamp(min=TINY)

    def centred(values: Tensor) -> Tensor:
        mean = torch.where(counted > 0, values * counted, 0.0).sum(-1, keepdim=True) / total
        return torch.where(counted > 0, (values - mean) * counted.sqrt(), 0.0)

    correlation = functional.cosine_similarity(centred(student), centred(target), dim=-1, eps=PEARSON_EPSILON)
    weight = torch.where((counted > 0).sum(-1) >= 2, counted.amax(-1), 0.0)
    return (weight * (1 - correlation)).sum(-1) / weight.sum(-1).clamp(min=TINY)
