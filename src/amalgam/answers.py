"""What teachers say of images as they are: asked once, and kept in the repository's store."""

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from amalgam import store
from amalgam.dataset import PreparedSplit
from amalgam.inference import predict_logits
from amalgam.models import Classifier
from amalgam.provenance import code_hash, execution_record, fingerprint

Answers = dict[str, npt.NDArray[np.float32]]  # by teacher, its logits (N, |Lᵢ|)


def answers(teachers: dict[str, Classifier], split: PreparedSplit) -> Answers:
    """Every teacher's to every image; a teacher that said it before on this machine is not run."""
    return {name: _of_one(teacher, split) for name, teacher in teachers.items()}


def _of_one(teacher: Classifier, split: PreparedSplit) -> npt.NDArray[np.float32]:
    key = fingerprint(teacher=teacher.identity(), images=split.content, record=execution_record(), code=code_hash(__name__))
    said: npt.NDArray[np.float32] = np.load(store.entry(store.VIEWS, key, partial(_ask, teacher, split)) / "answers.npy")
    return said


def _ask(teacher: Classifier, split: PreparedSplit, folder: Path) -> None:
    np.save(folder / "answers.npy", predict_logits(teacher, split.images, np.arange(len(split.images))))
