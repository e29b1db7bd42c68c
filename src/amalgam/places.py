"""Where files lie that settings name and that results tell of."""

import os
from pathlib import Path

FETCHED = "fetched"  # where the pipeline puts what it brings


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
