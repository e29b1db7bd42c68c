"""Logits of several teachers, and of a student inside each one's label set, as padded blocks for batched arithmetic.

B images, C classes in the union, n teachers. Teacher i knows the classes Lᵢ, indices into the union; the teachers' logits
stand side by side in one tensor (B, Σ|Lᵢ|), in the teachers' order. For an image only some teachers are *active*: those that
know its class where its label is used, all of them where not. Logits of the others are ignored and may be NaN.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from amalgam.dataset import LabelSets

STANDARDIZE_EPSILON = 1e-7
MIN_VARIANCE = 1e-12


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
        self.knows, self.places = self.one_hot.any(1), self.one_hot.argmax(1)  # (n, C): whether a teacher knows a class, and as which

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

    def spread_logs(self, values: Tensor) -> Tensor:
        """(B, C): the logarithm of the blocks' sum, each entry at its class, from logarithms (B, n, K); minus infinity where it is zero."""
        of_classes = values.gather(2, self.places.expand(len(values), -1, -1)).masked_fill(~self.knows, -torch.inf)  # (B, n, C)
        return of_classes.logsumexp(1)


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


def standardized(logits: Tensor) -> Tensor:
    """Logits over the union (B, C), each row with mean zero and standard deviation one, as LabelBlocks.standardize inside a block."""
    mean = logits.mean(1, keepdim=True)
    return (logits - mean) / (logits.var(1, keepdim=True).clamp(min=MIN_VARIANCE).sqrt() + STANDARDIZE_EPSILON)
