"""The prepared layout: what ``preprocess`` writes for each task and every later stage reads.

::

    outputs/prepared/<task>/trainval/classes.json    the union's classes, and each teacher's
    outputs/prepared/<task>/trainval/images.npy      uint8 (N, height, width, 3), to be memory-mapped
    outputs/prepared/<task>/trainval/labels.npy      int64 (N,): index into the union's classes, −1 for an image without label
    outputs/prepared/<task>/trainval/validation.npy  bool (N,): the images held out to choose the best epoch
    outputs/prepared/<task>/trainval/names.txt       N lines: where each image came from
    outputs/prepared/<task>/trainval/content.json    sha256 of images, labels and split
    outputs/prepared/<task>/trainval/settings.json   what they were made with, which trainings check
    outputs/prepared/<task>/test/…                   the same, without settings.json, no image held out
"""

import difflib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from amalgam.errors import UserError, listed
from amalgam.files import Lines, read_json, write_json

MADE_WITH = "settings.json"
NAMED = 30  # classes, in a message


@dataclass(frozen=True)
class LabelSets:
    """Which classes a task has, and which of them each teacher knows."""

    classes: tuple[str, ...]
    teachers: dict[str, tuple[str, ...]]

    @classmethod
    def of_task(cls, teachers: Mapping[str, Sequence[str]], available: Sequence[str], source: str, task: str) -> "LabelSets":
        """The union in the data's own order of classes. Raises UserError on a class that the data lacks."""
        problems = [
            f"{source}.tasks.{task}.{teacher}: the data has no class '{name}'; {_nearest(name, available)}"
            for teacher, classes in teachers.items()
            for name in classes
            if name not in available
        ]
        if problems:
            raise UserError("\n".join(problems))
        known = {name for classes in teachers.values() for name in classes}
        union = tuple(name for name in available if name in known)
        return cls(union, {name: tuple(c for c in union if c in classes) for name, classes in teachers.items()})

    @classmethod
    def read(cls, folder: Path) -> "LabelSets":
        table = read_json(folder / "classes.json")
        return cls(tuple(table["classes"]), {name: tuple(classes) for name, classes in table["teachers"].items()})

    def write(self, folder: Path) -> None:
        write_json(folder / "classes.json", {"classes": self.classes, "teachers": self.teachers})

    def columns(self, teacher: str) -> list[int]:
        """The union's indices of a teacher's classes, in the teacher's order."""
        return [self.classes.index(name) for name in self.teachers[teacher]]

    def covering(self) -> npt.NDArray[np.bool_]:
        """(teachers, classes): whether the teacher knows the class."""
        return np.array([[name in known for name in self.classes] for known in self.teachers.values()])

    def asked(self) -> npt.NDArray[np.bool_]:
        """(classes + 1, teachers): who is asked about an image by its label: those that know it; all by −1, for no label, the last row."""
        return np.append(self.covering().T, np.full((1, len(self.teachers)), True), axis=0)


def _nearest(name: str, available: Sequence[str]) -> str:
    if close := difflib.get_close_matches(name, available, n=1):
        return f"did you mean '{close[0]}'?"
    return f"it has {listed(available, NAMED)}"


@dataclass(frozen=True)
class PreparedSplit:
    """Images, memory-mapped, and labels of one task."""

    images: npt.NDArray[np.uint8]  # (N, height, width, 3)
    labels: npt.NDArray[np.int64]  # (N,), −1 for an image without label
    validation: npt.NDArray[np.bool_]  # (N,)
    names: Sequence[str]
    content: str  # sha256

    @classmethod
    def read(cls, folder: Path) -> "PreparedSplit":
        return cls(
            images=np.load(folder / "images.npy", mmap_mode="r"),
            labels=np.load(folder / "labels.npy"),
            validation=np.load(folder / "validation.npy"),
            names=Lines(folder / "names.txt"),
            content=read_json(folder / "content.json")["sha256"],
        )

    @property
    def training_rows(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(~self.validation)

    @property
    def validation_rows(self) -> npt.NDArray[np.int64]:
        return np.flatnonzero(self.validation)


def validation_mask(labels: npt.NDArray[np.int64], classes: Sequence[str], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Hold out ``fraction`` of each class, rounded, at least one image and never all (bool (N,)); none at fraction 0, nor of images
    without label.

    The choice within a class depends on the seed, the class's name and its images alone, so that a change of one class
    moves no image of another. Raises UserError if a class has a single image, of which none can be held out.
    """
    mask = np.zeros(len(labels), dtype=bool)
    if fraction == 0:
        return mask
    for rows, name, random in _classes_in_turn(labels, classes, [seed]):
        if len(rows) == 1:
            raise UserError(f"class '{name}' has 1 training image; val_fraction {fraction} needs two (or set val_fraction to 0)")
        if len(rows):
            count = min(max(round(fraction * len(rows)), 1), len(rows) - 1)
            mask[random.permutation(rows)[:count]] = True
    return mask


def visible_labels(labels: npt.NDArray[np.int64], classes: Sequence[str], fraction: float, seed: int) -> npt.NDArray[np.int64]:
    """The labels (N,) of ``fraction`` of each class, rounded, at least one unless ``fraction`` is 0; −1 for the others.

    A larger fraction shows those of a smaller one, and more.
    """
    shown = np.full_like(labels, -1)
    if fraction > 0:
        for rows, _, random in _classes_in_turn(labels, classes, [seed, 1]):
            chosen = random.permutation(rows)[: max(round(fraction * len(rows)), 1)]
            shown[chosen] = labels[chosen]
    return shown


def _classes_in_turn(
    labels: npt.NDArray[np.int64], classes: Sequence[str], seed: list[int]
) -> Iterator[tuple[npt.NDArray[np.int64], str, np.random.Generator]]:
    """Each class's rows and name, with a generator of its own that follows from the seed and the name."""
    for label, name in enumerate(classes):
        own = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
        yield np.flatnonzero(labels == label), name, np.random.default_rng([seed[0], own, *seed[1:]])
