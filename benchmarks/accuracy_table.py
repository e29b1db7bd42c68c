"""A table of accuracies: a line a row of a protocol, from what has been run."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.comparison import Right, gain, right_images, with_spread
from benchmarks.markdown import markdown
from benchmarks.protocol import FITTED, RATES, UNROUTED, Job, Protocol, Settings, results

NONE = "–"  # in place of what a row has over itself, or over one that has not been run with each seed

Cells = dict[str, str]  # of a column, by row


@dataclass(frozen=True)
class Table:
    """What is asked for of a protocol."""

    protocol: Protocol
    task: str
    rows: dict[str, Settings]
    seeds: list[int]

    def jobs(self) -> list[Job]:
        return self.protocol.jobs(self.task, self.rows, self.seeds)

    def tested(self) -> dict[str, list[dict[str, Any]]]:
        """What was found of each row that has been run with each of the seeds."""
        known, found = results(), dict[str, list[dict[str, Any]]]()
        for job in self.protocol.chosen_jobs(self.task, self.rows, self.seeds):
            if job.is_tested:
                found.setdefault(job.row, []).append(known[job.key])
        return {row: entries for row, entries in found.items() if len(entries) == len(self.seeds)}

    def teachers(self) -> list[dict[str, Any]]:
        """What each seed's teachers have reached; nothing where one's have not been run."""
        found = [entry for seed in self.seeds if (entry := self.protocol.known_teachers(self.task, seed))]
        return found if len(found) == len(self.seeds) else []

    def printed(self) -> str:
        """Markdown: the rows that were run with each seed, then the controls. A column in which nothing would stand is left out."""
        done, teachers = self.tested(), self.teachers()
        right = {row: answers(found) for row, found in done.items()}
        columns = {
            "chosen": self.choices(done),
            "validation %": {row: f"{np.mean([run['validation'] for run in found]):.1f}" for row, found in done.items()},
            "test %": {row: accuracy(right[row]) for row in done} | rates(teachers) | combined(done),
            **self.gains([*done], right | unrouted(teachers)),
        }
        shown = {name: cells for name, cells in columns.items() if any(cell != NONE for cell in cells.values())}
        rows = ((row, *(cells.get(row, "") for cells in shown.values())) for row in columns["test %"])
        return markdown(("row", *shown), rows)

    def choices(self, done: dict[str, Any]) -> Cells:
        """Of the grid's points, if there are several."""
        if len(self.protocol.grid) == 1:
            return {}
        points = {row: self.protocol.choice(self.task, row) or {} for row in done}
        return {row: ", ".join(f"{name} {value:g}" for name, value in point.items()) for row, point in points.items()}

    def gains(self, done: list[str], right: dict[str, Right]) -> dict[str, Cells]:
        """Over each row's control, and over the protocol's reference, if that is another one for any row."""
        values, reference = self.protocol.values, self.protocol.values["reference"]
        controls = {row: values["controls"].get(row, values["control"]) for row in done}
        columns = {"over its control (95 %)": controls}
        if set(controls.values()) != {reference}:
            columns[f"over {reference} (95 %)"] = dict.fromkeys(done, reference)

        def over(row: str, other: str) -> str:
            return gain(right[row], right[other]) if other in right and other != row else NONE

        return {name: {row: over(row, other) for row, other in others.items()} for name, others in columns.items()}


def answers(found: list[dict[str, Any]], kept: str = "right") -> Right:
    """(seeds, images)."""
    return np.stack([right_images(entry, kept) for entry in found])


def accuracy(right: Right) -> str:
    return with_spread(100 * right.mean(axis=1))


def unrouted(teachers: list[dict[str, Any]]) -> dict[str, Right]:
    """What teachers say of which nobody knows which to ask, by the ways to put them together."""
    return {name: answers(teachers, kept) for name, kept in UNROUTED.items() if teachers and all(kept in found for found in teachers)}


def rates(teachers: list[dict[str, Any]]) -> Cells:
    known = [name for name in RATES if teachers and all(name in found for found in teachers)]
    return {f"*teachers, {name}*": with_spread(np.array([found[name] for found in teachers])) for name in known}


def combined(done: dict[str, list[dict[str, Any]]]) -> Cells:
    """Of the teachers of rows with a fitted target, put together as it does, without a student."""
    fitted = {row: found for row, found in done.items() if all(FITTED in run for run in found)}
    return {f"*teachers, combined as for {row}*": accuracy(answers(found, FITTED)) for row, found in fitted.items()}
