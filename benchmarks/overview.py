"""The table of README: what students and teachers reach on both tasks, by the labels that the student may use.

    PYTHONPATH=src:. python -m benchmarks.overview

Reads what benchmarks/accuracy.py has run; a cell of fewer than three seeds says so by giving each one's accuracy.
"""

from typing import Any

import numpy as np
from benchmarks.accuracy import RESULTS
from benchmarks.comparison import right_images, with_spread

from amalgam.files import read_json

TASKS = ("taskA", "taskB")
SEEDS = 3
LR = 0.003

# What stands in the table: labels, and the names of the row in the protocols.
STUDENTS = {
    "the reference recipe: mean of padded distributions, T 2, α 0.1, Adam, steps, no augmentation": (
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
TEACHERS = {
    "*its teachers, if someone says which to ask*": "oracle-routed",
    "*its teachers, if nobody does: their mean*": "unrouted",
    "*the same: their joint estimate*": "unrouted, joint",
}


def cell(accuracies: list[float]) -> str:
    """Mean and standard deviation of all seeds, or each of those that have been run."""
    return with_spread(np.array(accuracies)) if len(accuracies) == SEEDS else ", ".join(f"{value:.1f}" for value in accuracies)


def of_students(known: dict[str, Any], task: str, rows: tuple[str, ...]) -> list[float]:
    """Test accuracies in percent by seed."""
    runs = [run for run in known.values() if run.get("task") == task and run.get("row") in rows and "right" in run]
    return [
        100 * float(right_images(run).mean()) for run in sorted(runs, key=lambda run: int(run["seed"])) if run["settings"].get("lr") == LR
    ]


def of_teachers(known: dict[str, Any], task: str, kind: str) -> list[float]:
    return [float(found[kind]) for seed in range(SEEDS) if kind in (found := known.get(f"teachers {task} seed {seed}", {}))]


def table() -> str:
    known = read_json(RESULTS)
    lines = ["| student | labels | task A, % | task B, % |", "|---|---|---|---|"]
    for name, (labels, *rows) in STUDENTS.items():
        cells = [cell(of_students(known, task, tuple(rows))) for task in TASKS]
        lines.append(f"| {name.strip()} | {labels} | {' | '.join(cells)} |")
    for name, kind in TEACHERS.items():
        lines.append(f"| {name} | | {' | '.join(cell(of_teachers(known, task, kind)) for task in TASKS)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
