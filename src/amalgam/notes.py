"""What people read of a run: its name, the commands that repeat it, the note on its page."""

import difflib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amalgam.errors import UserError, without_passwords
from amalgam.params_file import PARAMS_FILE, read_yaml
from amalgam.places import repository_relative
from amalgam.student_settings import StudentSettings

# Settings that each run's name says anyhow.
NAMED = frozenset(
    ("student_model", "pretrained", "alpha", "temperature", "target", "objective", "standardize_logits", "label_fraction", "seed", "run")
)
MATRIX_UP_TO = 20  # classes; beyond, a table would be wider than the page
UNQUOTED = re.compile(r"[\w./:+*%@?|-]+( [\w./:+*%@?|-]+)*", re.ASCII)  # what DVC's -S takes as it is
MARKUP = re.compile(r"[\\|*_`<~\[]")  # of Markdown, in the middle of a line
KEY = re.compile(r"[a-zA-Z_$][\w$-]*", re.ASCII)  # that it can name
LONGEST_NOTE = 8000  # characters that MLflow keeps; it would cut off the rest, and a half command repeats something else
COMMANDS = "repeat.sh"  # the artifact that holds the commands too
CONFUSIONS = 15  # the most frequent ones, listed instead

KeyPath = tuple[str, ...]  # a setting's name and those of its blocks, from the outermost


def recorded_settings(settings: StudentSettings) -> dict[str, Any]:
    """All settings by name, a file by its place in the repository or, where it lies outside, by its name alone."""
    weights = settings.student_weights
    return settings.model_dump() | {"student_weights": repository_relative(Path(weights).expanduser()) if weights else None}


def run_name(settings: StudentSettings, changed: Mapping[str, str], task: str) -> str:
    """Short, and different where settings are: ``MobileNetV3 α0.5 T4 blocks s42``, what else was ``changed``, then ``run``.

    Of the changed settings, by their dotted keys, those of the teachers count and those of the student that hold for ``task``.
    """
    words = [settings.student_model, "pretrained" if settings.pretrained else "", f"α{settings.alpha:g}"]
    if settings.alpha > 0:
        objective = "" if settings.objective == "kl" else f"-{settings.objective}"
        words += [f"T{settings.temperature:g}", f"{settings.target}{objective}", "standardized" if settings.standardize_logits else ""]
    labels = "" if settings.label_fraction == 1 else f"labels {100 * settings.label_fraction:g}%"
    students = set(StudentSettings.model_fields) - NAMED
    own = [name for name in sorted(students) if name in changed or f"{task}.{name}" in changed]
    others = [f"{name}={recorded_settings(settings)[name]}" for name in own]
    others += [f"{key}={value}" for key, value in changed.items() if key.startswith("teacher.")]
    return " ".join(word for word in [*words, labels, f"s{settings.seed}", *others, settings.run] if word)


def changed_settings(now: str, then: str) -> dict[str, str]:
    """The dotted keys whose value in the YAML text ``now`` is another than in ``then``, with the value as DVC's ``-S`` takes it.

    None are known where ``then`` was refused: what a commit holds beside the present file must not stop a training.
    """
    before = _readable(then)
    return {} if before is None else {".".join(path): _argument(value) for path, value in _changed(_read(now), before).items()}


def arguments(now: str, then: str) -> list[str] | None:
    """What DVC's ``-S`` is to be given to make the YAML text ``now`` of ``then``: ``key=value``, ``+new=value``, ``~removed``.

    None where a key is none that it can name, one with a plus sign or an umlaut, say, or ``then`` was refused.
    """
    before, after = _readable(then), _read(now)
    if before is None:
        return None
    removed, known, changed = _removed(before, after), _flat(before), _changed(after, before)
    if not all(KEY.fullmatch(key) for path in [*removed, *changed] for key in path):
        return None
    settings = ((f"{'' if path in known else '+'}{'.'.join(path)}", value) for path, value in changed.items())
    return [*(f"~{'.'.join(path)}" for path in removed), *(f"{key}={_argument(value)}" for key, value in settings)]


def _read(text: str) -> dict[str, Any]:
    return read_yaml(text, str(PARAMS_FILE))[0]


def _readable(text: str) -> dict[str, Any] | None:
    try:
        return _read(text)
    except UserError:
        return None


def _changed(after: Mapping[str, Any], before: Mapping[str, Any]) -> dict[KeyPath, Any]:
    known = _flat(before)
    return {path: value for path, value in _flat(after).items() if path not in known or known[path] != value}


def _flat(values: Mapping[str, Any], prefix: KeyPath = ()) -> dict[KeyPath, Any]:
    leaves: dict[KeyPath, Any] = {}
    for key, value in values.items():
        path = (*prefix, str(key))
        leaves |= _flat(value, path) if isinstance(value, dict) and value else {path: value}
    return leaves


def _removed(before: Mapping[str, Any], after: Mapping[str, Any], prefix: KeyPath = ()) -> list[KeyPath]:
    """The paths, of blocks as a whole, that stand in ``before`` alone, or there for something of another kind."""
    found: list[KeyPath] = []
    for key, value in before.items():
        path = (*prefix, str(key))
        if key not in after or bool(after[key] and isinstance(after[key], dict)) != bool(value and isinstance(value, dict)):
            found.append(path)
        elif isinstance(value, dict):
            found += _removed(value, after[key], path)
    return found


def _argument(value: Any) -> str:
    if value is None:
        return "null"
    if value == {}:
        return "{}"
    if isinstance(value, list):
        return f"[{','.join(map(_argument, value))}]"
    text = without_passwords(value)
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return text if UNQUOTED.fullmatch(text) else f"'{escaped}'"


def repeat(commit: str | None, now: str, then: str | None, by_hand: str | None = None) -> str:
    """The commands that repeat a run of the settings in the YAML text ``now``, of whose ``commit`` ``then`` is known.

    That is the run's own command, if it was started ``by_hand``; else DVC's, which takes the settings that differ. Where it cannot, they
    come as a patch.
    """
    first = [f"git checkout {commit}"] * bool(commit)
    settings = [] if then is None else arguments(now, then)
    if by_hand is None and settings is not None:
        return "\n".join([*first, "dvc exp run" + "".join(f" -S {shlex.quote(setting)}" for setting in settings)])
    patch = "" if then is None else _patch(now, then)
    return "\n".join([*first, *([f"git apply <<'END'\n{patch}END"] if patch else []), by_hand or "dvc exp run"])


def _patch(now: str, then: str) -> str:
    """What git makes ``now`` of params.yaml with, that is ``then``; empty where they are the same."""
    before, after = (text.splitlines(keepends=True) for text in (then, now))
    found = difflib.unified_diff(before, after, f"a/{PARAMS_FILE}", f"b/{PARAMS_FILE}")
    return without_passwords("".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in found))


def run_note(
    task: str,
    architecture: str,
    trained: Mapping[str, float],
    found: Mapping[str, Any] | None,
    confusion: Sequence[Sequence[str]] | None,
    commands: str,
    dirty: bool,
    selected_on: str | None = None,
) -> str:
    """Markdown: results, the teachers beside them, what is confused with what, how to repeat it.

    ``trained`` are the training's metrics, of images that the epoch was ``selected_on`` where not the validation images; ``found`` and
    ``confusion`` (a row an actual class, its name first, below a row of the predicted classes' names) are the evaluation's. Where it would
    be too long for MLflow, the matrix is left out, or the note says where the commands stand.
    """
    rows = []
    if "val_accuracy" in trained:
        images = f"{selected_on}, which chose the epoch" if selected_on else "validation images"
        rows.append((f"student, {images}", f"{trained['val_accuracy']:g}"))
    if found:
        low, high = found["interval_95"]
        chosen = " (they chose the epoch)" if selected_on else ""
        rows.append((f"**student, test images**{chosen}", f"**{found['overall_accuracy']:g}** ({low:g} … {high:g})"))
        rows.append(("teachers, told who knows each image", f"{found['oracle_routed_teachers']:g}"))
        rows.append(("teachers, not told, their mean", f"{found['unrouted_teachers']:g}"))
        rows.append(("teachers, not told, their joint estimate", f"{found['unrouted_teachers_joint']:g}"))
        if (fitted := found.get("unrouted_teachers_fitted")) is not None:
            rows.append(("teachers, not told, put together as the student was taught", f"{fitted:g}"))
        doubts = found["teacher_doubts"]
        for name, accuracy in found["teacher_accuracy"].items():
            rows.append((f"teacher {_cell(name)}, on its own classes" + (f" ({doubts[name]})" if name in doubts else ""), f"{accuracy:g}"))
    table = "\n".join(["| accuracy in percent | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    remark = "\n\nThe code had changes that no commit holds: the commands repeat it only with them." if dirty else ""
    matrix = f"\n\nTest images by class:\n\n{_confusion_table(confusion)}" if confusion else ""
    head, repeating = f"**{architecture}** for {task}\n\n{table}", f"\n\nTo repeat it:\n\n```\n{commands}\n```{remark}\n"
    elsewhere = f"\n\nTo repeat it: the commands in the artifact student/{COMMANDS}.{remark}\n"
    shorter = (matrix + repeating, repeating, matrix + elsewhere)
    return head + next((rest for rest in shorter if len(head + rest) <= LONGEST_NOTE), elsewhere)


def _cell(text: str) -> str:
    """As a cell of a Markdown table shows it as it is."""
    return MARKUP.sub(r"\\\g<0>", text)


def _confusion_table(confusion: Sequence[Sequence[str]]) -> str:
    """The matrix of counts; of many classes, what is most often taken for what."""
    (_, *classes), *rows = ((_cell(first), *map(_cell, others)) for first, *others in confusion)
    if len(classes) <= MATRIX_UP_TO:
        lines = [f"| **{actual}** | {' | '.join(count if count != '0' else '·' for count in counts)} |" for actual, *counts in rows]
        return "\n".join([f"| actual \\ predicted | {' | '.join(classes)} |", "|---" * (len(classes) + 1) + "|", *lines])
    wrong = [
        (int(n), actual, name) for actual, *counts in rows for name, n in zip(classes, counts, strict=True) if name != actual and n != "0"
    ]
    lines = [f"| {actual} | {name} | {count} |" for count, actual, name in sorted(wrong, key=lambda found: -found[0])[:CONFUSIONS]]
    return "\n".join(["| actual | taken for | images |", "|---|---|---|", *lines])
