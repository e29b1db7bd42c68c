"""Results that outlive a stage's outputs, which DVC deletes before each run: ``.amalgam/`` in the repository's root.

An entry is a folder named by the fingerprint of all that determines it. Deleting the store costs time, never a result.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from amalgam.places import repository_root
from amalgam.whole import sync, whole_folder

STORE = ".amalgam"
TEACHERS, VIEWS, DOWNLOADS = "teachers", "views", "downloads"  # kinds of entries that make clean removes where nothing used them for long
CHECKPOINTS, DIVERGED = "checkpoints", "diverged"


def entry(kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """The folder of entry ``key``, made by ``make(folder)`` if it is not there; processes that want the same one wait."""
    folder = repository_root() / STORE / kind / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if not folder.is_dir():
            with whole_folder(folder) as work:
                make(work)
                sync(work)  # an entry that is there is whole, even if the machine stops
        os.utime(folder)  # the time of last use, by which make clean goes
    return folder


def entries(kind: str) -> list[Path]:
    """The folders of all whole entries, by key."""
    return sorted(path for path in (repository_root() / STORE / kind).glob("*") if path.is_dir() and not path.name.startswith("."))


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold an entry's lock for the block, if nobody else does: whether it is held."""
    lock = FileLock(folder.with_suffix(".lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold an entry's lock for the block; who has to wait for another process says so."""
    with held(folder) as free:
        if free:
            yield
            return
    lock = FileLock(folder.with_suffix(".lock"))
    print(f"waiting for another process that makes the same (it holds {lock.lock_file})", file=sys.stderr, flush=True)
    with lock:
        yield


def copy_entry(folder: Path, target: Path) -> None:
    """Copy an entry's files into ``target``, so that nobody can change the store through it."""
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(folder.iterdir()):
        shutil.copyfile(file, target / file.name)
