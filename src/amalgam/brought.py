"""Files that the user brings: DVC sees which ones params.yaml names, not that one of them has become another."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from amalgam.errors import UserError
from amalgam.files import brought_file, read_json, sha256_of_file
from amalgam.params import Params

WEIGHTS = Path("fetched/weights")
TEACHERS = Path("fetched/teachers")
CHECKPOINTS = Path("fetched/checkpoints")


def refuse_changed(params: Params) -> None:
    """Raise UserError if a file that ``params`` name is no longer the one that stage ``weights`` copied."""
    for what, named, about, kept in _copied(params):
        copied: dict[str, Any] | None = read_json(about) if about.is_file() else None
        path = brought_file(named)
        if copied and copied["file"] == path.name and path.is_file() and sha256_of_file(path) != copied[kept]:
            raise UserError(
                f"{what}: {path} has changed since it was copied, which DVC cannot see; to use the new file: "
                "dvc repro --force --single-item weights, then the same command again"
            )


def _copied(params: Params) -> Iterator[tuple[str, str, Path, str]]:
    """Of each file: the setting, the path it names, what is written about the copy, and under which name its hash stands there."""
    for task in params.task_names:
        if weights := params.student(task).student_weights:
            yield f"student_weights of {task}", weights, WEIGHTS / task / "supplied.json", "sha256"
    for task, teachers in params.source_block.supplied.items():
        for name, given in teachers.items():
            yield f"{params.source}.supplied.{task}.{name}", given.weights, TEACHERS / task / name / "manifest.json", "file_sha256"
    for task, checkpoint in params.evaluate.checkpoint.items():
        if checkpoint:
            yield f"evaluate.checkpoint.{task}", checkpoint, CHECKPOINTS / task / "checkpoint.json", "sha256"
