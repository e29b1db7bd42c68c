"""What a training's stage leaves on disk of its run in MLflow: with the student's other files, enough to write the run again."""

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from amalgam.files import read_json, write_json

RUN_FILE = "run.json"
ID_FILE = "run_id.json"  # shown by dvc exp show


@dataclass(frozen=True)
class DataRecord:
    """The images of a training."""

    source: str
    pinned: str | None  # data.dvc's hash
    content: str  # sha256 of the prepared images, labels and split
    classes: tuple[str, ...]
    size: tuple[int, int]  # (height, width) in pixels
    images: int


@dataclass(frozen=True)
class RunRecord:
    """Times are milliseconds since 1970."""

    run_id: str
    task: str
    name: str
    params: dict[str, str]
    tags: dict[str, str]
    data: DataRecord
    commands: str  # that repeat it
    dirty: bool  # whether the code had changes that no commit holds
    began: tuple[int, ...]  # one a session: more where the training was broken off and went on
    ended: int
    epochs: list[dict[str, float]]  # each epoch's end, seconds, images per second

    @property
    def seconds(self) -> float:
        """Of training, in all sessions; what one did after its last whole epoch was for nothing and is left out."""
        spent = float(self.ended - self.began[-1])
        for start, following in pairwise(self.began):
            ends = [epoch["ended"] for epoch in self.epochs if start <= epoch["ended"] < following]
            spent += max(ends, default=start) - start
        return round(spent / 1000, 1)

    def write(self, folder: Path) -> None:
        write_json(folder / RUN_FILE, asdict(self))
        write_json(folder / ID_FILE, {self.task: {"mlflow_run": self.run_id}})

    @classmethod
    def read(cls, folder: Path) -> "RunRecord":
        values: dict[str, Any] = read_json(folder / RUN_FILE)
        own = values.pop("data")
        data = DataRecord(**own | {"classes": tuple(own["classes"]), "size": tuple(own["size"])})
        return cls(**values | {"began": tuple(values["began"])}, data=data)
