"""Which rows have been run with which seeds: the table of docs/experiments.md of those that lack some.

    PYTHONPATH=src:. python -m benchmarks.coverage

Reads every protocol of this folder, and what benchmarks/accuracy.py has run.
"""

from typing import Any

from benchmarks.markdown import markdown
from benchmarks.protocol import Protocol, results

PROTOCOLS = (
    "accuracy",
    "shipped",
    "variants",
    "labels",
    "pretrained",
    "unseen",
    "seen",
    "specialists",
    "unseen_specialists",
    "resnet",
    "longer",
)
TASKS = ("taskA", "taskB")
COLUMNS = ("protocol", "row", "task A", "task B")
COMPLETE = "all seeds"


def run_so_far(known: dict[str, Any], protocol: Protocol, task: str, row: str) -> str:
    """The seeds with which a row has been tested."""
    jobs = protocol.jobs(task, {row: protocol.rows[row]}, protocol.seeds(task))
    done = [str(job.seed) for job in jobs if "right" in known.get(job.key, {})]
    return COMPLETE if len(done) == len(jobs) else ", ".join(done) or "–"


def table() -> str:
    """Markdown: a line a row that lacks a seed on a task."""
    known = results()
    rows = []
    for name in PROTOCOLS:
        protocol = Protocol.named(name)
        for row in protocol.rows:
            done = [run_so_far(known, protocol, task, row) for task in TASKS]
            if set(done) != {COMPLETE}:
                rows.append((name, row, *done))
    return markdown(COLUMNS, rows)


if __name__ == "__main__":
    print(table())
