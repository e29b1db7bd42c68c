"""The canonical raw layout: what ``fetch`` writes for every source and ``preprocess`` reads.

::

    dataset.json             format, source, classes (in the source's order; a label is an index into them), images per class and split
    train/images.bin         the encoded image files (PNG, JPEG, PPM, …), byte for byte, one after another
    train/offsets.npy        int64 (N + 1,): image i is images.bin[offsets[i]:offsets[i + 1]]
    train/labels.npy         int32 (N,)
    train/names.txt          N lines: where each image came from
    test/…                   the same four files
    unlabeled/…              the same, every label −1: training images without label, where there are any

Images are ordered by label, then by name (those of arrays by place), so the same images give the same bytes whatever container they
came in. Sources that are arrays store each image as a PPM file, the simplest lossless one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from amalgam.errors import UserError
from amalgam.files import Lines, read_json, save_array, write_json
from amalgam.serving import pixels

SPLITS = ("train", "test")
UNLABELED_SPLIT = "unlabeled"
UNLABELED = -1  # the label of an image without one


class RawImage(NamedTuple):
    """One image on its way into the layout."""

    label: int
    name: str
    encoded: bytes


@dataclass(frozen=True)
class RawSplit:
    """One split, memory-mapped; another process that is sent it maps it anew."""

    folder: Path
    labels: npt.NDArray[np.int32]  # (N,)
    names: Sequence[str]
    offsets: npt.NDArray[np.int64]  # (N + 1,)
    blob: npt.NDArray[np.uint8]

    def decode(self, index: int) -> npt.NDArray[np.uint8]:
        """Image ``index`` as (height, width, 3)."""
        with naming(self.names, index):
            return pixels.decode(self._encoded(index))

    def shapes(self, rows: npt.NDArray[np.int64]) -> set[tuple[int, int]]:
        """The (height, width) that the images of ``rows`` have."""
        found = set()
        for index in rows:
            with naming(self.names, index):
                found.add(pixels.shape(self._encoded(index)))
        return found

    def _encoded(self, index: int) -> bytes:
        return self.blob[self.offsets[index] : self.offsets[index + 1]].tobytes()

    def __reduce__(self) -> tuple[Any, ...]:
        return _mapped_once, (self.folder,)


@contextmanager
def naming(names: Sequence[str], index: int) -> Iterator[None]:
    """Raise UserError with the image's name where the block finds it unreadable."""
    try:
        yield
    except ValueError as error:
        raise UserError(f"{names[index]}: {error}; remove or replace it") from error


def decode(encoded: bytes, name: str) -> npt.NDArray[np.uint8]:
    """Decode one image file as ``pixels.decode`` does. Raises UserError that names an unreadable file."""
    with naming([name], 0):
        return pixels.decode(encoded)


def encode_ppm(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A binary PPM file of uint8 pixels (height, width, 3)."""
    height, width, _ = pixels.shape
    return b"P6 %d %d 255\n" % (width, height) + np.ascontiguousarray(pixels).tobytes()


def array_images(pixels: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer], name: str) -> list[RawImage]:
    """Images of an array (N, height, width, 3), ordered by label, then by place."""
    order = np.argsort(labels, kind="stable")
    return [RawImage(int(labels[i]), f"{name}/{i}", encode_ppm(pixels[i])) for i in order]


def write_raw(folder: Path, source: str, classes: Sequence[str], splits: Mapping[str, Iterable[RawImage]]) -> None:
    """Write the layout into ``folder``. Each split's images must come ordered by label; the unlabelled split may be absent.

    Raises UserError if a class has no image in a split: every class must be learnt, of images without label at least, and tested.
    """
    counts = {split: write_split(folder / split, images, len(classes)) for split, images in splits.items()}
    for split in ("test",) if UNLABELED_SPLIT in counts else SPLITS:
        empty = [name for name, count in zip(classes, counts[split], strict=True) if count == 0]
        if empty:
            raise UserError(f"{source}: no {split} images of {', '.join(empty)}; add some, or remove the class from both splits")
    write_json(folder / "dataset.json", {"format": 1, "source": source, "classes": list(classes), "images": counts})


def write_split(folder: Path, images: Iterable[RawImage], class_count: int) -> list[int]:
    """Write one split as its images come, and return the number of images of each class; of those without label at the end, if any."""
    folder.mkdir(parents=True)
    labels, offsets, counts = [], [0], [0] * (class_count + 1)
    with (folder / "images.bin").open("wb") as blob, (folder / "names.txt").open("w", encoding="utf-8") as names:
        for image in images:
            blob.write(image.encoded)
            names.write(" ".join(image.name.splitlines()) + "\n")
            labels.append(image.label)
            offsets.append(offsets[-1] + len(image.encoded))
            counts[image.label] += 1
    save_array(folder / "offsets.npy", np.array(offsets, dtype=np.int64))
    save_array(folder / "labels.npy", np.array(labels, dtype=np.int32))
    return counts if counts[UNLABELED] else counts[:UNLABELED]


def read_classes(folder: Path) -> list[str]:
    """The names of all classes in the data, in the order of their labels."""
    classes: list[str] = read_json(folder / "dataset.json")["classes"]
    return classes


def read_unlabeled(folder: Path) -> list[RawSplit]:
    """The images without label, if there are any."""
    return [read_split(folder, UNLABELED_SPLIT)] if (folder / UNLABELED_SPLIT).is_dir() else []


def read_split(folder: Path, split: str) -> RawSplit:
    part = folder / split
    offsets = np.load(part / "offsets.npy")
    return RawSplit(
        folder=part,
        labels=np.load(part / "labels.npy"),
        names=Lines(part / "names.txt"),
        offsets=offsets,
        blob=np.memmap(part / "images.bin", dtype=np.uint8, mode="r") if offsets[-1] else np.empty(0, dtype=np.uint8),  # none: no map
    )


@cache
def _mapped_once(folder: Path) -> RawSplit:
    return read_split(folder.parent, folder.name)
