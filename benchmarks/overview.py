"""The table of README: what students and teachers reach on both tasks, by the labels that the student may use.

    PYTHONPATH=src:. python -m benchmarks.overview

Reads what benchmarks/accuracy.py has run; a cell of fewer than three seeds gives each one's accuracy, and says which.
"""

from typing import Any

import numpy as np
from benchmarks.accuracy import FITTED, RESULTS
from benchmarks.comparison import right_images, with_spread

from amalgam.files import read_json

TASKS = ("taskA", "taskB")
SEEDS = 3
LR = 0.003

# What stands in the table: labels, and the names of the row in the protocols.
STUDENTS = {
    "the reference's loss and training, on this network: mean of padded distributions, T 2, α 0.1, Adam, steps, no augmentation": (
        "all",
        "reference recipe (T 2, α 0.1)",
    ),
    "labels alone, the shipped recipe otherwise (`alpha=0`)": ("all", "label-only", "label-only, 1"),
    "the shipped target: `blocks`, T 4, α 0.5": ("all", "blocks", "blocks, 1"),
    "`stacked`, T 2, α 0.5": ("all", "stacked", "stacked, 1"),
    "EfficientNet-Lite0 from ImageNet's weights, 128 × 128 pixels, 20 epochs, labels alone": (
        "all",
        "pre-trained at 128 pixels, label-only",
    ),
    "labels alone": ("a quarter", "label-only, 0.25"),
    "`stacked`": ("a quarter", "stacked, 0.25"),
    "labels alone ": ("a tenth", "label-only, 0.1"),
    "`stacked` ": ("a tenth", "stacked, 0.1"),
    "`joint`, T 2": ("none", "joint, 0"),
    "`balanced`, T 1": ("none", "balanced, 0"),
}
COMBINED = {  # teachers without a student, put together as the row's target is
    "*its teachers, `stacked` themselves, no student*": ("all", "stacked", "stacked, 1"),
    "*its teachers, `stacked` themselves, no student* ": ("a tenth", "stacked, 0.1"),
    "*its teachers, `balanced` themselves, no student*": ("none", "balanced, 0"),
}
TEACHERS = {
    "*its teachers, if someone says which to ask*": "oracle-routed",
    "*its teachers, if nobody does: their mean*": "unrouted",
    "*the same: their joint estimate*": "unrouted, joint",
}


def cell(accuracies: dict[int, float]) -> str:
    """Mean and standard deviation of all seeds, or each of those that have been run, and which these are."""
    if len(accuracies) == SEEDS:
        return with_spread(np.array(list(accuracies.values())))
    if not accuracies:
        return "not run"
    values, seeds = ", ".join(f"{value:.1f}" for value in accuracies.values()), ", ".join(map(str, accuracies))
    return f"{values} (seed{'s' * (len(accuracies) > 1)} {seeds})"


def of_rows(known: dict[str, Any], task: str, rows: tuple[str, ...], kept: str = "right") -> dict[int, float]:
    """Test accuracies in percent by seed, of the answers that entries hold as ``kept``."""
    runs = [run for run in known.values() if run.get("task") == task and run.get("row") in rows and kept in run]
    found = {int(run["seed"]): 100 * float(right_images(run, kept).mean()) for run in runs if run["settings"].get("lr") == LR}
    return dict(sorted(found.items()))


def of_teachers(known: dict[str, Any], task: str, kind: str) -> dict[int, float]:
    return {seed: float(found[kind]) for seed in range(SEEDS) if kind in (found := known.get(f"teachers {task} seed {seed}", {}))}


def table() -> str:
    known = read_json(RESULTS)
    lines = ["| student | labels | task A, % | task B, % |", "|---|---|---|---|"]
    for entries, kept in ((STUDENTS, "right"), (COMBINED, FITTED)):
        for name, (labels, *rows) in entries.items():
            cells = [cell(of_rows(known, task, tuple(rows), kept)) for task in TASKS]
            lines.append(f"| {name.strip()} | {labels} | {' | '.join(cells)} |")
    for name, kind in TEACHERS.items():
        lines.append(f"| {name} | | {' | '.join(cell(of_teachers(known, task, kind)) for task in TASKS)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
