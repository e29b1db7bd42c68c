"""Balancing: what the images without label tell together, where their classes are about equally frequent.

A teacher's answer to an image of a class that it does not know is no smaller than its answer to one that it knows, and where the label
sets are disjoint nothing ties the teachers' scales together. But a class that too few images are assigned to is one that its
teachers score too low beside the others. So each class is given a weight, with which all classes are equally frequent over the images:
the optimal transport between images and classes with entropic regularisation (Cuturi, *Sinkhorn Distances*, NeurIPS 2013; with a
network's distributions as its cost, Asano et al., *Self-labelling via simultaneous clustering and representation learning*, ICLR 2020).
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from amalgam.blocks import Knowledge, LabelBlocks
from amalgam.soft_targets import joint_log_probs

REGULARISATION = 0.25  # ε at temperature 1: lower makes the plan, and so the target, more decided (docs/experiments.md)
ITERATIONS = 1_000
TOLERANCE = 1e-9  # of each class's frequency


@dataclass(frozen=True)
class Balancing:
    """From all teachers' logits to log-probabilities over the union: of P^(1/ε) · w^(1/ε), normalised, for their common distribution P."""

    blocks: LabelBlocks
    weight: Tensor  # (C,): log w, in double precision

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, C) of the teachers' logits (B, Σ|Lᵢ|)."""
        found = torch.log_softmax((consensus_log_probs(logits, self.blocks) + self.weight) / REGULARISATION, dim=1)
        return found.to(torch.promote_types(logits.dtype, torch.float32))


def consensus_log_probs(logits: Tensor, blocks: LabelBlocks) -> Tensor:
    """The teachers' joint estimate (B, C) from their logits (B, Σ|Lᵢ|), no teacher ruled out, in double precision.

    However small it is, it counts: beside a teacher of far larger logits all classes of another one may be next to nothing.
    """
    return joint_log_probs(Knowledge.of_every_teacher(blocks, logits.double()))


def fit_balancing(logits: npt.NDArray[np.floating], blocks: LabelBlocks, temperature: float = 1) -> Balancing:
    """The weights under which every class is equally frequent over images of which all teachers' logits (N, Σ|Lᵢ|) are known.

    So it is in the softmax of what ``Balancing`` gives, divided by the ``temperature``.
    """
    epsilon = REGULARISATION * temperature
    log_probs = consensus_log_probs(torch.from_numpy(logits).to(blocks.union.device), blocks)
    weight = torch.zeros(blocks.classes, dtype=torch.float64, device=log_probs.device, requires_grad=True)
    search = torch.optim.LBFGS([weight], max_iter=ITERATIONS, tolerance_grad=TOLERANCE, tolerance_change=0, line_search_fn="strong_wolfe")

    def dual() -> Tensor:
        """Convex in the weights; its gradient is each class's frequency less 1 / C."""
        search.zero_grad()
        value = epsilon * torch.logsumexp((log_probs + weight) / epsilon, dim=1).mean() - weight.mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(dual)  # type: ignore[no-untyped-call]
    found = weight.detach()
    return Balancing(blocks, found - found.mean())
