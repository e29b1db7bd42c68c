"""``source: gdrive``: the published archives of the reference system.

The archive of images holds, below any folders, one file a teacher and split::

    TaskA/Model1_trees_superclass/model1_train_supercls.pth      likewise _test_, and Model2_…, Model3_…
    TaskB/train_dataB_model_1.pth                                likewise val_, and …_2, …_3

and the archive of weights state dicts: students below ``best_models/``, teachers below ``weights/``. They are kept as they are::

    fetched/models/best_models/TaskA/student_model_epoch57_acc81.27.pth
    fetched/models/weights/A/data1_73.60_epoch12.pth
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from amalgam.errors import UserError
from amalgam.sources.archive import Budget, members, reading
from amalgam.sources.arrays import read_images
from amalgam.sources.raw import SPLITS, RawImage, array_images, write_raw
from amalgam.states import read_state
from amalgam.whole import scratch_folder

# By the numbers that the files' labels use, in the order of the students' outputs: task A's classes have CIFAR-100's, task B's their own.
CLASSES: dict[str, dict[int, str]] = {
    "TaskA": {
        0: "apple",
        47: "maple_tree",
        51: "mushroom",
        52: "oak_tree",
        53: "orange",
        54: "orchid",
        56: "palm_tree",
        57: "pear",
        59: "pine_tree",
        62: "poppy",
        70: "rose",
        82: "sunflower",
        83: "sweet_pepper",
        92: "tulip",
        96: "willow_tree",
    },
    "TaskB": {
        24: "African_elephant",
        34: "hyena",
        80: "zebra",
        124: "collie",
        125: "golden_retriever",
        130: "boxer",
        135: "patas",
        137: "baboon",
        159: "Arctic_fox",
        173: "Chihuahua",
        201: "lynx",
        202: "African_hunting_dog",
    },
}
TEACHERS = (1, 2, 3)
FILES = (
    re.compile(r"(?:^|/)(?P<task>TaskA)/[^/]+/model(?P<teacher>[1-3])_(?P<split>train|test)_supercls\.pth$"),
    re.compile(r"(?:^|/)(?P<task>TaskB)/(?P<split>train|val)_dataB_model_(?P<teacher>[1-3])\.pth$"),
)
SPLIT_NAMES = {"train": "train", "test": "test", "val": "test"}
WEIGHTS = re.compile(r"(?:^|/)((?:best_models/Task[AB]|weights/[AB])/[A-Za-z0-9][\w+.-]*\.pth)$")


class Part(NamedTuple):
    """One file of images."""

    task: str
    split: str
    teacher: int


def fetch(folder: Path, archive: Path, max_bytes: int) -> None:
    """Write the images of the archive, or unpacked folder, into ``folder``; of a class that several teachers know, the copy of the first.

    Raises UserError that names what is missing, broken, ambiguous or suspicious.
    """
    with scratch_folder(folder / "unpacked") as scratch:
        with reading(archive):
            files = _unpack(archive, scratch, max_bytes)
        names = [name for numbered in CLASSES.values() for name in numbered.values()]
        write_raw(folder, "gdrive", names, {split: _split_images(files, split, names) for split in SPLITS})


def _unpack(archive: Path, scratch: Path, max_bytes: int) -> dict[Part, tuple[Path, str]]:
    """The files of images, each under a name of our own, with its name in the archive."""
    found: dict[Part, tuple[Path, str]] = {}
    budget = Budget(max_bytes, "gdrive.fetch.max_gigabytes")
    for member in members(archive):
        match = next(filter(None, (pattern.search(str(member.path)) for pattern in FILES)), None)
        if match is None:
            continue
        part = Part(match["task"], SPLIT_NAMES[match["split"]], int(match["teacher"]))
        if part in found:
            raise UserError(f"{archive} has {found[part][1]} and {member.path}: two files of the same images; remove one")
        found[part] = (scratch / f"{part.task}-{part.split}-{part.teacher}.pth", str(member.path))
        with found[part][0].open("wb") as target:
            budget.copy(member, target, archive)
    lacking = [part for task in CLASSES for split in SPLITS for teacher in TEACHERS if (part := Part(task, split, teacher)) not in found]
    if lacking:
        first = lacking[0]
        raise UserError(
            f"{archive} lacks {len(lacking)} of the 12 files of images, as the {first.split} images of {first.task}'s teacher "
            f"{first.teacher}; is it the archive of images, in the published layout?"
        )
    return found


def _split_images(files: Mapping[Part, tuple[Path, str]], split: str, names: list[str]) -> Iterator[RawImage]:
    for task, numbered in CLASSES.items():
        seen: set[int] = set()
        pixels: list[npt.NDArray[np.uint8]] = []
        labels: list[npt.NDArray[np.int64]] = []
        for teacher in TEACHERS:
            path, name = files[Part(task, split, teacher)]
            images, numbers = read_images(path, name)
            new = ~np.isin(numbers, list(seen))
            foreign = sorted(set(numbers.tolist()) - set(numbered))
            if foreign:
                raise UserError(f"{name}: {task} has no class of the number {', '.join(map(str, foreign))}; it has {_listed(numbered)}")
            seen |= set(numbers.tolist())
            pixels.append(images[new])
            labels.append(numbers[new])
        sizes = {images.shape[1:] for images in pixels}
        if len(sizes) > 1:
            raise UserError(
                f"{task}: the {split} images of its teachers have different sizes: {', '.join(map(str, sizes))}; name archives of one size"
            )
        place = {number: names.index(name) for number, name in numbered.items()}
        places = np.array([place[number] for number in np.concatenate(labels).tolist()])
        yield from array_images(np.concatenate(pixels), places, f"{task}/{split}")


def _listed(numbered: Mapping[int, str]) -> str:
    return ", ".join(f"{number} ({name})" for number, name in numbered.items())


def fetch_weights(folder: Path, archive: Path, max_bytes: int) -> list[PurePosixPath]:
    """Copy the state dicts of the archive, or unpacked folder, below ``folder``; their paths there, sorted.

    Raises UserError if there are none, or one holds anything but tensors.
    """
    found: list[PurePosixPath] = []
    budget = Budget(max_bytes, "gdrive.fetch.max_gigabytes")
    with reading(archive):
        for member in members(archive):
            match = WEIGHTS.search(str(member.path))
            if match is None:
                continue
            place = PurePosixPath(match[1])  # of words that the pattern allows, nothing that leads outside
            if place in found:
                raise UserError(f"{archive} has {place} twice, the second time as {member.path}; remove one")
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            with (folder / place).open("wb") as target:
                budget.copy(member, target, archive)
            found.append(place)
    if not found:
        raise UserError(f"{archive} has no weights below best_models/ or weights/; is it the archive of models, in the published layout?")
    for place in found:
        try:
            read_state(folder / place)
        except UserError as error:
            reason = str(error).replace(str(folder / place), str(place))
            raise UserError(f"{archive}: {reason}; or do without these weights: set gdrive.fetch.models to null") from error
    return sorted(found)
