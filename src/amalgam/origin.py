"""Where a run comes from: DVC's stage and experiment, git's commit, the pinned data and teachers, the machine."""

import getpass
import os
import platform
import subprocess
from pathlib import Path

import yaml

from amalgam.notes import changed_settings, repeat
from amalgam.params_file import PARAMS_FILE


def origin_tags() -> dict[str, str]:
    """All of it, of the current process and folder, as tags of a run."""
    variables = {"dvc.stage": "DVC_STAGE", "dvc.experiment": "DVC_EXP_NAME", "dvc.baseline": "DVC_EXP_BASELINE_REV"}
    tags = {tag: os.environ[variable] for tag, variable in variables.items() if os.environ.get(variable)}
    commit = code_commit()
    if commit:
        tags |= {"git.commit": commit, "git.dirty": str(code_is_dirty()).lower(), "mlflow.source.git.commit": commit}
    tags |= {f"dvc.{name}": found for name, found in ((name, pinned(name)) for name in ("data", "models")) if found}
    return tags | {"host": platform.node(), "mlflow.user": user(), "mlflow.source.type": "LOCAL"}


def user() -> str:
    """By name, or by number where there is none, as in many containers."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def code_commit() -> str | None:
    """The commit whose code runs: an experiment's baseline, whatever HEAD may be by now."""
    return os.environ.get("DVC_EXP_BASELINE_REV") or (_git("rev-parse", "HEAD") or "").strip() or None


def code_is_dirty() -> bool:
    """Whether the code differs from its commit; parameters are recorded apart."""
    return bool(_git("status", "--porcelain", "--", "src", "stages", "dvc.yaml"))


def committed_params() -> str | None:
    """params.yaml as the commit holds it; None where it does not, or nobody could read it."""
    return _git("show", f"{code_commit()}:./{PARAMS_FILE}")


def pinned(name: str) -> str | None:
    """The hash that ``data.dvc`` or ``models.dvc`` pins; None before DVC has seen what it pins."""
    file = Path(f"{name}.dvc")
    if not file.is_file():
        return None
    found: str | None = yaml.safe_load(file.read_text(encoding="utf-8"))["outs"][0].get("md5")
    return found


def changed_from_commit() -> dict[str, str]:
    """The settings, by dotted keys, that are others than the commit's."""
    committed = committed_params()
    return changed_settings(PARAMS_FILE.read_text(encoding="utf-8"), committed) if committed else {}


def commands_that_repeat(by_hand: str | None = None) -> str:
    """A run of the code and the settings as they are now; ``by_hand`` is its own command, where it is none of the pipeline."""
    return repeat(code_commit(), PARAMS_FILE.read_text(encoding="utf-8"), committed_params(), by_hand)


def _git(*arguments: str) -> str | None:
    """What git answers in the current folder, which is the experiment's own copy of the repository; None if it fails, or is no text."""
    try:
        found = subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", check=False)
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return found.stdout if found.returncode == 0 else None
