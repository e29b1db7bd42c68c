"""Trainings and evaluations by hand, outside the pipeline: a folder of their own, nothing of the pipeline's touched.

::

    runs/<date>_<time>_<task>[_<suffix>]/       as outputs/students/<task>/, and
        student_model_epoch<n>_acc<percent>.pth     the best weights as a state dict in the reference system's form
        learning_curve.png, training.log            brought up to date as the training goes
    runs/<date>_<time>_evaluation[_<suffix>]/<task>/    as outputs/evaluation/<task>/
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from amalgam.dataset import MADE_WITH, LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_file, write_json
from amalgam.inference import predict_logits
from amalgam.models import Classifier
from amalgam.params import Params
from amalgam.params_file import PARAMS_FILE, read_yaml
from amalgam.places import DVC_LOCK, RUNS, TEACHER_MANIFEST, brought_file
from amalgam.preprocessing import Preprocessing
from amalgam.source_settings import SuppliedTeacher
from amalgam.states import read_state, write_whole
from amalgam.student_settings import StudentSettings
from amalgam.students import STUDENT_MANIFEST
from amalgam.targets import StoredTargets, ViewSettings, write_targets
from amalgam.teacher_training import Recipe
from amalgam.teachers import OwnImages, load_hashed_teachers
from amalgam.team import Team
from amalgam.trial import Remedies, trial
from amalgam.whole import scratch_folder


def in_pipeline() -> bool:
    """Whether DVC runs this process as a stage."""
    return "DVC_STAGE" in os.environ


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


def prepared(folder: Path) -> tuple[LabelSets, PreparedSplit]:
    """Raises UserError if the pipeline has not made it yet."""
    if not folder.is_dir():
        raise UserError(f"{folder} is missing; dvc repro preprocess makes it")
    return LabelSets.read(folder), PreparedSplit.read(folder)


def check_brought(params: Params) -> None:
    """Raises UserError unless images and supplied teachers came from where ``params`` say, when the pipeline ran last.

    The outputs of a supplied teacher without ``classes`` are in the order of the task's.
    """
    ran = read_yaml(DVC_LOCK.read_text(encoding="utf-8"), str(DVC_LOCK))[0]["stages"] if DVC_LOCK.is_file() else {}
    parts = [("fetch", "fetch"), ("weights", "supplied")]
    if any(given.classes is None for teachers in params.source_block.supplied.values() for given in teachers.values()):
        parts.append(("weights", "tasks"))
    for stage, part in parts:
        name, now = f"{params.source}.{part}", getattr(params.source_block, part)
        then = ran.get(stage, {}).get("params", {}).get(str(PARAMS_FILE), {}).get(name)
        kind: Any = type(params.source_block).model_fields[part].annotation
        try:
            same = then is not None and TypeAdapter(kind).validate_python(then) == now
        except ValidationError:
            same = False
        if not same:
            raise UserError(f"{name} is not what it was when the pipeline's stage {stage} ran last; run dvc repro models.dvc")


def check_made(task: str, folder: Path, models: Path, params: Params) -> None:
    """Raises UserError unless the images in ``folder`` were prepared, and the teachers in ``models`` trained on them, as ``params`` say."""
    check_prepared(task, folder, params)
    check_images(folder, models)
    for name in LabelSets.read(folder).teachers:
        check_recipe(models / name, params)
        check_supplied(models / name, params.source_block.supplied.get(task, {}).get(name))


def check_images(folder: Path, models: Path) -> None:
    """Raises UserError if a teacher in ``models`` was trained on other images than those of its classes in ``folder``: it may have learnt
    test images."""
    if not models.is_dir():
        raise UserError(f"{models} is missing; dvc repro models.dvc makes it")
    label_sets, split = prepared(folder)
    for name in label_sets.teachers:
        images = read_json(models / name / TEACHER_MANIFEST).get("images")
        if images not in (None, OwnImages.of(name, label_sets, split).content):
            raise UserError(
                f"teacher {models / name} was trained on other images, or another split, than are prepared; run dvc repro models.dvc"
            )


def check_prepared(task: str, folder: Path, params: Params) -> None:
    """Raises UserError unless the images in ``folder`` were prepared, and for such teachers, as ``params`` say."""
    before = read_json(folder / MADE_WITH)
    for name, value in params.preparation.items():
        if before[name] != value:
            raise UserError(f"{folder} was made with {name} {before[name]}, params.yaml says {value}; run dvc repro models.dvc")
    said = {name: set(classes) for name, classes in params.source_block.tasks[task].items()}
    if {name: set(classes) for name, classes in LabelSets.read(folder).teachers.items()} != said:
        raise UserError(
            f"{folder} was made for other teachers, or other classes, than params.yaml says; run dvc repro models.dvc (where it finds "
            "nothing to do, as DVC takes 1 and 01 for the same class, dvc repro --force --single-item preprocess before it)"
        )


def check_supplied(teacher: Path, given: SuppliedTeacher | None) -> None:
    """Raises UserError if it is not the one ``given``."""
    known = read_json(teacher / TEACHER_MANIFEST).get("file_sha256")
    if given and (path := brought_file(given.weights)).is_file() and sha256_of_file(path) != known:
        raise UserError(
            f"teacher {teacher} is not what {path} holds; run dvc repro --force --single-item weights, then dvc repro models.dvc"
        )


def check_recipe(teacher: Path, params: Params) -> None:
    """Raises UserError if it was trained here, but otherwise than ``params`` say."""
    recipe = asdict(Recipe.of(params))
    for setting, value in read_json(teacher / TEACHER_MANIFEST).get("recipe", {}).items():
        if value != (now := recipe[setting]):
            raise UserError(f"teacher {teacher} was trained with {setting} {value}, params.yaml says {now}; run dvc repro models.dvc")


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
        folder = team.first(own) / "targets"
        covering_only = settings.stored_teachers == "covering"
        # No name is left with the teachers, so that a GPU is rid of them when the training begins.
        write_targets(folder, split, label_sets, _teachers(models, label_sets, common), views, covering_only, team=team)
        yield StoredTargets.read(folder, split, label_sets)


def check_common(models: Path, label_sets: LabelSets, common: Preprocessing) -> None:
    """Raises UserError if a teacher in ``models`` does not take images of the size that is ``common`` to all: before a folder is made."""
    height, width = common.size
    remedies = Remedies("supply it as a state dict", "name a --student_resolution that all teachers take")
    for name, (teacher, _) in _teachers(models, label_sets, common).items():
        with trial(f"teacher {models / name}", "run", f"images of {height} × {width} pixels", remedies):
            predict_logits(teacher, np.zeros((2, height, width, 3), dtype=np.uint8), np.arange(2))


def _teachers(models: Path, label_sets: LabelSets, common: Preprocessing | None) -> dict[str, tuple[Classifier, str]]:
    known = load_hashed_teachers(models, label_sets)
    if common is None:
        return known
    return {name: (replace(teacher, preprocessing=common), sha256) for name, (teacher, sha256) in known.items()}


def export(folder: Path, task: str) -> Path:
    """Write a trained student's best weights as a state dict under the reference's name for it, and note that in its manifest."""
    manifest = read_json(folder / STUDENT_MANIFEST)
    accuracy = read_json(folder / "metrics.json")[task].get("val_accuracy")
    reached = "" if accuracy is None else f"_acc{accuracy:.2f}"
    path = folder / f"student_model_epoch{manifest['best_epoch']}{reached}.pth"
    state = read_state(folder / "best.safetensors")
    write_whole({f"backbone.{name}": value for name, value in state.items()}, path)
    write_json(folder / STUDENT_MANIFEST, manifest | {"exported": {path.name: sha256_of_file(path)}})
    return path
