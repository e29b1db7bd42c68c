"""Whether prepared images and teachers are still what ``params.yaml`` says: asked by all that takes them without DVC's having looked."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from amalgam.dataset import MADE_WITH, LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_file
from amalgam.params import Params
from amalgam.params_file import PARAMS_FILE, read_yaml
from amalgam.places import DVC_LOCK, TEACHER_MANIFEST, brought_file
from amalgam.source_settings import SuppliedTeacher
from amalgam.teacher_training import Recipe
from amalgam.teachers import OwnImages


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
