"""``source: folder``: your own images as ``train/<class>/*`` and ``test/<class>/*``, in a folder, a .zip or a .tar.*; images
without label may stand anywhere in ``unlabeled/``, and then ``train`` may be missing. Where there is no ``test``, a fraction of
``train`` may be drawn for it.
"""

import hashlib
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from amalgam.errors import UserError, listed
from amalgam.sources.archive import NAMED, Budget, check_hash, members, reading
from amalgam.sources.raw import SPLITS, UNLABELED, UNLABELED_SPLIT, RawImage, decode, write_raw

PAIRS = 5  # of equal images, named at a time
LIKE_UNLABELED = ("unlabeled", "unlabelled")
LIKE_VALIDATION = frozenset(("val", "valid", "validation"))


class Place(NamedTuple):
    """Where an image stands: ``[wrapping folders/]split/category/…``."""

    wrapping: PurePosixPath
    split: str
    category: str  # '' without label


class Spooled(NamedTuple):
    """An image copied to the scratch file."""

    split: str
    category: str  # '' without label
    name: str
    start: int
    length: int


def fetch(folder: Path, root: Path, location: str | None, sha256: str | None, max_bytes: int, test_fraction: float | None = None) -> None:
    """Check and write the images at ``location``, relative to ``root``; of those in ``train`` a ``test_fraction``, if any, for the test.

    Raises UserError that names what is missing, broken or suspicious.
    """
    if location is None:
        raise UserError("source folder needs folder.fetch.path: a folder, .zip or .tar.* of train/<class>/* and test/<class>/*")
    path = root / Path(location).expanduser()
    if not path.exists():
        raise UserError(f"folder.fetch.path: {path} does not exist; correct the path (a relative one counts from the repository root)")
    check_hash(path, sha256, "folder.fetch.sha256")
    with tempfile.TemporaryFile(dir=folder.parent) as scratch:
        with reading(path):
            spooled = _spool(path, scratch, max_bytes)
        digests = [_digest(image, scratch) for image in spooled]
        known = list(zip(spooled, digests, strict=True)) if test_fraction is None else _with_test(path, spooled, digests, test_fraction)
        _tell_repeated(path, known)
        spooled = [image for image, _ in known]
        classes = _classes(path, spooled)
        present = [*SPLITS, UNLABELED_SPLIT] if any(image.split == UNLABELED_SPLIT for image in spooled) else SPLITS
        write_raw(folder, "folder", classes, {split: _images(spooled, split, classes, scratch) for split in present})


def _spool(path: Path, scratch: IO[bytes], max_bytes: int) -> list[Spooled]:
    """Copy every image to one scratch file, at most ``max_bytes``. Raises UserError where there are several data sets."""
    spooled: list[Spooled] = []
    position, budget, passed = 0, Budget(max_bytes, "folder.fetch.max_gigabytes"), 0
    wrapping: PurePosixPath | None = None
    for member in members(path):
        place = _place(member.path, path)
        if place is None:
            passed += bool(LIKE_VALIDATION.intersection(part.lower() for part in member.path.parts[:-1]))
            continue
        if wrapping is not None and place.wrapping != wrapping:
            raise UserError(
                f"{path} holds several data sets: '{spooled[0].name}' and '{member.path}' stand in train/, test/ or unlabeled/ of "
                "different folders, and one's training images may be the other's test images; give one of them alone"
            )
        wrapping = place.wrapping
        length = budget.copy(member, scratch, path)
        spooled.append(Spooled(place.split, place.category, str(member.path), position, length))
        position += length
    if passed:
        print(f"{path}: {passed} files below {' or '.join(sorted(LIKE_VALIDATION))} are not read; validation images are drawn from train/")
    return spooled


def _with_test(path: Path, spooled: list[Spooled], digests: list[bytes], fraction: float) -> list[tuple[Spooled, bytes]]:
    """The images, of which ``fraction`` of each class's (rounded, one at least, never all) have come from ``train`` to ``test``.

    They are those of the least SHA-256, and with them whatever equals one of them, in its class or another: images that are added later
    move few others. Equal ones without label are left out. Raises UserError where there are test images already, or a class has no two
    images that differ.
    """
    if any(image.split == "test" for image in spooled):
        raise UserError(
            f"folder.fetch.test_fraction is {fraction}, but {path} has test images of its own; set it to null, or leave them out"
        )
    of_class: dict[str, list[bytes]] = {}
    for image, digest in zip(spooled, digests, strict=True):
        if image.split == "train":
            of_class.setdefault(image.category, []).append(digest)
    if alone := sorted(category for category, own in of_class.items() if len(own) == 1):
        raise UserError(
            f"{path}: {listed(alone, NAMED)} has one image in train/, and folder.fetch.test_fraction needs two of a class, one to test and "
            "one to learn; add another, or remove the class"
        )
    drawn: set[bytes] = set()
    for own in of_class.values():
        drawn.update(sorted(own)[: min(max(round(fraction * len(own)), 1), len(own) - 1)])
    for category, own in of_class.items():
        if len(own) > 1 and drawn.issuperset(own):
            raise UserError(
                f"{path}: of {category} no image is left to train on: all {len(own)} equal one that folder.fetch.test_fraction draws for "
                "the test; add others"
            )
    kept = [(image, digest) for image, digest in zip(spooled, digests, strict=True) if image.split == "train" or digest not in drawn]
    if len(kept) < len(spooled):
        print(f"{path}: {len(spooled) - len(kept)} images of {UNLABELED_SPLIT}/ are left out: they equal images drawn for the test")
    return [(image._replace(split="test"), digest) if digest in drawn else (image, digest) for image, digest in kept]


def _tell_repeated(path: Path, known: list[tuple[Spooled, bytes]]) -> None:
    """Say which test images the student is trained on as well, and which images with a label stand more than once in ``train``."""
    learnt: dict[bytes, str] = {}
    twice: list[str] = []
    for image, digest in known:
        if image.split == "train" and digest in learnt:
            twice.append(f"{image.name} = {learnt[digest]}")
        elif image.split == "train":
            learnt[digest] = image.name
    unlabeled = {digest: image.name for image, digest in known if image.split == UNLABELED_SPLIT}
    every = unlabeled | learnt
    leaks = [f"{image.name} = {every[digest]}" for image, digest in known if image.split == "test" and digest in every]
    if leaks:
        print(
            f"{path}: {len(leaks)} of the test images are training images too, byte for byte, as {listed(leaks, PAIRS)}; the test accuracy "
            "is the higher for them: take them out of one side"
        )
    if twice:
        print(
            f"{path}: {len(twice)} of the training images are copies of others, byte for byte, as {listed(twice, PAIRS)}; where one is "
            "held out for validation and another learnt, the validation accuracy is the higher for it: take them out"
        )


def _digest(image: Spooled, scratch: IO[bytes]) -> bytes:
    scratch.seek(image.start)
    return hashlib.sha256(scratch.read(image.length)).digest()


def _place(inside: PurePosixPath, path: Path) -> Place | None:
    """That of a file; None for files beside the splits.

    Below the folder of unlabelled images, which have the class '', files may lie at any depth.
    """
    folders = inside.parts[:-1]
    for depth, part in enumerate(folders):
        if part == UNLABELED_SPLIT:
            return Place(PurePosixPath(*folders[:depth]), part, "")
        if part.lower() in LIKE_UNLABELED:
            raise UserError(
                f"{path}: '{inside}' would be left out: images without label stand in {UNLABELED_SPLIT}/, so spelled; rename that folder"
            )
        if part in SPLITS:
            below = folders[depth + 1 :]
            if len(below) != 1:
                problem = "belongs to no class" if not below else "lies too deep"
                raise UserError(f"{path}: '{inside}' {problem}; images stand at {part}/<class>/<image>")
            return Place(PurePosixPath(*folders[:depth]), part, below[0])
    for part in folders:
        if part.lower() in SPLITS:
            raise UserError(
                f"{path}: '{inside}' would be left out: images stand in {part.lower()}/<class>/, so spelled; rename that folder"
            )
    return None


def _classes(path: Path, spooled: list[Spooled]) -> list[str]:
    """The classes, sorted by name: the same in both splits, unless unlabelled images stand in for those of ``train``."""
    found = {split: {image.category for image in spooled if image.split == split} for split in (*SPLITS, UNLABELED_SPLIT)}
    needed = ["test"] if found[UNLABELED_SPLIT] else SPLITS
    for split in needed:
        if not found[split]:
            hint = (
                f", or without a label in {UNLABELED_SPLIT}/"
                if split == "train"
                else "; or set folder.fetch.test_fraction, which draws them from train/"
            )
            raise UserError(f"{path} has no {split} images; they must stand at {split}/<class>/<image>{hint}")
    every = found["train"] | found["test"]
    for split in needed:
        lacking = sorted(every - found[split])
        if lacking:
            raise UserError(f"{path}: no {split} images of {', '.join(lacking)}; add some, or remove the class from both splits")
    return sorted(every)


def _images(spooled: list[Spooled], split: str, classes: list[str], scratch: IO[bytes]) -> Iterator[RawImage]:
    """The images of one split in canonical order, each decoded once. Raises UserError that names those that are broken."""
    label_of = {name: label for label, name in enumerate(classes)} | {"": UNLABELED}
    mine, broken = [image for image in spooled if image.split == split], []
    for image in sorted(mine, key=lambda image: (image.category, image.name.rpartition("/")[2], image.name)):
        scratch.seek(image.start)
        encoded = scratch.read(image.length)
        try:
            decode(encoded, image.name)
        except UserError as error:
            broken.append(str(error))
            continue
        folder = f"{split}/{image.category}" if image.category else split
        yield RawImage(label_of[image.category], f"{folder}/{image.name.rpartition('/')[2]}", encoded)
    if broken:
        raise UserError("\n".join([*broken[:NAMED], *([f"and {len(broken) - NAMED} more of {split}"] if len(broken) > NAMED else [])]))
