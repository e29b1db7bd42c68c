"""The table of README: what students and teachers reach on both tasks, by the labels that the student may use.

    PYTHONPATH=src:. python -m benchmarks.overview

Reads what benchmarks/accuracy.py has run. A cell of fewer seeds than the protocol's gives each one's accuracy and says which they are;
one of other seeds than the first table's says which these are.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from benchmarks.comparison import right_images, with_spread
from benchmarks.markdown import markdown
from benchmarks.protocol import FITTED, Protocol, results

TASKS = ("taskA", "taskB")
COLUMNS = ("student", "labels", "task A, %", "task B, %")
LITE = "EfficientNet-Lite0 from ImageNet's weights"

# What stands in the table: name, labels, protocol and its row.
STUDENTS = [
    (
        "the reference's loss and training, on this network from scratch, in 40 epochs at lr 0.003: mean of padded distributions, T 2, "
        "α 0.1, Adam, steps, no augmentation",
        "all",
        "accuracy",
        "reference recipe (T 2, α 0.1)",
    ),
    ("labels alone (`alpha=0`), a new view in every epoch, else as in the next row", "all", "labels", "label-only, 1"),
    ("the shipped target: `blocks`, T 4, α 0.5", "all", "labels", "blocks, 1"),
    ("all as shipped: the same, 30 epochs, fifteen views, teachers of 20 epochs", "all", "shipped", "shipped"),
    ("labels alone, all else as shipped: 30 epochs", "all", "shipped", "shipped: label-only"),
    ("`stacked`, T 2, α 0.5", "all", "labels", "stacked, 1"),
    ("labels alone, 100 epochs, `mixup` 0.2", "all", "longer", "longer, mixed: label-only"),
    ("`blocks`, T 4, α 0.5, 100 epochs, fifty views, `mixup` 0.2", "all", "longer", "longer, mixed: blocks"),
    ("labels alone", "a tenth", "labels", "label-only, 0.1"),
    ("`stacked`", "a tenth", "labels", "stacked, 0.1"),
    ("`joint`, T 2", "none", "labels", "joint, 0"),
    ("`balanced`, T 1", "none", "labels", "balanced, 0"),
    (f"{LITE}, 96 × 96 pixels, 14 epochs, labels alone", "all", "pretrained", "pre-trained, label-only"),
    (f"{LITE}, 128 × 128 pixels, 20 epochs, labels alone †", "all", "pretrained", "pre-trained at 128 pixels, label-only"),
    (f"{LITE}, 96 × 96 pixels, 140 epochs, labels alone", "a tenth", "pretrained", "pre-trained, label-only, 0.1"),
    (f"{LITE}, 96 × 96 pixels, 14 epochs, `stacked`", "a tenth", "pretrained", "pre-trained, stacked, 0.1"),
    (f"{LITE}, 96 × 96 pixels, 14 epochs, `balanced`", "none", "pretrained", "pre-trained, balanced, 0"),
]
COMBINED = [  # teachers without a student, put together as the row's target is
    ("*no student: the three teachers, put together as for `stacked`*", "a tenth", "labels", "stacked, 0.1"),
]
TEACHERS = {
    "*no student: of the three teachers those that know the class (an oracle says which)*": "oracle-routed",
    "*no student: all three teachers, their mean*": "unrouted",
    "*no student: all three teachers, their joint estimate*": "unrouted, joint",
}


def cell(accuracies: dict[int, float], seeds: list[int], usual: list[int]) -> str:
    """Mean and standard deviation of all ``seeds``, or each of those that have been run; and which these are, if not the ``usual`` ones."""
    if not accuracies:
        return "not run"
    which = f" (seed{'s' * (len(accuracies) > 1)} {', '.join(map(str, accuracies))})"
    if [*accuracies] == seeds:
        return with_spread(np.array(list(accuracies.values()))) + which * (seeds != usual)
    return ", ".join(f"{value:.1f}" for value in accuracies.values()) + which


def of_row(known: dict[str, Any], task: str, file: str, row: str, kept: str) -> dict[int, float]:
    """Test accuracies in percent by seed, of the answers that the entries of a protocol's row hold as ``kept``."""
    protocol = Protocol.named(file)
    jobs = protocol.jobs(task, {row: protocol.rows[row]}, protocol.seeds(task))
    return {job.seed: 100 * float(right_images(known[job.key], kept).mean()) for job in jobs if kept in known.get(job.key, {})}


def cells(known: dict[str, Any], file: str, row: str, kept: str) -> list[str]:
    """Of both tasks."""
    protocol, first = Protocol.named(file), Protocol.named("accuracy")
    return [cell(of_row(known, task, file, row, kept), protocol.seeds(task), first.seeds(task)) for task in TASKS]


def of_teachers(task: str, kind: str) -> dict[int, float]:
    """Those of the first table."""
    protocol = Protocol.named("accuracy")
    return {seed: float(found[kind]) for seed in protocol.seeds(task) if kind in (found := protocol.known_teachers(task, seed))}


def rows(known: dict[str, Any]) -> Iterable[Sequence[str]]:
    for entries, kept in ((STUDENTS, "right"), (COMBINED, FITTED)):
        for name, labels, file, row in entries:
            yield name, labels, *cells(known, file, row, kept)
    first = Protocol.named("accuracy")
    for name, kind in TEACHERS.items():
        yield name, "", *(cell(of_teachers(task, kind), first.seeds(task), first.seeds(task)) for task in TASKS)


def table() -> str:
    return markdown(COLUMNS, rows(results()))


if __name__ == "__main__":
    print(table())
