"""Stacking: learning from few labels how the teachers' answers belong together (Wolpert, *Stacked Generalization*, 1992).

No teacher says how likely its classes are beside another's. A linear classifier on all teachers' logits, fitted on the images whose label
may be used, does: a few of each class tell which answers go with which class.

Wolpert fits on answers to images that were held out from the first classifiers. Here there are too few labels for that, and a teacher may
have learnt from the very images, of which its answers are then surer than of new ones: so may what is made of them be.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

INVERSE_PENALTY = 1.0  # scikit-learn's C, on standardised logits, of an image in all its views together
ITERATIONS = 2_000


@dataclass(frozen=True)
class Stacking:
    """From all teachers' logits to logits over the union, calibrated at temperature 1 for images that the teachers know as well as those
    of the fit."""

    weight: Tensor  # (Σ|Lᵢ|, C)
    bias: Tensor  # (C,)

    def __call__(self, logits: Tensor) -> Tensor:
        """(B, C) of the teachers' logits (B, Σ|Lᵢ|)."""
        return logits.float() @ self.weight + self.bias

    def to(self, device: torch.device) -> "Stacking":
        return Stacking(self.weight.to(device), self.bias.to(device))


def fit_stacking(logits: npt.NDArray[np.floating], labels: npt.NDArray[np.int64], views: int = 1) -> Stacking:
    """Fit on teachers' logits (N, Σ|Lᵢ|) of images with labels (N,), at least one of each class.

    Each image is there in so many ``views``: together they count as one, so that more of them make the answer no more certain.
    """
    from sklearn.linear_model import LogisticRegression  # here: it takes a second, and few trainings need it
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scaler = StandardScaler().fit(logits.astype(np.float64))
    with threadpool_limits(torch.get_num_threads()):  # as everything else: how many there are shows in the last bits
        model = LogisticRegression(C=INVERSE_PENALTY / views, max_iter=ITERATIONS).fit(scaler.transform(logits.astype(np.float64)), labels)
    weight, bias = model.coef_.T, model.intercept_
    if len(model.classes_) == 2:  # scikit-learn keeps one of the two
        weight, bias = np.hstack([-weight / 2, weight / 2]), np.concatenate([-bias / 2, bias / 2])
    weight = weight / scaler.scale_[:, None]
    return Stacking(torch.from_numpy(weight).float(), torch.from_numpy(bias - scaler.mean_ @ weight).float())
