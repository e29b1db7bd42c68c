"""A table of accuracies as its protocol has it: rows, settings, seeds; what was chosen; and what has been run.

Which protocol and which archive of images are meant stands in environment variables, so that trainings in other processes know it too.
"""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import yaml
from filelock import FileLock
from pydantic import ValidationError

from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_file
from amalgam.params import Params, TeacherSettings
from amalgam.params_file import explain, load_params
from amalgam.provenance import fingerprint
from amalgam.student_settings import StudentSettings
from amalgam.whole import whole_file

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).with_name("accuracy.results.json")
PROTOCOL = "ACCURACY_PROTOCOL"
ARCHIVE = "ACCURACY_ARCHIVE"
FITTED = "teachers right"  # of an entry in the results: by the teachers, combined as its target, no student
UNROUTED = {"unrouted teachers": "right", "unrouted teachers, joint": "joint right"}  # rows to compare with: what of it they are
RATES = ("oracle-routed", "unrouted", "unrouted, joint")  # of an entry of teachers, in percent

Settings = dict[str, Any]
Block = TypeVar("Block", TeacherSettings, StudentSettings)


@dataclass(frozen=True)
class Job:
    """One training."""

    task: str
    row: str
    settings: Settings  # what differs from params.yaml
    seed: int

    @property
    def key(self) -> str:
        """Of what it depends on; a student that learns from labels alone depends on no teacher, and is the same in every table."""
        used = {name: protocol()[name] for name in (("common",) if self.is_alone else ("teacher", "common"))}
        return fingerprint(task=self.task, settings=self.settings, seed=self.seed, **used, **apart_settings())[:16]

    @property
    def is_alone(self) -> bool:
        found: float | None = (protocol()["common"] | self.settings).get("alpha")
        return found == 0

    @property
    def folder(self) -> Path:
        return workplace() / "runs" / self.key


@cache
def workplace() -> Path:
    """Where everything is kept that comes of this archive or folder of images, wherever it lies, and these teachers."""
    archive = Path(os.environ[ARCHIVE])
    files = [archive] if archive.is_file() else sorted(file for file in archive.rglob("*") if file.is_file())
    images = {str(file.relative_to(archive)): sha256_of_file(file) for file in files}
    apart = {} if teachers_share() is None else {"teachers_share": teachers_share()}
    key = fingerprint(images=images, teacher=protocol()["teacher"], **apart)
    return ROOT / ".amalgam" / "accuracy" / key[:12]


def protocol() -> dict[str, Any]:
    return read_protocol(Path(os.environ[PROTOCOL]))


@cache
def read_protocol(file: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return read


def apart_settings() -> dict[str, Any]:
    """Of a protocol whose teachers learn from a part of the images: which share of them, and whether the student learns from these too."""
    return {name: value for name, value in protocol().items() if name in ("teachers_share", "student_sees_the_teachers")}


def teachers_share() -> float | None:
    """The share of each class's training images that the teachers learn from, where it is not all of them."""
    return apart_settings().get("teachers_share")


def teachers_key(task: str, seed: int) -> str:
    """The entry of what a seed's teachers reach."""
    share, finetuned = teachers_share(), protocol()["teacher"].get("student_model")
    kind = "" if finetuned is None else f", {finetuned}"
    return f"teachers {task} seed {seed}" + kind + ("" if share is None else f", {100 * share:g} % of the images")


def known_teachers(task: str, seed: int) -> dict[str, Any]:
    """What a seed's teachers, trained as the protocol says, have reached; nothing where they have not been run."""
    found: dict[str, Any] = results().get(teachers_key(task, seed), {})
    return found if found.get("teacher") == protocol()["teacher"] else {}


def choice_file() -> Path:
    return Path(os.environ[PROTOCOL]).with_suffix(".chosen.yaml")


def chosen() -> dict[str, dict[str, Settings]]:
    return yaml.safe_load(choice_file().read_text(encoding="utf-8")) if choice_file().exists() else {}


def choice(task: str, row: str) -> Settings | None:
    """The grid's point with which ``row`` is run, or None before it is tuned."""
    grid: list[Settings] = protocol()["grid"]
    return grid[0] if len(grid) == 1 else chosen().get(task, {}).get(row)


def results() -> dict[str, Any]:
    return read_json(RESULTS) if RESULTS.exists() else {}


def record(key: str, found: dict[str, Any]) -> None:
    """Keep what one training, or one seed's teachers, came to."""
    with FileLock(ROOT / ".amalgam" / "accuracy.lock"):
        known = results()
        found_so_far = dict(sorted((known | {key: known.get(key, {}) | found}).items()))
        whole_file(RESULTS, (json.dumps(found_so_far, indent=2, ensure_ascii=False) + "\n").encode())


def parameters(seed: int) -> Params:
    shipped, own = load_params(ROOT / "params.yaml"), protocol()["teacher"]
    teacher = _validated(TeacherSettings, shipped.teacher.model_dump() | ({} if is_finetuned() else own) | {"seed": seed})
    return shipped.model_copy(update={"source": "folder", "data_seed": seed, "teacher": teacher})


def is_finetuned() -> bool:
    """Whether the protocol's teachers are not the reference CNNs of params.yaml, but students of their own classes' labels alone."""
    return "student_model" in protocol()["teacher"]


def student_settings(job: Job) -> StudentSettings:
    return _settings(job.seed, protocol()["common"] | job.settings)


def specialist_settings(seed: int) -> StudentSettings:
    """Those of teachers that are fine-tuned."""
    return _settings(seed, protocol()["teacher"] | {"alpha": 0})


def _settings(seed: int, own: Settings) -> StudentSettings:
    shipped = parameters(seed)
    values = {name: getattr(shipped, name) for name in StudentSettings.model_fields}
    return _validated(StudentSettings, values | own | {"seed": seed})


def _validated(kind: type[Block], values: Settings) -> Block:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(explain(error, Path(os.environ[PROTOCOL]).name, {}, ())) from error


def tested(job: Job) -> bool:
    return "right" in results().get(job.key, {})


def final_jobs(task: str, rows: dict[str, Settings], seeds: list[int]) -> list[Job]:
    points = {row: point for row in rows if (point := choice(task, row)) is not None}
    if lacking := rows.keys() - points.keys():
        raise SystemExit(f"no choice for {', '.join(sorted(lacking))} of {task}; tune them first, and commit {choice_file().name}")
    return [Job(task, row, settings | points[row], seed) for seed in seeds for row, settings in rows.items()]
