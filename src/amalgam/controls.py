"""What the teachers themselves reach on the images on which a student is evaluated.

*Oracle-routed*: someone tells for each image which teachers know its class. *Unrouted*: nobody does. Their answer is the most probable
class of the mean of their zero-padded distributions; unrouted also that of their joint estimate, which is what is best asked of teachers
that share classes, and of the target that the student was taught by, where that was fitted (stacked, balanced): what no student costs.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from amalgam.answers import Answers
from amalgam.blocks import Knowledge, LabelBlocks
from amalgam.dataset import LabelSets
from amalgam.inference import device
from amalgam.soft_targets import Combination, equal_weights, joint_log_probs, mean_log_probs


@dataclass(frozen=True)
class Controls:
    """What the teachers said of N images, and whether it was right."""

    own: dict[str, float]  # each teacher's accuracy on the images of its own classes, in percent
    oracle_right: npt.NDArray[np.bool_]  # (N,)
    unrouted_right: npt.NDArray[np.bool_]  # (N,)
    unrouted_joint_right: npt.NDArray[np.bool_]  # (N,)
    choices: npt.NDArray[np.int64]  # (teachers, N): the union's index of each teacher's most probable class
    unrouted_fitted_right: npt.NDArray[np.bool_] | None = None  # (N,); where the student's target was fitted

    @property
    def oracle_routed(self) -> float:
        """Accuracy in percent."""
        return percent(self.oracle_right)

    @property
    def unrouted(self) -> float:
        """Accuracy in percent."""
        return percent(self.unrouted_right)

    @property
    def unrouted_joint(self) -> float:
        """Accuracy in percent."""
        return percent(self.unrouted_joint_right)

    @property
    def unrouted_fitted(self) -> float | None:
        """Accuracy in percent."""
        return None if self.unrouted_fitted_right is None else percent(self.unrouted_fitted_right)


def percent(right: npt.NDArray[np.bool_]) -> float:
    return round(100 * float(right.mean()), 2)


def teacher_controls(logits: Answers, label_sets: LabelSets, labels: npt.NDArray[np.int64], combine: Combination | None = None) -> Controls:
    """By the teachers' ``logits`` of N images that show ``labels`` (N,); ``combine`` is the student's fitted target.

    What they say is put together in double precision: in single precision the probabilities of two teachers that are both sure are the
    same, one, and the first of them would win.
    """
    covering = torch.from_numpy(label_sets.covering().T[labels])  # (N, teachers)
    side_by_side = torch.from_numpy(np.concatenate(list(logits.values()), axis=1)).double()
    every, blocks = torch.ones_like(covering), LabelBlocks.of(label_sets)
    return Controls(
        {name: own_accuracy(values, label_sets.columns(name), labels) for name, values in logits.items()},
        routed_right(side_by_side, covering, blocks, labels, padded_mean),
        routed_right(side_by_side, every, blocks, labels, padded_mean),
        routed_right(side_by_side, every, blocks, labels, joint_log_probs),
        np.stack([np.array(label_sets.columns(name))[values.argmax(1)] for name, values in logits.items()]),
        None if combine is None else combine(side_by_side.to(device())).argmax(1).cpu().numpy() == labels,
    )


def own_accuracy(logits: npt.NDArray[np.float32], columns: list[int], labels: npt.NDArray[np.int64]) -> float:
    """A teacher's accuracy, in percent, on the images of its own classes; ``columns`` are these in the union, ascending."""
    own = np.isin(labels, columns)
    return percent(logits[own].argmax(1) == np.searchsorted(columns, labels[own]))


def routed_right(
    logits: torch.Tensor,
    active: torch.Tensor,
    blocks: LabelBlocks,
    labels: npt.NDArray[np.int64],
    together: Callable[[Knowledge], torch.Tensor],
) -> npt.NDArray[np.bool_]:
    """Whether what the active teachers say ``together`` (N, C) is right (N,); logits (N, Σ|Lᵢ|), active (N, teachers)."""
    knowledge = Knowledge(blocks, blocks.of_teachers(logits, active), active, torch.from_numpy(labels))
    right: npt.NDArray[np.bool_] = together(knowledge).argmax(1).numpy() == labels
    return right


def padded_mean(knowledge: Knowledge) -> torch.Tensor:
    """The log of the mean of the active teachers' zero-padded distributions (N, C)."""
    return mean_log_probs(knowledge, equal_weights(knowledge))
