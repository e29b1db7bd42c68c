"""Containers of files as they come from users and from the network: a folder, a .zip or a .tar.*.

They are read as streams and never unpacked to where their members' names point, so nothing can be written outside our folders; a container
that tries is refused all the same.
"""

import errno
import lzma
import os
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from amalgam.errors import UserError, listed
from amalgam.files import sha256_of_file

IGNORED_FILES = {"thumbs.db", "desktop.ini"}
IGNORED_FOLDERS = {"__MACOSX", "lost+found"}
NAMED = 20  # files that are wrong, at a time
BLOCK = 1 << 20
SAYS_UTF8 = 1 << 11  # a flag of a zip archive's members
NO_TEXT = {"Cc", "Cs", "Zl", "Zp"}  # Unicode's categories of control characters, halves of characters and ends of lines
ON_WINDOWS = 0  # the system that made an archive's member; there a path may be written with backslashes
ANEW = "pack it again or, if it was downloaded here, remove it to have it fetched anew"
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, RuntimeError)
DAMAGED_ERRNO = (None, errno.EINVAL)  # gzip's and bzip2's, and of a jump before the file's begin


class Member(NamedTuple):
    """A file of the container: its path inside, and an open stream."""

    path: PurePosixPath
    stream: IO[bytes]


class Budget:
    """How much may be unpacked, whatever the headers claim; ``parameter`` names the limit."""

    def __init__(self, most: int, parameter: str) -> None:
        self.most = most
        self.left = most
        self.parameter = parameter

    def copy(self, member: Member, target: IO[bytes], container: Path) -> int:
        """Copy a member's content; its length in bytes. Raises UserError beyond the limit."""
        before = self.left
        while block := member.stream.read(BLOCK):
            self.left -= len(block)
            if self.left < 0:
                raise UserError(f"{container} unpacks to more than {self.most / 1e9:g} GB; raise {self.parameter} if it is to be trusted")
            target.write(block)
        return before - self.left


def check_hash(path: Path, sha256: str | None, parameter: str) -> None:
    """Raise UserError unless the file at ``path`` has the hash that ``parameter`` holds, if it holds one."""
    if sha256 is None:
        return
    if path.is_dir():
        raise UserError(f"{parameter} pins an archive, but {path} is a folder; set it to null or pack the folder")
    found = sha256_of_file(path)
    if found != sha256:
        raise UserError(f"{path} has the sha256 {found}, but {parameter} is {sha256}; fetch the right archive or correct the hash")


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what a damaged archive raises into a UserError that names it."""
    try:
        yield
    except (*DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno not in DAMAGED_ERRNO:  # the disk's
            raise
        raise UserError(f"{path} is damaged or no archive that can be read ({error}); {ANEW}") from error


def members(path: Path) -> Iterator[Member]:
    """All files of a folder, zip or tar archive, hidden and system files left out.

    Their names are composed (NFC): macOS writes the same letters decomposed.
    """
    if path.is_dir():
        found = _folder_members(path)
    elif tarfile.is_tarfile(path):  # asked first: that looks at the beginning, where is_zipfile finds a zip that ends the last member
        found = _tar_members(path)
    elif zipfile.is_zipfile(path):
        found = _zip_members(path)
    else:
        raise UserError(f"{path} is neither a folder nor a .zip or .tar.* archive that can be read; {ANEW}")
    seen: set[PurePosixPath] = set()
    for member in found:
        inside = PurePosixPath(unicodedata.normalize("NFC", str(member.path)))
        if inside.is_absolute() or ".." in inside.parts:
            raise UserError(f"{path}: the member '{inside}' points outside the archive; do not trust it")
        hidden = any(part.startswith(".") or part in IGNORED_FOLDERS for part in inside.parts)
        if hidden or inside.name.lower() in IGNORED_FILES:
            continue
        if any(unicodedata.category(letter) in NO_TEXT for letter in str(inside)):
            raise UserError(f"{path}: the name {str(inside)!r} is not valid text; rename the file")
        if inside in seen:  # as tar --append and --update leave them
            raise UserError(f"{path} holds '{inside}' twice, and both would be read; pack it again")
        seen.add(inside)
        yield Member(inside, member.stream)


def _folder_members(path: Path) -> Iterator[Member]:
    def stop(error: OSError) -> None:
        raise error

    no_files = []
    for folder, folders, names in os.walk(path, onerror=stop, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in IGNORED_FOLDERS]
        for name in (name for name in names if not name.startswith(".")):  # hidden, and maybe a link to nothing
            file = Path(folder, name)
            if not file.is_file():
                no_files.append(str(file.relative_to(path)) + (f" → {file.readlink()}" if file.is_symlink() else ""))
                continue
            with file.open("rb") as stream:
                yield Member(PurePosixPath(file.relative_to(path).as_posix()), stream)
    if no_files:
        raise UserError(f"{path}: {listed(sorted(no_files), NAMED)}: links to nothing, or no files; mend or remove them")


def _zip_members(path: Path) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            name = _zip_name(info)
            if not name.endswith("/"):  # a folder's
                with archive.open(info) as stream:
                    yield Member(PurePosixPath(name), stream)


def _zip_name(info: zipfile.ZipInfo) -> str:
    """The member's name. Archivers of macOS write UTF-8 without saying so, which zipfile reads as code page 437."""
    name = info.filename.replace("\\", "/") if info.create_system == ON_WINDOWS else info.filename
    if info.flag_bits & SAYS_UTF8:
        return name
    try:
        return name.encode("cp437").decode("utf-8")
    except UnicodeError:
        return name


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
        while archive.fileobj.read(BLOCK):  # gzip's checksum comes last
            pass
