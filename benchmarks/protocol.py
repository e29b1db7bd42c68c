"""A table of accuracies as its protocol has it: rows, settings, seeds; what was chosen; and what has been run."""

import json
from dataclasses import dataclass
from functools import cached_property
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
FITTED = "teachers right"  # of an entry in the results: by the teachers, combined as its target, no student
SCORE = "validation score"  # of an entry, in percent: what chose the epoch, where the student may not use every validation label
UNROUTED = {"unrouted teachers": "right", "unrouted teachers, joint": "joint right"}  # rows to compare with: what of it they are
RATES = ("oracle-routed", "unrouted", "unrouted, joint")  # of an entry of teachers, in percent
MAKERS: Any = {"folder": {"tasks", "augmentation"}, "teacher": True, "val_fraction": True}  # settings of images, teachers and views

Settings = dict[str, Any]
Block = TypeVar("Block", TeacherSettings, StudentSettings)


@dataclass(frozen=True)
class Protocol:
    """A file of rows, seeds and settings; ``archive`` are the images, of no use where nothing is run."""

    file: Path
    archive: Path | None = None

    @classmethod
    def named(cls, name: str) -> "Protocol":
        """One of this folder."""
        return cls(Path(__file__).with_name(f"{name}.yaml"))

    @cached_property
    def values(self) -> dict[str, Any]:
        read: dict[str, Any] = yaml.safe_load(self.file.read_text(encoding="utf-8"))
        return read

    @property
    def rows(self) -> dict[str, Settings]:
        rows: dict[str, Settings] = self.values["rows"]
        return rows

    def seeds(self, task: str) -> list[int]:
        """The same for every task, or each task's own. Raises UserError if there are none for this one."""
        if not (named := self.named_seeds(task)):
            raise UserError(f"{self.file.name} names no seeds for {task}; add some, or name them with --seeds")
        return named

    def named_seeds(self, task: str) -> list[int]:
        given: list[int] | dict[str, list[int]] = self.values["seeds"]
        return given if isinstance(given, list) else given.get(task, [])

    @property
    def grid(self) -> list[Settings]:
        grid: list[Settings] = self.values["grid"]
        return grid

    @property
    def teacher(self) -> Settings:
        teacher: Settings = self.values["teacher"]
        return teacher

    @property
    def common(self) -> Settings:
        common: Settings = self.values["common"]
        return common

    @property
    def apart(self) -> dict[str, Any]:
        """Where teachers learn from a part of the images: which share of them, and whether the student learns from these too."""
        return {name: value for name, value in self.values.items() if name in ("teachers_share", "student_sees_the_teachers")}

    @property
    def teachers_share(self) -> float | None:
        """The share of each class's training images that the teachers learn from, where it is not all of them."""
        return self.apart.get("teachers_share")

    @property
    def is_finetuned(self) -> bool:
        """Whether its teachers are not the reference CNNs of params.yaml, but students of their own classes' labels alone."""
        return "student_model" in self.teacher

    @cached_property
    def workplace(self) -> Path:
        """Where everything is kept that comes of this archive or folder of images, wherever it lies, and these teachers.

        Of the shipped settings all that images, teachers and views are made by count too.
        """
        assert self.archive is not None
        files = [self.archive] if self.archive.is_file() else sorted(file for file in self.archive.rglob("*") if file.is_file())
        images = {str(file.relative_to(self.archive)): sha256_of_file(file) for file in files}
        apart = {} if self.teachers_share is None else {"teachers_share": self.teachers_share}
        shipped = load_params(ROOT / "params.yaml").model_dump(mode="json", include=MAKERS)
        return ROOT / ".amalgam" / "accuracy" / fingerprint(images=images, teacher=self.teacher, shipped=shipped, **apart)[:12]

    @property
    def choice_file(self) -> Path:
        return self.file.with_suffix(".chosen.yaml")

    def chosen(self) -> dict[str, dict[str, Settings]]:
        return yaml.safe_load(self.choice_file.read_text(encoding="utf-8")) if self.choice_file.exists() else {}

    def choice(self, task: str, row: str) -> Settings | None:
        """The grid's point with which ``row`` is run, or None before it is tuned."""
        return self.grid[0] if len(self.grid) == 1 else self.chosen().get(task, {}).get(row)

    def jobs(self, task: str, rows: dict[str, Settings], seeds: list[int]) -> list["Job"]:
        """One a seed and row, as chosen."""
        points = {row: point for row in rows if (point := self.choice(task, row)) is not None}
        if lacking := rows.keys() - points.keys():
            raise SystemExit(f"no choice for {', '.join(sorted(lacking))} of {task}; tune them first, and commit {self.choice_file.name}")
        return [Job(self, task, row, settings | points[row], seed) for seed in seeds for row, settings in rows.items()]

    def chosen_jobs(self, task: str, rows: dict[str, Settings], seeds: list[int]) -> list["Job"]:
        """One a seed and row, of those of the ``rows`` whose settings are chosen."""
        return self.jobs(task, {row: settings for row, settings in rows.items() if self.choice(task, row) is not None}, seeds)

    def parameters(self, seed: int) -> Params:
        shipped = load_params(ROOT / "params.yaml")
        own = {} if self.is_finetuned else self.teacher
        teacher = self._validated(TeacherSettings, shipped.teacher.model_dump() | own | {"seed": seed})
        return shipped.model_copy(update={"source": "folder", "data_seed": seed, "teacher": teacher})

    def specialist_settings(self, seed: int) -> StudentSettings:
        """Those of teachers that are fine-tuned."""
        return self.student_settings(seed, self.teacher | {"alpha": 0})

    def student_settings(self, seed: int, own: Settings) -> StudentSettings:
        shipped = self.parameters(seed)
        values = {name: getattr(shipped, name) for name in StudentSettings.model_fields}
        return self._validated(StudentSettings, values | own | {"seed": seed})

    def _validated(self, kind: type[Block], values: Settings) -> Block:
        try:
            return kind.model_validate(values)
        except ValidationError as error:
            raise UserError(explain(error, self.file.name, {}, ())) from error

    def teachers_key(self, task: str, seed: int) -> str:
        """The entry of what a seed's teachers reach: of how they are trained what the protocol says or, if it says nothing, params.yaml."""
        settings = self.teacher or self.parameters(seed).teacher.model_dump(exclude={"seed"})
        said = [f"{name} {value}" for name, value in sorted(settings.items())]
        share = [] if self.teachers_share is None else [f"{100 * self.teachers_share:g} % of the images"]
        return ", ".join([f"teachers {task} seed {seed}", *said, *share])

    def known_teachers(self, task: str, seed: int) -> dict[str, Any]:
        """What a seed's teachers, trained as the protocol says, have reached; nothing where they have not been run."""
        found: dict[str, Any] = results().get(self.teachers_key(task, seed), {})
        return found


@dataclass(frozen=True)
class Job:
    """One training."""

    protocol: Protocol
    task: str
    row: str
    own: Settings  # what differs from the protocol's common settings, and from params.yaml
    seed: int

    @property
    def key(self) -> str:
        """Of what it depends on; a student that learns from labels alone depends on no teacher, and is the same in every table."""
        protocol = self.protocol
        used = {"common": protocol.common} | ({} if self.is_alone else {"teacher": protocol.teacher})
        return fingerprint(task=self.task, settings=self.own, seed=self.seed, **used, **protocol.apart)[:16]

    @property
    def is_alone(self) -> bool:
        found: float | None = (self.protocol.common | self.own).get("alpha")
        return found == 0

    @property
    def settings(self) -> StudentSettings:
        return self.protocol.student_settings(self.seed, self.protocol.common | self.own)

    @property
    def folder(self) -> Path:
        return self.protocol.workplace / "runs" / self.key

    @property
    def is_tested(self) -> bool:
        return "right" in results().get(self.key, {})


def results() -> dict[str, Any]:
    return read_json(RESULTS) if RESULTS.exists() else {}


def record(key: str, found: dict[str, Any]) -> None:
    """Keep what one training, or one seed's teachers, came to."""
    with FileLock(ROOT / ".amalgam" / "accuracy.lock"):
        known = results()
        found_so_far = dict(sorted((known | {key: known.get(key, {}) | found}).items()))
        whole_file(RESULTS, (json.dumps(found_so_far, indent=2, ensure_ascii=False) + "\n").encode())
