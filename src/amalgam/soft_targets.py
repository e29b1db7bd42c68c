"""What several teachers' answers to an image teach together: inside each one's label set, or as one distribution over the union.

Shapes as in blocks.py.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from amalgam.blocks import Knowledge
from amalgam.joint import joint_estimate
from amalgam.target_names import Target

Combination = Callable[[Tensor], Tensor]  # from all teachers' logits (B, Σ|Lᵢ|) to logits over the union (B, C)


@dataclass(frozen=True)
class TargetRules:
    """How the teachers' logits become what the student is to learn: the settings of these names."""

    target: Target
    temperature: float
    standardize_logits: bool
    confidence_temperature: float


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
            raise AssertionError(f"target {target} is no distribution that the teachers' answers to an image give by themselves")


def joint_log_probs(knowledge: Knowledge) -> Tensor:
    """The active teachers' joint estimate (B, C)."""
    blocks = knowledge.blocks
    return functional.log_softmax(joint_estimate(blocks.log_softmax(knowledge.logits), knowledge.active, blocks.one_hot), dim=1)


def mean_log_probs(knowledge: Knowledge, weight: Tensor) -> Tensor:
    """The mean of the teachers' zero-padded distributions (B, C) by weights (B, n), minus infinity where no teacher leaves a class
    anything."""
    blocks = knowledge.blocks
    return blocks.spread_logs(blocks.log_softmax(knowledge.logits) + weight.log()[..., None])
