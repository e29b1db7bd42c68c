"""What people read of a run: its name, the commands that repeat it, the note on its page."""

import shlex
from collections.abc import Mapping
from typing import Any

from amalgam.params import PARAMS_FILE, StudentSettings, read_yaml


def run_name(settings: StudentSettings) -> str:
    """Short, and different where the settings that people compare are: ``MobileNetV3 α0.5 T4 blocks s42``, then ``run``."""
    words = [settings.student_model, "pretrained" if settings.pretrained else "", f"α{settings.alpha:g}"]
    if settings.alpha > 0:
        objective = "" if settings.objective == "kl" else f"-{settings.objective}"
        words += [f"T{settings.temperature:g}", f"{settings.target}{objective}", "standardized" if settings.standardize_logits else ""]
    labels = "" if settings.label_fraction == 1 else f"labels {100 * settings.label_fraction:g}%"
    return " ".join(word for word in [*words, labels, f"s{settings.seed}", settings.run] if word)


def changed_settings(now: str, then: str) -> dict[str, str]:
    """The dotted keys whose value in the YAML text ``now`` is another than in ``then``, with the value as DVC's ``-S`` takes it."""
    before, after = (_flat(read_yaml(text, str(PARAMS_FILE))[0]) for text in (then, now))
    return {key: _argument(value) for key, value in after.items() if key not in before or before[key] != value}


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return leaves


def _argument(value: Any) -> str:
    if value is None:
        return "null"
    return f"[{','.join(map(_argument, value))}]" if isinstance(value, list) else str(value) or "''"


def repeat(commit: str | None, changed: Mapping[str, str]) -> str:
    """The commands that repeat a run made from ``commit`` with ``changed`` settings."""
    settings = "".join(f" -S {shlex.quote(f'{key}={value}')}" for key, value in changed.items())
    return "\n".join([f"git checkout {commit}"] * bool(commit) + [f"dvc exp run{settings}"])


def run_note(
    task: str, architecture: str, trained: Mapping[str, float], found: Mapping[str, Any] | None, commands: str, dirty: bool
) -> str:
    """Markdown: results, the teachers beside them, how to repeat it. ``trained`` are the training's metrics, ``found`` the evaluation's."""
    rows = []
    if "val_accuracy" in trained:
        rows.append(("student, validation images", f"{trained['val_accuracy']:g}"))
    if found:
        low, high = found["interval_95"]
        rows.append(("**student, test images**", f"**{found['overall_accuracy']:g}** ({low:g} … {high:g})"))
        rows.append(("teachers, told who knows each image", f"{found['oracle_routed_teachers']:g}"))
        rows.append(("teachers, not told", f"{found['unrouted_teachers']:g}"))
        rows += [(f"teacher {name}, on its own classes", f"{accuracy:g}") for name, accuracy in found["teacher_accuracy"].items()]
    table = "\n".join(["| accuracy in percent | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    remark = "\n\nThe code had changes that no commit holds: the commands repeat it only with them." if dirty else ""
    return f"**{architecture}** for {task}\n\n{table}\n\nTo repeat it:\n\n```\n{commands}\n```{remark}\n"
