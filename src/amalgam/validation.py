"""How good a network's weights are on validation images, and which of two epochs' are kept."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional


class Validation(NamedTuple):
    """How good the weights are on the validation images."""

    loss: float  # mean cross-entropy
    accuracy: float  # 0 … 1
    score: float | None = None  # what chooses the epoch where not these, the higher the better
    error: float = 0.0  # the score's standard error: among epochs that it cannot tell apart, the latest is kept

    @property
    def rank(self) -> tuple[float, float]:
        return (self.accuracy, -self.loss) if self.score is None else (self.score, 0.0)

    def is_kept(self, best: "Validation") -> bool:
        """Whether these weights take the place of those that ranked ``best`` before."""
        if self.score is None or best.score is None:
            return self.rank > best.rank
        return self.score >= best.score - best.error


def validated(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Validation:
    """Mean cross-entropy and accuracy of logits (N, C) for labels (N,), each of a class."""
    known = torch.from_numpy(labels)
    values = torch.from_numpy(logits)
    accuracy = (values.argmax(1) == known).double().mean().item()
    return Validation(functional.cross_entropy(values, known).item(), accuracy)
