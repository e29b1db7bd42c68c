"""Files that are whole or absent, entries of the store among them, and lines that are read when asked for."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from amalgam.files import Lines, new_array, write_json
from amalgam.store import entry
from amalgam.whole import PART, remove, remove_abandoned, whole_file, whole_folder


def test_lines_are_the_files(tmp_path: Path) -> None:
    names = ["a b.png", "", "zeile\u2028mit Trenner", "last"]
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    lines = Lines(tmp_path / "names.txt")
    assert list(iter(lines)) == names
    assert len(lines) == 4
    assert (lines[2], lines[-1], lines[1:3]) == (names[2], "last", names[1:3])


def test_lines_are_read_when_asked_for(tmp_path: Path) -> None:
    lines = Lines(tmp_path / "names.txt")
    (tmp_path / "names.txt").write_text("one\n")
    assert lines[0] == "one"
    (tmp_path / "names.txt").unlink()
    assert lines[0] == "one", "and kept"


def test_a_new_array_has_all_its_space_on_disk(tmp_path: Path) -> None:
    """Not a hole that a full disk would leave to a crash."""
    array = new_array(tmp_path / "a.npy", np.float16, (1000, 1000))
    assert array.shape == (1000, 1000)
    assert (tmp_path / "a.npy").stat().st_blocks * 512 >= 2_000_000
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), 0)


def test_an_entry_of_the_store_is_on_disk_before_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a machine that stops leaves an empty manifest that is taken for whole ever after."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    kept: set[int] = set()
    fsync = os.fsync

    def watched(handle: int) -> None:
        assert not (tmp_path / ".amalgam" / "teachers" / "key").exists()
        kept.add(os.fstat(handle).st_ino)
        fsync(handle)

    def make(folder: Path) -> None:
        (folder / "parts").mkdir()
        write_json(folder / "manifest.json", {"classes": []})
        write_json(folder / "parts" / "0.json", {})

    monkeypatch.setattr(os, "fsync", watched)
    made = entry("teachers", "key", make)
    assert kept >= {path.stat().st_ino for path in (made, *made.rglob("*"))}


def swept(folder: Path, do: Callable[[], None]) -> int:
    """Do it while another process removes what it takes for abandoned, before each line of the module; how often it looked."""
    looked = 0

    def sweep(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal looked
        if frame.f_code.co_filename != remove.__code__.co_filename:
            return None
        sys.settrace(None)
        looked += 1
        for part in folder.glob(f".*{PART}"):
            remove_abandoned(part)
        sys.settrace(sweep)
        return sweep

    sys.settrace(sweep)
    try:
        do()
    finally:
        sys.settrace(None)
    return looked


def test_what_is_being_written_or_removed_is_never_taken_for_abandoned(tmp_path: Path) -> None:
    """Not even in the moment before it is locked, nor in that after."""
    folder, file = tmp_path / "folder", tmp_path / "file"

    def write() -> None:
        with whole_folder(folder) as work:
            (work / "inside").write_text("all of it")

    assert swept(tmp_path, write) > 10
    assert swept(tmp_path, write) > 10, "over the old one"
    assert (folder / "inside").read_text() == "all of it"
    assert swept(tmp_path, lambda: whole_file(file, b"content")) > 5
    assert file.read_bytes() == b"content"
    assert swept(tmp_path, lambda: remove(folder)) > 5
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_folder_that_is_just_being_made_may_be_made_anew(tmp_path: Path) -> None:
    """In a process of its own: one that waited for itself would wait for ever."""
    code = """
from pathlib import Path
from amalgam.whole import whole_folder
with whole_folder(Path("out")) as work:
    with whole_folder(work) as again:
        (again / "inside").touch()
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["out", "out/inside"]
