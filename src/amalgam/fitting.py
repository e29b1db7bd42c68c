"""Targets that are fitted to the answers of all teachers together, before a student is trained."""

import numpy as np
import numpy.typing as npt

from amalgam.balancing import fit_balancing
from amalgam.blocks import LabelBlocks
from amalgam.combination import FittedTarget
from amalgam.dataset import LabelSets
from amalgam.inference import device
from amalgam.stacking import fit_stacking
from amalgam.targets import StoredTargets
from amalgam.teaching import Teaching, TrainingSubset

MOST_FITTED = 20_000  # images, times views, that a target is fitted to; more change little


def fitted_target(label_sets: LabelSets, targets: StoredTargets, subset: TrainingSubset, teaching: Teaching) -> FittedTarget:
    """Fit the map from all teachers' logits to logits over the union, on a sample of the images, in as many views as the fit can take.

    Target stacked is fitted on the images whose label may be used. Balanced takes all and no label, except that a sample of them holds
    an image of each visible label.
    """
    known = sampled(np.flatnonzero(subset.labels >= 0) if teaching.target == "stacked" else np.arange(len(subset.labels)), subset.labels)
    views = range(min(targets.settings.stored_views, max(MOST_FITTED // len(known), 1)))
    logits = np.concatenate([targets.logits(view)[subset.target_rows[known]] for view in views])
    match teaching.target:
        case "stacked":
            return fit_stacking(logits, np.tile(subset.labels[known], len(views)), len(views)).to(device())
        case "balanced":
            return fit_balancing(logits, LabelBlocks.of(label_sets, device()), teaching.temperature)
        case "mean" | "blocks" | "joint" | "confidence":
            raise AssertionError(f"target {teaching.target} is not fitted")


def sampled(known: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """At most ``MOST_FITTED`` of the places ``known``, drawn at random, in order; at least one of each of their labels."""
    if len(known) <= MOST_FITTED:
        return known
    drawn = np.random.default_rng(0).permutation(known)
    _, first = np.unique(labels[drawn], return_index=True)
    return np.sort(np.concatenate([drawn[first], np.delete(drawn, first)])[:MOST_FITTED])
