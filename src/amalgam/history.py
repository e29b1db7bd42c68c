"""What a training gives: its weights, and its history epoch by epoch, which is history.csv too."""

import csv
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amalgam.states import State
from amalgam.validation import Validation

Snapshot = dict[str, Any]  # everything a training needs to go on: tensors and plain values


@dataclass(frozen=True)
class Epoch:
    """One row of the learning curve; accuracies are fractions, losses means over images."""

    epoch: int  # from 1
    lr: float  # of the epoch's last step
    train_loss: float
    train_accuracy: float | None  # None if no label was used
    terms: dict[str, float]
    watched: dict[str, float] = field(default_factory=dict)
    validation: Validation | None = None
    seconds: float = 0.0
    images_per_second: float = 0.0  # in training, validation aside
    ended: int = 0  # milliseconds since 1970

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "Epoch":
        validation = values["validation"]
        return cls(**values | {"validation": Validation(**validation) if validation else None})

    def plain(self) -> dict[str, Any]:
        validation = self.validation
        return asdict(self) | {"validation": validation._asdict() if validation else None}

    def row(self) -> dict[str, float]:
        """Under the names that history.csv and MLflow use; accuracies in percent."""
        row = {"train_loss": self.train_loss, "lr": self.lr}
        if self.train_accuracy is not None:
            row["train_accuracy"] = 100 * self.train_accuracy
        row |= {f"train_loss_{name}": value for name, value in self.terms.items()}
        if self.validation:
            row |= {"val_loss": self.validation.loss, "val_accuracy": 100 * self.validation.accuracy}
            if self.validation.score is not None:
                row["val_score"] = 100 * self.validation.score
        return row | self.watched


@dataclass
class Fit:
    """What training gives: the best and the last weights, and how it went."""

    best_epoch: int = 0
    best: State = field(default_factory=dict)
    last: State = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)

    @property
    def best_record(self) -> Epoch:
        return self.history[self.best_epoch - 1]


def read_history(path: Path) -> dict[str, npt.NDArray[np.float64]]:
    """The columns of a history by name, NaN where an epoch has no value."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name] or "nan") for row in rows]) for name in rows[0]}


def write_history(history: list[Epoch], path: Path) -> None:
    rows = [{"epoch": record.epoch, **record.row()} for record in history]
    with path.open("w", newline="", encoding="utf-8") as file:
        columns = list(dict.fromkeys([*rows[0], "train_accuracy", "val_loss", "val_accuracy"]))  # always there: DVC's plots name them
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
