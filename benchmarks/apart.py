"""Other training images for the teachers than for the student: specialists seldom come with the images that one has."""

import shutil
from pathlib import Path

import numpy as np
import numpy.typing as npt

from amalgam.dataset import LabelSets, PreparedSplit, visible_labels
from amalgam.files import sha256_of_arrays, write_json

TEACHERS = "teachers"  # the split that they learn from, beside the student's trainval


def part(folder: Path, share: float, seed: int) -> None:
    """Leave in ``folder``'s trainval the student's training images, and put the teachers', so large a share of each class, beside them.

    Both keep all validation images.
    """
    whole, label_sets = PreparedSplit.read(folder / "trainval"), LabelSets.read(folder / "trainval")
    theirs = visible_labels(np.where(whole.validation, -1, whole.labels), label_sets.classes, share, seed) >= 0
    for name, rows in ((TEACHERS, theirs | whole.validation), ("student", ~theirs)):
        write_rows(whole, np.flatnonzero(rows), folder / name)
        label_sets.write(folder / name)
    shutil.rmtree(folder / "trainval")
    (folder / "student").rename(folder / "trainval")


def write_rows(split: PreparedSplit, rows: npt.NDArray[np.int64], folder: Path) -> None:
    """Some rows of a prepared split as a prepared split."""
    folder.mkdir()
    images, labels, validation = split.images[rows], split.labels[rows], split.validation[rows]
    for name, values in (("images", images), ("labels", labels), ("validation", validation)):
        np.save(folder / f"{name}.npy", values)
    (folder / "names.txt").write_text("".join(f"{split.names[row]}\n" for row in rows), encoding="utf-8")
    write_json(folder / "content.json", {"sha256": sha256_of_arrays(images, labels, validation)})
