"""Files of measurements, one entry a case, that a partial run adds to."""

import json
from pathlib import Path
from typing import Any

from amalgam.files import read_json
from amalgam.whole import whole_file

Entry = dict[str, Any]


def measured(file: Path) -> list[Entry]:
    """The entries in the file's order; none before it is there."""
    found: list[Entry] = read_json(file) if file.exists() else []
    return found


def keep(file: Path, entry: Entry, *names: str) -> None:
    """Write an entry where the one of the same values under these names stands, or last if there is none; the file is whole at any time."""
    entries = {tuple(found[name] for name in names): found for found in measured(file)}
    entries[tuple(entry[name] for name in names)] = entry
    whole_file(file, (json.dumps([*entries.values()], indent=2, ensure_ascii=False) + "\n").encode())
