"""Files and folders that are either whole or absent."""

import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

PART = ".part"  # ends the name of what is being written or removed, and of what a killed process left of it
BEGUN = ".new"  # instead, until it is locked: nobody removes it


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside ``target`` that takes its place only if the block ends without an error."""
    with scratch_folder(target) as work:
        yield work
        if target.exists():
            remove(target)
        work.rename(target)


def remove(folder: Path) -> None:
    """Remove a folder that others take to be whole where it is: it is gone at once, or not at all, even if this process is killed."""
    going = _part_of(folder)
    with _locked(folder):
        folder.rename(going)
        shutil.rmtree(going)


def sync(folder: Path) -> None:
    """Have the disk keep a folder's files, all below it, before anything relies on them."""
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Yield a new folder beside ``target``, on the same disk, that is gone afterwards.

    What processes that were killed left of the same target is removed.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for leftover in target.parent.glob(f".{glob.escape(target.name)}.*{PART}"):
        remove_abandoned(leftover)
    work = _part_of(target)
    begun = work.with_suffix(BEGUN)
    begun.mkdir()
    with _locked(begun):
        begun.rename(work)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _part_of(target: Path) -> Path:
    """A new name for what will be, or was, the target. Whatever has it is locked from the first moment to the last."""
    return target.with_name(f".{target.name}.{uuid.uuid4().hex}{PART}")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a folder, under whatever name; the system lets go of it even if this process is killed.

    One that is held already, as where this process replaces what it is just making, is safe from being swept, and not waited for.
    """
    held = os.open(folder, os.O_RDONLY)
    try:
        with suppress(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(held)


def remove_abandoned(part: Path) -> bool:
    """Remove a half-written file or folder unless the process that writes it still lives; whether it was removed.

    It stays where the disk, some network's, cannot say.
    """
    try:
        held = os.open(part, os.O_RDWR if part.is_file() else os.O_RDONLY)  # NFS locks no file that is not open for writing
    except OSError:
        return False
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if part.is_file():
            part.unlink(missing_ok=True)
        else:
            shutil.rmtree(part, ignore_errors=True)
    except BlockingIOError:
        return False
    finally:
        os.close(held)
    return True


def whole_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is there whole or not at all, even if the machine stops. Raises OSError that names it."""
    with new_whole_file(path) as file:
        file.write(content)


@contextmanager
def new_whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write that takes the place of ``path`` if the block ends without an error. Raises OSError that names it."""
    part = _part_of(path)
    begun = part.with_suffix(BEGUN)
    try:
        with begun.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            begun.rename(part)
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)
