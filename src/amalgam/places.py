"""Where the pipeline keeps what it makes (as dvc.yaml says it), and where files lie that settings name and results tell of."""

import os
from pathlib import Path

FETCHED = "fetched"  # what the pipeline brings
FETCHED_DATA, FETCHED_MODELS = Path(FETCHED, "data"), Path(FETCHED, "models")
SUPPLIED_WEIGHTS, SUPPLIED_TEACHERS, SUPPLIED_CHECKPOINTS = (Path(FETCHED, name) for name in ("weights", "teachers", "checkpoints"))
DATA, MODELS = Path("data"), Path("models")  # pinned by data.dvc and models.dvc
OUTPUTS = "outputs"
PREPARED, TEACHERS, TARGETS, STUDENTS, EVALUATION, LIVE = (
    Path(OUTPUTS, name) for name in ("prepared", "teachers", "targets", "students", "evaluation", "live")
)
RUNS = Path("runs")  # one-offs, by hand
DVC_LOCK = Path("dvc.lock")  # DVC writes down in it with which parameters each stage ran last, and what came of it


def repository_root() -> Path:
    """The user's repository: DVC names it even where a stage runs in a temporary copy."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def brought_file(named: str) -> Path:
    """The file that a setting names: below ``fetched/``, what this run of the pipeline fetched; else relative to the repository's root."""
    path = Path(named).expanduser()
    return path if path.parts[:1] == (FETCHED,) else repository_root() / path


def repository_relative(path: Path) -> str:
    """Where a file lies in the repository; of one outside, its name alone: what is written down must not depend on the machine."""
    if not path.is_absolute():
        return path.as_posix()
    return path.relative_to(repository_root()).as_posix() if path.is_relative_to(repository_root()) else path.name
