"""Losses of a student, as pure functions of its logits: from several teachers, and from labels. Shapes as in blocks.py."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from amalgam.blocks import Knowledge, LabelBlocks, standardized
from amalgam.objectives import Parts, block_divergence, block_objective, union_objective
from amalgam.soft_targets import Combination, TargetRules, soften, union_log_probs
from amalgam.target_names import Objective


@dataclass(frozen=True)
class Distilled:
    """The distillation loss and, for the record, what each teacher had to do with it."""

    losses: Tensor  # (B,), T² included; where an objective relates images to each other, each has an equal part
    parts: Parts  # of these losses, by name
    weight: Tensor  # (B, n): each teacher's part in an image's target, in the mean of which it counts so much; of a target over the union
    # that is none's mean (joint, and the fitted ones) what of it is on the teacher's classes, whoever put it there
    divergence: Tensor  # (B, n): T² · KL inside each teacher's label set
    agreement: Tensor  # bool (B, n): whether teacher and student prefer the same class of that set


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
    target, temperature = rules.target, rules.temperature
    said = Knowledge(blocks, blocks.of_teachers(teacher_logits, active), active, labels)
    knowledge, weight = soften(said, rules)
    mine = blocks.of_student(logits)
    inside = (blocks.standardize(mine) if rules.standardize_logits else mine) / temperature
    is_loss = target == "blocks" and objective == "kl"  # else it is but watched
    with torch.set_grad_enabled(torch.is_grad_enabled() and is_loss):
        divergence = block_divergence(inside, knowledge)
    if target == "blocks":
        parts = block_objective(inside, knowledge, objective, divergence)
    else:
        taught = _taught(said, rules, objective) if combine is None else _combined(combine(teacher_logits), rules)
        parts = union_objective(_softened(logits, rules), taught, labels, objective)
        if combine is not None or target == "joint":
            weight = class_shares(taught, blocks, active if combine is None else torch.ones_like(active))
    parts = {name: temperature**2 * part for name, part in parts.items()}
    agreement = blocks.argmax(inside) == blocks.argmax(knowledge.logits)
    return Distilled(torch.stack([*parts.values()]).sum(0), parts, weight, temperature**2 * divergence.detach(), agreement)


def class_shares(log_target: Tensor, blocks: LabelBlocks, asked: Tensor) -> Tensor:
    """(B, n): how much of a target over the union (B, C), by its log-probabilities, is on the classes of each ``asked`` teacher (B, n).

    What is on a class that several of them know is divided among these; what is on one that none of them knows is nobody's.
    """
    knowing = blocks.knows & asked[..., None]  # (B, n, C)
    return (knowing * (log_target.exp() / knowing.sum(1).clamp(min=1))[:, None]).sum(2)


def _softened(logits: Tensor, rules: TargetRules) -> Tensor:
    """Logits over the union (B, C), standardised where the rules say so, divided by the temperature."""
    return (standardized(logits) if rules.standardize_logits else logits) / rules.temperature


def _taught(said: Knowledge, rules: TargetRules, objective: Objective) -> Tensor:
    """Log-probabilities (B, C) of the one distribution that the teachers give, in double precision for dkd: that asks which class is the
    likeliest, and of two teachers that are sure single precision takes the first one's."""
    if objective == "dkd":
        said = said._replace(logits=said.logits.double())
    knowledge, weight = soften(said, rules)
    return union_log_probs(knowledge, rules.target, weight)


def _combined(logits: Tensor, rules: TargetRules) -> Tensor:
    """Log-probabilities (B, C) of a target that was fitted before training, from its logits over the union."""
    return functional.log_softmax(_softened(logits, rules), dim=1)


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy of logits (B, C) with labels (B,), zero for an image whose label is −1 and may not be used; mean over the batch.

    ``smoothing``, from 0 to below 1, is the share of a label that is spread over all classes.
    """
    return functional.cross_entropy(logits, labels, ignore_index=-1, label_smoothing=smoothing, reduction="sum") / len(labels)
