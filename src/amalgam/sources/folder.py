"""``source: folder``: your own images as ``train/<class>/*`` and ``test/<class>/*``, in a folder, a .zip or a .tar.*; images
without label may stand anywhere in ``unlabeled/``.

Archives are read as streams and never unpacked by their members' names, so nothing can be written outside our folder; an
archive that tries is refused all the same.
"""

import gzip
import lzma
import os
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from amalgam.errors import UserError
from amalgam.files import sha256_of_file
from amalgam.sources.raw import SPLITS, UNLABELED, UNLABELED_SPLIT, RawImage, decode, write_raw

IGNORED_FILES = {"thumbs.db", "desktop.ini"}
IGNORED_FOLDERS = {"__MACOSX"}
BLOCK = 1 << 20
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, gzip.BadGzipFile, RuntimeError)


class Member(NamedTuple):
    """A file of the container: its path inside, and an open stream."""

    path: PurePosixPath
    stream: IO[bytes]


class Spooled(NamedTuple):
    """An image copied to the scratch file."""

    split: str
    category: str  # '' without label
    name: str
    start: int
    length: int


def fetch(folder: Path, root: Path, location: str | None, sha256: str | None, max_bytes: int) -> None:
    """Check and write the images at ``location``, relative to ``root``.

    Raises UserError that names what is missing, broken or suspicious.
    """
    if location is None:
        raise UserError("source folder needs folder.fetch.path: a folder, .zip or .tar.* of train/<class>/* and test/<class>/*")
    path = root / Path(location).expanduser()
    _check_hash(path, sha256)
    with tempfile.TemporaryFile(dir=folder.parent) as scratch:
        try:
            spooled = _spool(path, scratch, max_bytes)
        except DAMAGED as error:
            raise UserError(f"{path} is damaged or no archive that can be read ({error}); fetch or pack it again") from error
        classes = _classes(path, spooled)
        present = [*SPLITS, UNLABELED_SPLIT] if any(image.split == UNLABELED_SPLIT for image in spooled) else SPLITS
        write_raw(folder, "folder", classes, {split: _images(spooled, split, classes, scratch) for split in present})


def _check_hash(path: Path, sha256: str | None) -> None:
    if not path.exists():
        raise UserError(f"folder.fetch.path: {path} does not exist")
    if sha256 is None:
        return
    if path.is_dir():
        raise UserError(f"folder.fetch.sha256 pins an archive, but {path} is a folder; set it to null or pack the folder")
    found = sha256_of_file(path)
    if found != sha256:
        raise UserError(f"{path} has the sha256 {found}, but folder.fetch.sha256 is {sha256}; fetch the right archive or correct the hash")


def _members(path: Path) -> Iterator[Member]:
    """All files of a folder, zip or tar archive, hidden and system files left out."""
    if path.is_dir():
        members = _folder_members(path)
    elif zipfile.is_zipfile(path):
        members = _zip_members(path)
    elif tarfile.is_tarfile(path):
        members = _tar_members(path)
    else:
        raise UserError(f"{path} is neither a folder nor a .zip or .tar.* archive that can be read")
    for member in members:
        inside = member.path
        if inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"{path}: the member '{inside}' points outside the archive; do not trust it")
        if not str(inside).isprintable():
            raise UserError(f"{path}: the name {str(inside)!r} is not valid text; rename the file")
        hidden = any(part.startswith(".") or part in IGNORED_FOLDERS for part in inside.parts)
        if not hidden and inside.name.lower() not in IGNORED_FILES:
            yield member


def _folder_members(path: Path) -> Iterator[Member]:
    def stop(error: OSError) -> None:
        raise error

    for folder, _, names in os.walk(path, onerror=stop, followlinks=True):
        for name in names:
            file = Path(folder, name)
            with file.open("rb") as stream:
                yield Member(PurePosixPath(file.relative_to(path).as_posix()), stream)


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                with archive.open(info) as stream:
                    yield Member(PurePosixPath(info.filename), stream)


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r:*") as archive:
        for info in archive:
            if info.issym() or info.islnk():
                raise UserError(
                    f"{path}: the member '{info.name}' is a link; pack the files themselves (tar --dereference --hard-dereference)"
                )
            stream = archive.extractfile(info)
            if stream is not None:
                yield Member(PurePosixPath(info.name), stream)
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        end = archive.fileobj.read(tarfile.BLOCKSIZE)
        if not end or any(end):  # tarfile takes a broken header for the end: images would be lost without a word
            raise tarfile.ReadError(f"no further member and no end mark at byte {archive.offset}")


def _spool(path: Path, scratch: IO[bytes], max_bytes: int) -> list[Spooled]:
    """Copy every image to one scratch file, within ``max_bytes`` whatever the archive's headers claim."""
    spooled, position = [], 0
    for member in _members(path):
        place = _place(member.path, path)
        if place is None:
            continue
        start = position
        while block := member.stream.read(BLOCK):
            position += len(block)
            if position > max_bytes:
                raise UserError(
                    f"{path} unpacks to more than {max_bytes / 1e9:g} GB; raise folder.fetch.max_gigabytes if it is to be trusted"
                )
            scratch.write(block)
        split, category = place
        spooled.append(Spooled(split, category, str(member.path), start, position - start))
    return spooled


def _place(inside: PurePosixPath, path: Path) -> tuple[str, str] | None:
    """(split, class) of a file at ``[wrapping folders/]split/class/file``; None for other files beside the splits.

    Below the folder of unlabelled images, which have the class '', files may lie at any depth.
    """
    folders = inside.parts[:-1]
    for depth, part in enumerate(folders):
        if part == UNLABELED_SPLIT:
            return part, ""
        if part in SPLITS:
            below = folders[depth + 1 :]
            if len(below) != 1:
                problem = "belongs to no class" if not below else "lies too deep"
                raise UserError(f"{path}: '{inside}' {problem}; images stand at {part}/<class>/<image>")
            return part, below[0]
    return None


def _classes(path: Path, spooled: list[Spooled]) -> list[str]:
    """The classes, sorted by name: the same in both splits."""
    found = {split: {image.category for image in spooled if image.split == split} for split in SPLITS}
    for split in SPLITS:
        if not found[split]:
            raise UserError(f"{path} has no {split} images; they must stand at {split}/<class>/<image>")
    for here, there in (SPLITS, SPLITS[::-1]):
        lacking = sorted(found[here] - found[there])
        if lacking:
            raise UserError(f"{path}: no {there} images of {', '.join(lacking)}; add some, or remove the class from both splits")
    return sorted(found["train"])


def _images(spooled: list[Spooled], split: str, classes: list[str], scratch: IO[bytes]) -> Iterator[RawImage]:
    """The images of one split in canonical order, each decoded once to see that it is whole."""
    label_of = {name: label for label, name in enumerate(classes)} | {"": UNLABELED}
    mine = [image for image in spooled if image.split == split]
    for image in sorted(mine, key=lambda image: (image.category, image.name.rpartition("/")[2], image.name)):
        scratch.seek(image.start)
        encoded = scratch.read(image.length)
        decode(encoded, image.name)
        folder = f"{split}/{image.category}" if image.category else split
        yield RawImage(label_of[image.category], f"{folder}/{image.name.rpartition('/')[2]}", encoded)
