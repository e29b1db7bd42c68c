"""What may go from the repository's store and beside the stages' outputs, and how much room it takes."""

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from amalgam.checkpoint import SESSIONS, Sessions
from amalgam.places import FETCHED, OUTPUTS, RUNS, repository_root
from amalgam.store import CHECKPOINTS, DIVERGED, DOWNLOADS, STORE, TEACHERS, VIEWS, entries, held
from amalgam.whole import PART, remove, remove_abandoned

WRITTEN_TO = (STORE, OUTPUTS, FETCHED, RUNS)  # where stages write
SECONDS_A_DAY = 86_400


def any_checkpoints() -> bool:
    return bool(entries(CHECKPOINTS))


def clean_leftovers() -> Iterator[tuple[Path, int]]:
    """Remove what killed processes left half-written."""
    for place in WRITTEN_TO:
        for part in sorted((repository_root() / place).rglob(f".*{PART}")):
            size = size_of(part)
            if remove_abandoned(part):
                yield part, size


def clean_checkpoints(days: float) -> Iterator[tuple[Path, int, str]]:
    """Remove the checkpoint of every training that no process was at for so many days: its folder, bytes, and its run's mark.

    It cannot go on then. A disk that filled is no reason to remove the training that it broke off.
    """
    for folder in entries(CHECKPOINTS):
        with held(folder) as free:
            if free and _is_older(folder, days):
                known, size = folder / SESSIONS, size_of(folder)
                mark = Sessions.read(known).mark if known.exists() else ""
                remove(folder)
                yield folder, size, mark


def clean_unused(days: float) -> Iterator[tuple[Path, int]]:
    """Remove teachers, logits and downloads that were not used for so many days, which cost time to make again, never a result; and the
    weights of trainings that diverged before."""
    for kind in (TEACHERS, VIEWS, DOWNLOADS):
        for folder in entries(kind):
            with held(folder) as free:
                if free and _is_older(folder, days):
                    size = size_of(folder)
                    remove(folder)
                    yield folder, size
    for weights in sorted((repository_root() / STORE / DIVERGED).glob("*")):
        if _is_older(weights, days):
            size = size_of(weights)
            weights.unlink()
            yield weights, size


def _is_older(path: Path, days: float) -> bool:
    """Whether the path, and of a checkpoint's folder the files in it, were last touched longer ago."""
    touched = [path, *path.glob("*")] if path.parent.name == CHECKPOINTS else [path]
    return max(found.stat().st_mtime for found in touched) < time.time() - days * SECONDS_A_DAY


def size_of(path: Path) -> int:
    """Bytes of a file or of all files in a folder; of what vanishes meanwhile, none."""
    size = 0
    for file in [path] if path.is_file() else path.rglob("*"):
        with suppress(FileNotFoundError):
            size += file.stat().st_size if file.is_file() else 0
    return size
