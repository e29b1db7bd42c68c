"""Reading and writing of arrays, JSON and lines of text; and hashes of contents."""

import hashlib
import io
import json
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from amalgam.errors import UserError


def new_array(path: Path, dtype: npt.DTypeLike, shape: tuple[int, ...]) -> "np.memmap[Any, np.dtype[Any]]":
    """An array in a new .npy file, memory-mapped, whose space the disk has set aside: a full one is an OSError here, and no crash while the
    map is filled."""
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    return array


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


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file that anyone may have written says. Raises UserError if it is no JSON object."""
    try:
        found = read_json(path)
    except ValueError as error:
        raise UserError(f"{path} is damaged, or no JSON ({error}); restore it, or move it away") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds no JSON object; restore it, or move it away")
    return found


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
