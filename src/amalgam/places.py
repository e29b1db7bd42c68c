"""Where the pipeline keeps what it makes (as dvc.yaml says it), and where files lie that settings name and results tell of."""

import os
import re
from pathlib import Path

from amalgam.errors import UserError

FETCHED = "fetched"  # what the pipeline brings
FETCHED_DATA, FETCHED_MODELS = Path(FETCHED, "data"), Path(FETCHED, "models")
SUPPLIED_WEIGHTS, SUPPLIED_TEACHERS, SUPPLIED_CHECKPOINTS = (Path(FETCHED, name) for name in ("weights", "teachers", "checkpoints"))
DATA, MODELS = Path("data"), Path("models")  # pinned by data.dvc and models.dvc
OUTPUTS = "outputs"
PREPARED, TEACHERS, TARGETS, STUDENTS, EVALUATION, LIVE = (
    Path(OUTPUTS, name) for name in ("prepared", "teachers", "targets", "students", "evaluation", "live")
)
RUNS = Path("runs")  # one-offs, by hand
WEIGHTS_FILE = "weights.safetensors"  # a teacher's, or of what was brought
TEACHER_MANIFEST = "manifest.json"  # beside a teacher's weights
DVC_LOCK = Path("dvc.lock")  # DVC writes down in it with which parameters each stage ran last, and what came of it
URI_VARIABLE = "MLFLOW_TRACKING_URI"
NO_ADDRESS = re.compile(r"\?|%[0-9a-fA-F]{2}")  # what a database's address takes for something else


def repository_root() -> Path:
    """The user's repository: DVC names it even where a stage runs in a temporary copy."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd()).resolve()


def check_root() -> None:
    """Raises UserError if MLflow's database is to lie in the repository's root, and cannot."""
    root = str(repository_root())
    if not os.environ.get(URI_VARIABLE) and (found := NO_ADDRESS.search(root)):
        raise UserError(f"{root}: MLflow can keep no database in a folder with {found[0]} in its name; rename it, or set {URI_VARIABLE}")


def brought_file(named: str) -> Path:
    """The file that a setting names: below ``fetched/``, what this run of the pipeline fetched; else relative to the repository's root."""
    path = expanded(named, named)
    return path if path.parts[:1] == (FETCHED,) else repository_root() / path


def expanded(named: str, what: str) -> Path:
    """``named`` with its ~ filled in. Raises UserError, naming ``what``, where nobody has that name."""
    try:
        return Path(named).expanduser()
    except RuntimeError as error:
        raise UserError(f"{what}: {named} begins with the home of someone who has none here; write the path out") from error


def repository_relative(path: Path) -> str:
    """Where a file lies in the repository; of one outside, its name alone: what is written down must not depend on the machine."""
    if not path.is_absolute():
        return path.as_posix()
    return path.relative_to(repository_root()).as_posix() if path.is_relative_to(repository_root()) else path.name
