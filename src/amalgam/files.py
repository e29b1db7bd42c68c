"""Files and folders that are either whole or absent."""

import fcntl
import glob
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, overload

import numpy as np
import numpy.typing as npt

FETCHED = "fetched"  # where the pipeline puts what it brings
PART = ".part"  # ends the name of what is being written


def repository_root() -> Path:
    """The user's repository: DVC names it even where a stage runs in a temporary copy."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def brought_file(named: str) -> Path:
    """The file that a setting names: below ``fetched/``, what this run of the pipeline fetched; else relative to the repository's root."""
    path = Path(named).expanduser()
    return path if path.parts[:1] == (FETCHED,) else repository_root() / path


def place(path: Path) -> str:
    """Where a file lies in the repository; of one outside, its name alone: what is written down must not depend on the machine."""
    if not path.is_absolute():
        return path.as_posix()
    return path.relative_to(repository_root()).as_posix() if path.is_relative_to(repository_root()) else path.name


def new_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> "np.memmap[Any, np.dtype[Any]]":
    """An array in a new .npy file, memory-mapped, whose space the disk has set aside: a full one is an OSError here, and no crash while the
    map is filled."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


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


class Lines(Sequence[str]):
    """The lines of a text file: read one after another, or kept once any is asked for by its place."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def _kept(self) -> list[str]:
        return [*iter(self)]

    def __iter__(self) -> Iterator[str]:
        with self.path.open(encoding="utf-8", newline="\n") as file:
            yield from (line.removesuffix("\n") for line in file)

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return self._kept[index]


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def save_array(path: Path, array: npt.NDArray[Any]) -> None:
    """Write a small .npy file; a full disk is an OSError that says so, which ``np.save`` into a file's own stream does not."""
    content = io.BytesIO()
    np.save(content, array)
    path.write_bytes(content.getbuffer())


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` with keys in their own order, indented, with a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def sha256_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_arrays(*arrays: npt.NDArray[Any]) -> str:
    """A hash of shapes, types and contents, in order."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
