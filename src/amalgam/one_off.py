"""Trainings and evaluations by hand, outside the pipeline: a folder of their own, nothing of the pipeline's touched.

::

    runs/<date>_<time>_<task>[_<suffix>]/       as outputs/students/<task>/, and
        student_model_epoch<n>_acc<percent>.pth     the best weights as a state dict in the reference system's form
        learning_curve.png, training.log            brought up to date as the training goes
    runs/<date>_<time>_evaluation[_<suffix>]/<task>/    as outputs/evaluation/<task>/
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_file, write_json
from amalgam.inference import predict_logits
from amalgam.models import Classifier
from amalgam.params import Params
from amalgam.places import RUNS
from amalgam.preprocessing import Preprocessing
from amalgam.states import read_state, save_torch
from amalgam.student_files import BEST_WEIGHTS, STUDENT_MANIFEST
from amalgam.student_settings import StudentSettings
from amalgam.targets import StoredTargets, ViewSettings, write_targets
from amalgam.teachers import load_teachers
from amalgam.team import Team
from amalgam.trial import Remedies, trial
from amalgam.whole import scratch_folder


def new_folder(*words: str) -> Path:
    """A new folder below ``runs/``, named by the time and what is done."""
    plain = "_".join(re.sub(r"[^\w.+-]+", "-", word) for word in words if word)
    name = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{plain}"
    RUNS.mkdir(exist_ok=True)
    for attempt in range(1000):
        folder = RUNS / (f"{name}_{attempt + 1}" if attempt else name)
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise UserError(f"{RUNS} has a thousand folders {name}; remove some")


@contextmanager
def targets_for(
    split: PreparedSplit,
    label_sets: LabelSets,
    models: Path,
    settings: StudentSettings,
    params: Params,
    common: Preprocessing | None,
    place: Path,
    team: Team,
) -> Iterator[StoredTargets]:
    """What the teachers in ``models`` say of the views that ``settings`` ask for, computed where no stage or earlier training has.

    ``common``, if given, is every teacher's preprocessing in place of its own. The store lies in a temporary folder in ``place``, which
    is gone on exit.
    """
    views = ViewSettings.of(settings, params.source_block.augmentation, params.data_seed)
    with scratch_folder(place / "targets") if team.is_first else nullcontext(Path()) as own:
        folder = team.broadcast(own) / "targets"
        # No name is left with the teachers, so that a GPU is rid of them when the training begins.
        write_targets(folder, split, label_sets, _teachers(models, label_sets, common), views, settings.stored_teachers, team=team)
        yield StoredTargets.read(folder, split, label_sets)


def check_common(models: Path, label_sets: LabelSets, common: Preprocessing) -> None:
    """Raises UserError if a teacher in ``models`` does not take images of the size that is ``common`` to all: before a folder is made."""
    height, width = common.size
    remedies = Remedies("supply it as a state dict", "name a --student_resolution that all teachers take")
    for name, teacher in _teachers(models, label_sets, common).items():
        with trial(f"teacher {models / name}", "run", f"images of {height} × {width} pixels", remedies):
            predict_logits(teacher, np.zeros((2, height, width, 3), dtype=np.uint8), np.arange(2))


def _teachers(models: Path, label_sets: LabelSets, common: Preprocessing | None) -> dict[str, Classifier]:
    known = load_teachers(models, label_sets)
    return {name: replace(teacher, preprocessing=common) for name, teacher in known.items()} if common else known


def write_state_dict(folder: Path, task: str) -> Path:
    """Write a trained student's best weights as a state dict under the reference's name for it, and note that in its manifest."""
    manifest = read_json(folder / STUDENT_MANIFEST)
    accuracy = read_json(folder / "metrics.json")[task].get("val_accuracy")
    reached = "" if accuracy is None else f"_acc{accuracy:.2f}"
    path = folder / f"student_model_epoch{manifest['best_epoch']}{reached}.pth"
    state = read_state(folder / BEST_WEIGHTS)
    save_torch({f"backbone.{name}": value for name, value in state.items()}, path)
    write_json(folder / STUDENT_MANIFEST, manifest | {"exported": {path.name: sha256_of_file(path)}})
    return path
