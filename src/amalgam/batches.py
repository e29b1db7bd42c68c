"""What a training step sees: its images, in which order, and how they are mixed."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from amalgam.team import SOLO, Team
from amalgam.views import Rows


class Mixture(NamedTuple):
    """How the images of a batch were mixed (mixup, Zhang et al., 2018): ``share`` of each, the rest of its partner."""

    partner: Tensor  # int64 (B,): index into the batch
    share: float  # 0 … 1


class Batch(NamedTuple):
    """What one step sees."""

    images: Tensor  # uint8 (B, height, width, 3); in a team, this process's share of them
    labels: Tensor  # int64 (B,); −1 where the label may not be used
    teacher_logits: Tensor | None = None  # (B, Σ|Lᵢ|)
    mixture: Mixture | None = None

    def dominant_labels(self) -> Tensor:
        """The label of what each image shows most of (B,)."""
        mixture = self.mixture
        return self.labels if mixture is None or mixture.share >= 0.5 else self.labels[mixture.partner]

    def partners(self) -> "Batch":
        """The same images, with what belongs to their partners."""
        assert self.mixture is not None
        partner, logits = self.mixture.partner, self.teacher_logits
        return Batch(self.images, self.labels[partner], None if logits is None else logits[partner])


def mixed_images(
    show: Callable[[Rows], Tensor], rows: Rows, strength: float, random: np.random.Generator, part: slice
) -> tuple[Tensor, Mixture | None]:
    """The ``part`` of a batch's images, which ``show`` gives, each mixed with another of the batch: one share λ ~ Beta(strength, strength).

    Strength 0 mixes none.
    """
    images = show(rows[part])
    if strength == 0:
        return images, None
    share, partner = float(random.beta(strength, strength)), random.permutation(len(rows))
    images = (share * images + (1 - share) * show(rows[partner[part]])).round().to(torch.uint8)
    return images, Mixture(torch.from_numpy(partner).to(images.device, non_blocking=True), share)


class BatchOrder(NamedTuple):
    """What an epoch's order follows from."""

    batch_size: int
    seed: int
    epoch: int  # from 0


def mixed_batches(
    show: Callable[[Rows], Tensor], rows: Rows, order: BatchOrder, strength: float, team: Team = SOLO
) -> Iterator[tuple[Rows, Tensor, Mixture | None]]:
    """An epoch of the images of ``rows``, shuffled: each batch's places (B,) in ``rows``, this process's share of its images, and how they
    were mixed."""
    random = np.random.default_rng([order.seed, order.epoch, 1])  # 1: not the stream that shuffles
    for chosen in shuffled_batches(np.arange(len(rows)), *order):
        yield chosen, *mixed_images(show, rows[chosen], strength, random, team.share(len(chosen)))


def shuffled_batches(rows: Rows, batch_size: int, seed: int, epoch: int) -> list[Rows]:
    """The rows in the epoch's own order, in batches that differ in size by one at most: none is left with a single image."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return list(np.array_split(order, steps_per_epoch(len(rows), batch_size)))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Steps of at most ``batch_size`` images, and of at least two (batch norm needs them) even if one must then hold three."""
    return max(min(math.ceil(count / batch_size), count // 2), 1)
