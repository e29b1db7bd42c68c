"""Whether a student can be trained, and a given one evaluated, by the settings at all: asked before teachers run for it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from amalgam.dataset import LabelSets, PreparedSplit, visible_labels
from amalgam.errors import UserError
from amalgam.files import read_json
from amalgam.given_student import CHECKPOINT_MANIFEST, other_images
from amalgam.params import Params
from amalgam.places import SUPPLIED_CHECKPOINTS
from amalgam.processes import PROCESSES_VARIABLE, processes_asked_for
from amalgam.student_settings import StudentSettings
from amalgam.students import Architecture, check_possible
from amalgam.teaching import Teaching, unlearnable


def check_labels(task: str, settings: StudentSettings, label_sets: LabelSets, labels: npt.NDArray[np.int64]) -> None:
    """Raises UserError if the student is to use labels and no training image (−1: it has none) has one, or if all have one and so no
    teacher compares what the student is to know: before teachers run for nothing."""
    shown = visible_labels(labels, label_sets.classes, settings.label_fraction, seed=0)  # the seed says which, not how many
    if problem := unlearnable(label_sets, Teaching.of(settings), shown):
        raise UserError(f"{task}: {problem}")


def check_split(task: str, params: Params, split: PreparedSplit) -> None:
    """Raises UserError if shifts would leave little of a task's images, or an evaluation's checkpoint learnt from others."""
    crop, (height, width) = params.source_block.augmentation.crop, split.images.shape[1:3]
    if 2 * crop >= min(height, width):
        raise UserError(
            f"{params.source}.augmentation.crop {crop} shifts images of {task}, {height} × {width} pixels as stored, by half their side or "
            f"more, so that a view may show more of their reflection than of them; lower it, to {min(height, width) // 8} say, or raise "
            f"{params.source}.resolution"
        )
    given = SUPPLIED_CHECKPOINTS / task / CHECKPOINT_MANIFEST
    if given.is_file() and (problem := other_images(read_json(given), split)):
        raise UserError(f"evaluate.checkpoint.{task}: {problem}")


def check_student(settings: StudentSettings, classes: Sequence[str], weights: Path | None = None) -> None:
    """Raises UserError if there can be no such student of these classes, or not in so many processes: before teachers run for it.

    Its file of weights, where it starts from one, is left to the stage that copies it, unless given.
    """
    if settings.compile and processes_asked_for() > 1:
        raise UserError(f"compile true is for one process; set it to false, or {PROCESSES_VARIABLE} to 1")

    pretrained = settings.pretrained and (weights is not None or settings.student_weights is None)
    check_possible(Architecture(settings.student_model, settings.student_resolution, pretrained, weights), classes)
