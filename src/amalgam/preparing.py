"""Preparing a task's images for ``dataset``: selected, decoded, brought to one size and split; on all cores, in memory that their number
does not change."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from amalgam.cores import available_cores
from amalgam.dataset import validation_mask
from amalgam.errors import UserError
from amalgam.files import new_array, save_array, sha256_of_arrays, write_json
from amalgam.serving.pixels import fit
from amalgam.sources.raw import UNLABELED, RawSplit

MIXED_RESOLUTION = 64  # pixels; where the images share no size and the source's resolution is null
SMALLEST_NATIVE, LARGEST_NATIVE = 4, 1024  # pixels a side
CHUNK = 512  # images that a process handles at a time
FEW = 4096  # images for which it does not pay to start another process

Chosen = tuple[RawSplit, npt.NDArray[np.int64]]  # rows of a split, ascending


def stored_size(raws: Sequence[RawSplit], raw_classes: Sequence[str], union: Sequence[str], resolution: int | None) -> tuple[int, int]:
    """(height, width) in which all images of a task are stored: ``resolution`` squared, else their common native size.

    Where they share none, ``MIXED_RESOLUTION`` squared. Raises UserError if the native size is not from ``SMALLEST_NATIVE`` to
    ``LARGEST_NATIVE``.
    """
    if resolution is not None:
        return resolution, resolution
    parts = _chunks([(raw, _rows_of(raw, raw_classes, union)) for raw in raws])
    with _processes(parts) as spread:
        shapes = set().union(*spread(RawSplit.shapes, *zip(*parts, strict=True)))
    if len(shapes) > 1:
        return MIXED_RESOLUTION, MIXED_RESOLUTION
    height, width = next(iter(shapes))
    if min(height, width) < SMALLEST_NATIVE:
        raise UserError(
            f"the images are {height} × {width} pixels, fewer than {SMALLEST_NATIVE} a side; set the source's resolution, to 32 say"
        )
    if max(height, width) > LARGEST_NATIVE:
        raise UserError(
            f"the images are {height} × {width} pixels, more than {LARGEST_NATIVE} a side; set the source's resolution, to 224 say"
        )
    return height, width


@dataclass(frozen=True)
class Plan:
    """Which images of the raw splits a prepared split will hold; N of them."""

    chosen: list[Chosen]
    labels: npt.NDArray[np.int64]  # (N,): index into the union's classes, −1 without label
    validation: npt.NDArray[np.bool_]  # (N,)


def plan_split(raws: Sequence[RawSplit], raw_classes: Sequence[str], union: Sequence[str], fraction: float, seed: int) -> Plan:
    """The images of the union's classes and those without label, in the raw order, ``fraction`` of each class held out; none is decoded.

    Raises UserError if some of these classes have a labelled image and others have none, or one too few to hold one out.
    """
    place = np.full(len(raw_classes) + 1, UNLABELED, dtype=np.int64)  # the last entry, −1, is for no label
    place[[raw_classes.index(name) for name in union]] = np.arange(len(union))
    chosen = [(raw, _rows_of(raw, raw_classes, union)) for raw in raws]
    labels = np.concatenate([place[raw.labels[rows]] for raw, rows in chosen])
    _check_labels(labels, union)
    return Plan(chosen, labels, validation_mask(labels, union, fraction, seed))


def write_split(plan: Plan, size: tuple[int, int], folder: Path) -> None:
    """Write the planned images in ``size`` (height, width), with their labels, into the new ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    images = _write_images(plan.chosen, size, folder / "images.npy")
    save_array(folder / "labels.npy", plan.labels)
    save_array(folder / "validation.npy", plan.validation)
    _write_names(plan.chosen, folder / "names.txt")
    write_json(folder / "content.json", {"sha256": sha256_of_arrays(images, plan.labels, plan.validation)})


def _check_labels(labels: npt.NDArray[np.int64], union: Sequence[str]) -> None:
    """A class that no label shows beside others that labels do show would be learnt as the one class that an image never has."""
    counts = np.bincount(labels[labels >= 0], minlength=len(union))
    lacking = [name for name, count in zip(union, counts, strict=True) if not count]
    if lacking and counts.any():
        raise UserError(
            f"no labelled image of {', '.join(lacking)}, but of {union[int(counts.argmax())]} and others: give some of every "
            "class of the task, or of none (all in unlabeled/)"
        )


def _rows_of(raw: RawSplit, raw_classes: Sequence[str], union: Sequence[str]) -> npt.NDArray[np.int64]:
    return np.flatnonzero(np.isin(raw.labels, [UNLABELED, *(raw_classes.index(name) for name in union)]))


def _chunks(chosen: Sequence[Chosen]) -> list[Chosen]:
    return [(raw, rows[start : start + CHUNK]) for raw, rows in chosen for start in range(0, len(rows), CHUNK)]


@contextmanager
def _processes(parts: Sequence[Chosen]) -> Iterator[Callable[..., Iterator[Any]]]:
    """``map`` over as many processes as pay for so many images."""
    count = min(available_cores(), sum(len(rows) for _, rows in parts) // FEW)
    if count < 2:
        yield map
        return
    try:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_end_with_parent) as pool:
            yield pool.map
    except BrokenProcessPool as error:
        raise UserError(
            "a process that decodes images was ended from outside, by the system perhaps because memory ran out; with fewer of them at a "
            "time less is needed: taskset -c 0 dvc repro"
        ) from error


def _end_with_parent() -> None:
    """A pool's process would wait for ever for work from a parent that was killed."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(other: BaseProcess) -> None:
    other.join()
    os._exit(1)


def _write_images(chosen: Sequence[Chosen], size: tuple[int, int], path: Path) -> npt.NDArray[np.uint8]:
    """Decode the chosen rows into one array on disk."""
    parts = _chunks(chosen)
    counts = [len(rows) for _, rows in parts]
    images = new_array(path, np.uint8, (sum(counts), *size, 3))
    starts = np.cumsum([0, *counts[:-1]])
    with _processes(parts) as spread:
        for _ in spread(_decode, *zip(*parts, strict=True), starts, [path] * len(parts)):
            pass
    images.flush()
    return images


def _decode(raw: RawSplit, rows: npt.NDArray[np.int64], start: int, path: Path) -> None:
    """Write these images, in the size of the array at ``path``, from its place ``start`` on."""
    images: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r+")
    for place, row in enumerate(rows, int(start)):
        images[place] = fit(raw.decode(row), images.shape[1:3])


def _write_names(chosen: Sequence[Chosen], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for raw, rows in chosen:
            wanted = np.zeros(len(raw.labels), dtype=bool)
            wanted[rows] = True
            file.writelines(f"{name}\n" for name, kept in zip(raw.names, wanted, strict=True) if kept)
