"""Progress on a terminal: bar, time left, current accuracy; silence in a log file."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

from amalgam.history import Epoch

RANK_VARIABLE = "RANK"  # torchrun's


@contextmanager
def progress_bar(label: str, total: int, unit: str, done: int = 0) -> Iterator[tuple[Callable[[], None], Callable[[Epoch], None]]]:
    """Yield (advance by one, show an epoch's accuracy); nothing is drawn where the output is no terminal.

    Of several processes the first alone draws.
    """
    hidden = True if os.environ.get(RANK_VARIABLE, "0") != "0" else None
    with tqdm(total=total, initial=done, desc=label, unit=unit, disable=hidden, dynamic_ncols=True) as bar:

        def show(record: Epoch) -> None:
            shown: dict[str, int | str] = {"epoch": record.epoch}
            if record.train_accuracy is not None:
                shown["train"] = f"{100 * record.train_accuracy:.1f}%"
            if record.validation:
                shown["val"] = f"{100 * record.validation.accuracy:.1f}%"
            bar.set_postfix(shown)

        def advance() -> None:
            bar.update()

        yield advance, show


@contextmanager
def training_bar(label: str, epochs: int, steps: int, done: int) -> Iterator[tuple[Callable[[], None], Callable[[Epoch], None]]]:
    """``progress_bar`` of a training of so many ``steps`` an epoch; one that goes on says so."""
    if done:
        print(f"{label}: goes on after epoch {done} of {epochs}", flush=True)
    with progress_bar(label, epochs * steps, "step", done * steps) as callbacks:
        yield callbacks
