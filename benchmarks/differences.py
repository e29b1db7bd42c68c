"""The differences between rows that README.md and docs/experiments.md state: the table of them in the latter.

    PYTHONPATH=src:. python -m benchmarks.differences

Reads which they are from differences.yaml, and what benchmarks/accuracy.py has run.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml
from benchmarks.comparison import Right, interval, right_images, t_interval
from benchmarks.markdown import markdown
from benchmarks.protocol import FITTED, UNROUTED, Protocol, results

ENTRIES = Path(__file__).with_suffix(".yaml")
TEACHERS_OF = "teachers as for "  # begins a side that is a row's teachers, put together as its target is, without a student
COLUMNS = ("task", "of", "over", "seeds", "difference (95 %)", "each seed's", "Student's t (95 %)")


@dataclass(frozen=True)
class Difference:
    """Between two rows (seeds, images) of one task."""

    task: str
    of: str
    over: str
    seeds: tuple[int, ...]
    first: Right
    second: Right

    @cached_property
    def bootstrap(self) -> tuple[float, float, float]:
        """Mean, low and high, in points."""
        return interval(self.first, self.second)

    @property
    def by_seed(self) -> list[float]:
        return [100 * float(value) for value in (self.first.astype(float) - self.second).mean(axis=1)]

    @property
    def student(self) -> tuple[float, float] | None:
        """Low and high, in points; None of a single seed."""
        return t_interval(self.first, self.second) if len(self.seeds) > 1 else None

    def cells(self) -> tuple[str, ...]:
        seeds, each = ", ".join(map(str, self.seeds)), ", ".join(f"{value:+.1f}" for value in self.by_seed)
        by_bootstrap = "{:+.1f} ({:+.1f} … {:+.1f})".format(*self.bootstrap)
        by_student = "{:+.1f} … {:+.1f}".format(*self.student) if self.student else "–"
        return self.task, self.of, self.over, seeds, by_bootstrap, each, by_student


def differences() -> list[Difference]:
    """All of them, in the file's order. Raises KeyError if a protocol has no such row, or it has not been run."""
    return [difference(**entry) for entry in yaml.safe_load(ENTRIES.read_text(encoding="utf-8"))]


def difference(task: str, of: str, over: str, seeds: Sequence[int] = ()) -> Difference:
    """Between two sides as the file of entries names them; of all seeds of the first one's protocol, where none are given."""
    chosen = tuple(seeds or opened(of)[0].seeds(task))
    return Difference(task, of, over, chosen, answers(task, of, chosen), answers(task, over, chosen))


def answers(task: str, side: str, seeds: tuple[int, ...]) -> Right:
    """(seeds, images): which test images a side gets right."""
    protocol, row = opened(side)
    if row in UNROUTED:
        return np.stack([right_images(protocol.known_teachers(task, seed), UNROUTED[row]) for seed in seeds])
    student, kept = row.removeprefix(TEACHERS_OF), FITTED if row.startswith(TEACHERS_OF) else "right"
    jobs = protocol.jobs(task, {student: protocol.rows[student]}, list(seeds))
    known = results()
    return np.stack([right_images(known[job.key], kept) for job in jobs])


def opened(side: str) -> tuple[Protocol, str]:
    """A side's protocol and row."""
    name, _, row = side.partition("/")
    return Protocol.named(name), row


def table(found: list[Difference]) -> str:
    return markdown(COLUMNS, (difference.cells() for difference in found))


if __name__ == "__main__":
    print(table(differences()))
