"""What a student learns from: the settings of its loss, and the training images whose label or teachers it may use."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from amalgam.contradictions import classes_that_relate, untold, without_labels
from amalgam.dataset import LabelSets, PreparedSplit, visible_labels
from amalgam.errors import UserError
from amalgam.soft_targets import TargetRules
from amalgam.student_settings import StudentSettings
from amalgam.target_names import FITTED_TARGETS, Objective, Target
from amalgam.targets import StoredTargets


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """The settings of these names: what a student's loss is made of, and in which batches."""

    alpha: float
    temperature: float
    target: Target
    objective: Objective
    standardize_logits: bool
    confidence_temperature: float
    label_fraction: float
    label_smoothing: float
    mixup: float
    batch_size: int
    seed: int

    @classmethod
    def of(cls, settings: StudentSettings) -> "Teaching":
        return cls(**settings.shared_with(cls))

    @property
    def is_fitted(self) -> bool:
        """Whether the target has to be fitted to the teachers' answers first."""
        return self.target in FITTED_TARGETS and self.alpha > 0

    @property
    def rules(self) -> TargetRules:
        return TargetRules(self.target, self.temperature, self.standardize_logits, self.confidence_temperature)


def unlearnable(label_sets: LabelSets, teaching: Teaching, labels: npt.NDArray[np.int64]) -> str | None:
    """What training images of these labels (−1: none that may be used) do not tell the student, and the remedy; None if they tell it all.

    If each has a label, teachers alone say nothing, inside each one's classes, of how these relate: of an image without one all are asked.
    """
    if teaching.label_fraction > 0 and not (labels >= 0).any():
        return without_labels(teaching.alpha)
    if teaching.target != "blocks" or teaching.alpha < 1 or (labels < 0).any():
        return None
    problem = untold(label_sets.teachers, classes_that_relate(teaching.objective, teaching.standardize_logits))
    return f"with label_fraction {teaching.label_fraction:g} every training image has its label; {problem}" if problem else None


@dataclass(frozen=True)
class TrainingSubset:
    """The images a student is trained on, M of them."""

    image_rows: npt.NDArray[np.int64]  # (M,) of the prepared split
    target_rows: npt.NDArray[np.int64]  # (M,) of the stored targets
    labels: npt.NDArray[np.int64]  # (M,), −1 where the label may not be used

    @classmethod
    def of(cls, split: PreparedSplit, label_sets: LabelSets, targets: StoredTargets, teaching: Teaching) -> "TrainingSubset":
        """All training images, or those with a label where the teachers have no say.

        Raises UserError if they do not tell what the student is to learn, or the store lacks what they need.
        """
        rows = split.training_rows
        labels = visible_labels(split.labels[rows], label_sets.classes, teaching.label_fraction, targets.settings.data_seed)
        if problem := unlearnable(label_sets, teaching, labels):
            raise UserError(problem)
        needs_all = teaching.label_fraction < 1 or teaching.is_fitted
        if teaching.alpha > 0 and needs_all and targets.stored_teachers != "all":
            raise UserError(
                f"{targets.folder} holds covering teachers only, but label_fraction {teaching.label_fraction:g} with target "
                f"{teaching.target} needs all; set stored_teachers to all"
            )
        kept = np.arange(len(rows)) if teaching.alpha > 0 else np.flatnonzero(labels >= 0)
        if len(kept) == 1:
            raise UserError("there is one training image, and a network's normalisation compares two or more; bring more")
        return cls(rows[kept], kept, labels[kept])
