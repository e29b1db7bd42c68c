"""Files of measurements, one entry a case, that a partial run adds to; and which code measured."""

import json
import subprocess
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.protocol import ROOT

from amalgam.files import read_json
from amalgam.whole import whole_file

Entry = dict[str, Any]


def measured(file: Path) -> list[Entry]:
    """The entries in the file's order; none before it is there."""
    found: list[Entry] = read_json(file) if file.exists() else []
    return found


def keep(file: Path, entry: Entry, *names: str) -> Entry:
    """Write an entry where the one of the same values under these names stands, or last if there is none; the file is whole at any time.

    It is told where, when and by which code it was measured, and returned with that.
    """
    entries = {tuple(found[name] for name in names): found for found in measured(file)}
    kept = entries[tuple(entry[name] for name in names)] = entry | made_here()
    whole_file(file, (json.dumps([*entries.values()], indent=2, ensure_ascii=False) + "\n").encode())
    return kept


def made_here() -> dict[str, str | None]:
    """The machine, today's date, and the code."""
    from amalgam.inference import device_name  # here: the processes of scale.py that decode need no torch

    return {"machine": device_name(), "date": datetime.now(UTC).date().isoformat(), "commit": commit()}


@cache
def commit() -> str | None:
    """The one whose code ran when this was first asked, + after it where code or protocols differed from it.

    None outside of a git repository.
    """
    asked = (["rev-parse", "HEAD"], ["status", "--porcelain", "--", "src", "benchmarks/*.py", "benchmarks/*.yaml"])
    head, changed = (subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False).stdout for words in asked)
    return head.strip() + "+" * bool(changed) or None
