"""Files and folders that are either whole or absent."""

import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PART = ".part"  # ends the name of what is being written


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
    going = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}{PART}")
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
    work = target.parent / f".{target.name}.{uuid.uuid4().hex}{PART}"
    work.mkdir()
    held = os.open(work, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)  # let go by the system even if this process is killed
        yield work
    finally:
        os.close(held)
        shutil.rmtree(work, ignore_errors=True)


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
    except OSError:
        return False
    finally:
        os.close(held)
    part.unlink(missing_ok=True) if part.is_file() else shutil.rmtree(part, ignore_errors=True)
    return True


def whole_file(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is there whole or not at all, even if the machine stops. Raises OSError that names it."""
    with new_whole_file(path) as file:
        file.write(content)


@contextmanager
def new_whole_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a file to write that takes the place of ``path`` if the block ends without an error. Raises OSError that names it."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    try:
        with part.open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        part.unlink(missing_ok=True)
