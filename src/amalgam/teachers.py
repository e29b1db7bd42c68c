"""Teachers: specialists of their own classes with their own preprocessing; their images, and their folder on disk.

::

    models/<task>/<teacher>/weights.safetensors    (a supplied one may be program.pt2)
    models/<task>/<teacher>/manifest.json    architecture, classes, preprocessing, sha256, validation accuracy, origin
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.files import sha256_of_arrays
from amalgam.inference import device
from amalgam.models import Classifier, load_classifier, weights_file
from amalgam.places import TEACHER_MANIFEST
from amalgam.provenance import fingerprint
from amalgam.views import Selected

IMAGES_AT_A_TIME = 1024


@dataclass(frozen=True)
class OwnImages:
    """The images of one teacher's classes, memory-mapped."""

    classes: tuple[str, ...]
    images: Selected  # (N, height, width, 3)
    labels: npt.NDArray[np.int64]  # (N,): index into classes
    validation: npt.NDArray[np.bool_]  # (N,)

    @classmethod
    def of(cls, teacher: str, label_sets: LabelSets, split: PreparedSplit) -> "OwnImages":
        columns = label_sets.columns(teacher)
        rows = np.flatnonzero(np.isin(split.labels, columns))
        place = np.full(len(label_sets.classes), -1, dtype=np.int64)
        place[columns] = np.arange(len(columns))
        return cls(label_sets.teachers[teacher], Selected(split.images, rows), place[split.labels[rows]], split.validation[rows])

    @cached_property
    def content(self) -> str:
        """A hash of them all."""
        pixels = hashlib.sha256()
        for start in range(0, len(self.labels), IMAGES_AT_A_TIME):
            pixels.update(self.images[np.arange(start, min(start + IMAGES_AT_A_TIME, len(self.labels)))].data)
        return fingerprint(pixels=pixels.hexdigest(), shape=self.images.shape, rest=sha256_of_arrays(self.labels, self.validation))


def load_teachers(folder: Path, label_sets: LabelSets) -> dict[str, Classifier]:
    """The task's teachers in the order of its parameters. Raises UserError if one knows other classes than it should."""
    teachers = {}
    for name, classes in label_sets.teachers.items():
        teacher = load_classifier(weights_file(folder / name), folder / name / TEACHER_MANIFEST)
        if teacher.classes != classes:
            raise UserError(
                f"teacher {folder / name} knows {', '.join(teacher.classes)}, but the task says {', '.join(classes)}; run dvc repro"
            )
        teachers[name] = teacher.to(device())
    return teachers
