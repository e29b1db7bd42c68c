"""Files that the user brings: DVC sees which ones params.yaml names, not that one of them has become another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amalgam.errors import UserError, listed
from amalgam.files import read_json, sha256_of_file
from amalgam.params import Params
from amalgam.places import (
    DATA,
    FETCHED,
    MODELS,
    OUTPUTS,
    SUPPLIED_CHECKPOINTS,
    SUPPLIED_TEACHERS,
    SUPPLIED_WEIGHTS,
    TEACHER_MANIFEST,
    WEIGHTS_FILE,
    brought_file,
    expanded,
    repository_root,
)
from amalgam.source_settings import TASK_NAME

EMPTIED = (str(DATA), str(MODELS), OUTPUTS, FETCHED)
TEACHERS_FILES = (WEIGHTS_FILE, "program.pt2")  # in a teacher's folder below models/
NAMED = 5  # stray files, in a message


def refuse_emptied(named: str, what: str) -> None:
    """Raise UserError where a setting names what lies in a folder of the pipeline's: DVC removes from it what the pipeline did not make.

    Weights that the pipeline fetched, and its teachers, may be named. Not so its students: a training that starts from one would replace
    it by its own result.
    """
    path = (repository_root() / expanded(named.removeprefix("file://"), what)).resolve()
    parts = path.relative_to(repository_root()).parts if path.is_relative_to(repository_root()) else ()
    of_the_pipeline = parts[:2] == ("fetched", "models") or (parts[:1] == ("models",) and len(parts) == 4 and parts[3] in TEACHERS_FILES)
    if parts[:1] and parts[0] in EMPTIED and not of_the_pipeline:
        raise UserError(f"{what}: {path} lies in {parts[0]}/, which the pipeline empties; copy it elsewhere, to photos/ say, and name that")


def refuse_misplaced(params: Params) -> None:
    """Raise UserError if a file that ``params`` name lies where the pipeline would remove it."""
    for what, named, *_ in _copied(params):
        refuse_emptied(named, what)


def refuse_strays() -> None:
    """Raise UserError where the folders that ``data.dvc`` and ``models.dvc`` are about to fill hold files of the user's: DVC would remove
    them without a word."""
    strays = [] if (DATA / "dataset.json").exists() else _visible(DATA)
    strays += [path for path in _visible(MODELS) if not (path.is_dir() and TASK_NAME.fullmatch(path.name))]
    if strays:
        raise UserError(
            f"{listed(strays, NAMED)}: the pipeline fills data/ and models/ itself and would remove what else lies there; move it elsewhere"
        )


def _visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*") if not path.name.startswith("."))


def refuse_changed(params: Params) -> None:
    """Raise UserError if a file that ``params`` name is no longer the one that stage ``weights`` copied."""
    for what, named, about, kept in _copied(params):
        copied: dict[str, Any] | None = read_json(about) if about.is_file() else None
        path = brought_file(named)
        if not copied or copied["file"] != path.name or not path.is_file():
            continue
        changed = [path] if sha256_of_file(path) != copied[kept] else []
        changed += [path.with_name(name) for name, before in copied.get("beside", {}).items() if beside(path)[name] != before]
        if changed:
            raise UserError(
                f"{what}: {changed[0]} has changed since it was copied, which DVC cannot see; to use the new file: "
                "dvc repro --force --single-item weights, then the same command again"
            )


def beside(weights: Path) -> dict[str, str | None]:
    """The sha256 of what lies beside a student's weights and says more of them; None where it is missing."""
    path = weights.with_name("student.json")
    return {path.name: sha256_of_file(path) if path.is_file() else None}


def copied_weights(task: str, named: str | None) -> Path | None:
    """Stage ``weights``' copy of the file that a task's ``student_weights`` name. Raises UserError if it is of another file."""
    if named is None:
        return None
    folder, path = SUPPLIED_WEIGHTS / task, brought_file(named)
    if (copied := (read_json(folder / "supplied.json") or {}).get("file", "no file")) != path.name:
        raise UserError(f"{folder} was copied from {copied}, params.yaml says {named}; run dvc repro weights")
    return folder / WEIGHTS_FILE


def _copied(params: Params) -> Iterator[tuple[str, str, Path, str]]:
    """Of each file: the setting, the path it names, what is written about the copy, and under which name its hash stands there."""
    for task in params.task_names:
        if weights := params.student(task).student_weights:
            yield f"student_weights of {task}", weights, SUPPLIED_WEIGHTS / task / "supplied.json", "sha256"
    for task, teachers in params.source_block.supplied.items():
        for name, given in teachers.items():
            yield (
                f"{params.source}.supplied.{task}.{name}",
                given.weights,
                SUPPLIED_TEACHERS / task / name / TEACHER_MANIFEST,
                "file_sha256",
            )
    for task, checkpoint in params.evaluate.checkpoint.items():
        if checkpoint:
            yield f"evaluate.checkpoint.{task}", checkpoint, SUPPLIED_CHECKPOINTS / task / "checkpoint.json", "sha256"
