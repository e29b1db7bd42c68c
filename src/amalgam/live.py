"""What a training shows in files while it goes on: its learning curve as a picture, and one line an epoch."""

import time
from pathlib import Path

import numpy as np

from amalgam.history import Epoch
from amalgam.whole import scratch_folder

PICTURE = "learning_curve.png"
LOG = "training.log"
SECONDS_BETWEEN_PICTURES = 30  # at least
TIMES_A_PICTURE = 200  # and so many times as long as the last one took: half a percent of the time


class LiveCurve:
    """Draws the epochs so far, after an epoch when the last picture is old enough."""

    def __init__(self, path: Path, title: str, before: list[Epoch]) -> None:
        self.path = path
        self.title = title
        self.epochs = list(before)
        self.drawn = time.monotonic()
        self.pause: float = SECONDS_BETWEEN_PICTURES

    def add(self, record: Epoch) -> None:
        self.epochs.append(record)
        started = time.monotonic()
        if started - self.drawn >= self.pause:
            self.draw()
            self.drawn = time.monotonic()
            self.pause = max(SECONDS_BETWEEN_PICTURES, TIMES_A_PICTURE * (self.drawn - started))

    def draw(self) -> None:
        """Replace the picture whole: who looks at it never sees half of one."""
        from amalgam.plots import save_learning_curve  # slow to import

        rows = [{"epoch": record.epoch, **record.row()} for record in self.epochs]
        columns = ("epoch", "train_loss", "val_loss", "train_accuracy", "val_accuracy")
        history = {name: np.array([row.get(name, np.nan) for row in rows]) for name in columns}
        with scratch_folder(self.path) as work:
            save_learning_curve(history, None, self.title, work / PICTURE)
            (work / PICTURE).replace(self.path)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def log_line(record: Epoch, epochs: int) -> str:
    """One epoch for people: ``epoch 3/40  lr 0.003  loss 1.204  train 61.2 %  validation 58.9 %  2.1 s``."""
    words = [f"epoch {record.epoch}/{epochs}", f"lr {record.lr:.3g}", f"loss {record.train_loss:.4g}"]
    if record.train_accuracy is not None:
        words.append(f"train {100 * record.train_accuracy:.2f} %")
    if record.validation:
        words.append(f"validation {100 * record.validation.accuracy:.2f} %")
    return "  ".join([*words, f"{record.seconds:.1f} s"])
