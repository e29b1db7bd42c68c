"""A student's folder on disk, and whose weights lie in it.

::

    outputs/students/<task>/best.safetensors   weights of the best validation epoch (the last without a validation split)
    outputs/students/<task>/last.safetensors   weights after the last epoch
    outputs/students/<task>/student.json       manifest: architecture, classes, preprocessing, best epoch, settings, execution,
                                               the teachers that taught it, the images it learnt from
    outputs/students/<task>/history.csv        one row an epoch
    outputs/students/<task>/metrics.json       what DVC compares
    outputs/students/<task>/target.safetensors what a fitted target makes of all teachers' answers (combination.py)
    outputs/students/<task>/run.json           all that its run in MLflow says of it (record.py)
"""

from pathlib import Path
from typing import Any

from amalgam.files import read_object, sha256_of_file

BEST_WEIGHTS, LAST_WEIGHTS = "best.safetensors", "last.safetensors"
STUDENT_MANIFEST = "student.json"


def own_manifest(weights: Path) -> dict[str, Any]:
    """What the student.json beside a file of weights says, if it is about this very file, chosen or last; else nothing.

    Raises UserError if it is damaged.
    """
    found, own = _manifest(weights.parent), sha256_of_file(weights)
    return found if is_chosen(own, weights.parent) or own == found.get("last_sha256") else {}


def is_chosen(weights_sha256: str, folder: Path) -> bool:
    """Whether weights are those that the training in ``folder`` chose, in whichever of its files; not so without such a training."""
    found = _manifest(folder)
    return weights_sha256 in (found.get("weights_sha256"), *found.get("exported", {}).values())


def _manifest(folder: Path) -> dict[str, Any]:
    """What its student.json says; nothing where there is none. Raises UserError if it is damaged."""
    return read_object(folder / STUDENT_MANIFEST) if (folder / STUDENT_MANIFEST).is_file() else {}
