"""Accuracy of students by target, objective and recipe: the tables of docs/experiments.md.

    export PYTHONPATH=src:.
    python benchmarks/accuracy.py tune  images.zip --task A    every row on its grid, first seed, validation alone
    python benchmarks/accuracy.py run   images.zip --task A    the chosen settings, every seed; then the test images, once
    python benchmarks/accuracy.py combine images.zip --task A  of rows that have been run, how the teachers do without a student
    python benchmarks/accuracy.py table            --task A    Markdown, from what has been run

``tune`` writes its choice beside the protocol, into accuracy.chosen.yaml, which is committed before ``run``; ``run`` refuses rows without
a choice, unless the grid is a single point. ``--protocol benchmarks/labels.yaml`` is another table: few labels, and none; with several
``--protocol`` all that lacks of their tables is run together. Each training's validation accuracy, and which test images it got right, go
into accuracy.results.json: ``table`` reads nothing else, and a training that stands in two tables is run once. A training is known by its
seed and by what the protocol says of it; after a change of the shipped settings, or of the code, it is not run again by itself, and a
further seed of a row that was trained with other shipped ones is refused. So are settings or a protocol that are not committed, images
other than those that the results were trained and tested on, and another file of weights to start from. What was computed is kept under
.amalgam/accuracy and not computed again, a training that was broken off goes on after its last whole epoch, and what the results hold is
not run again; teachers made twice are the same on the same kind of machine alone, so what learns from a seed's teachers is finished where
it was begun: with other teachers a row is refused, before any is trained if the results say how their machine computes
(benchmarks/arithmetic.py). Rows of alpha 0 need none, and train none. A row whose teachers are refused, or whose training diverges, ends no
other: the rest is run, then it is told. ``--jobs 2`` runs two trainings at a time, each on its part of the cores (or on AMALGAM_THREADS).
"""

import argparse
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import numpy as np
import yaml
from benchmarks.accuracy_table import Table
from benchmarks.measured import commit
from benchmarks.protocol import FITTED, ROOT, SCORE, Job, Protocol, results
from benchmarks.refusals import refuse_contradictions, refuse_incomparable, refuse_uncommitted_protocol, refuse_uncommitted_settings
from benchmarks.rows import combine, is_fitted, train_and_test, tuned

from amalgam.cores import available_cores
from amalgam.errors import UserError
from amalgam.provenance import THREADS_VARIABLE, configure_execution
from amalgam.stage import run_stage

Result = TypeVar("Result")


def begin() -> None:
    """What a process does first: it learns which commit's code it has read, whatever is committed while it trains."""
    configure_execution()
    commit()


def work(do: Callable[[Job], Result], jobs: Iterable[Job], processes: int) -> list[Result]:
    os.environ.setdefault(THREADS_VARIABLE, str(max(available_cores() // processes, 1)))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=begin) as pool:
        return list(pool.map(do, jobs))


def asked(file: Path, arguments: argparse.Namespace) -> Table:
    """Of one protocol."""
    protocol = Protocol(file.resolve(), arguments.archive and arguments.archive.resolve())
    task, chosen = f"task{arguments.task}", arguments.rows
    rows = {row: settings for row, settings in protocol.rows.items() if not chosen or row in chosen}
    return Table(protocol, task, rows, arguments.seeds or protocol.seeds(task))


def tune(table: Table, processes: int) -> None:
    """Every row on the grid with the first seed; the best by validation, with no more labels than it may use, goes into the choice."""
    protocol, task, rows = table.protocol, table.task, table.rows
    grid, seed = protocol.grid, protocol.seeds(task)[0]
    jobs = [Job(protocol, task, row, settings | point, seed) for row, settings in rows.items() for point in grid]
    refuse_contradictions(jobs)
    refuse_incomparable(jobs)
    work(tuned, [job for job in jobs if "validation" not in results().get(job.key, {})], processes)
    known = results()
    scores = [known[job.key].get(SCORE, known[job.key]["validation"]) for job in jobs]
    choices = protocol.chosen()
    for index, row in enumerate(rows):
        own = scores[index * len(grid) : (index + 1) * len(grid)]
        choices.setdefault(task, {})[row] = dict(grid[int(np.argmax(own))])
    protocol.choice_file.write_text(yaml.safe_dump(choices, sort_keys=False, allow_unicode=True), encoding="utf-8")


def run(tables: list[Table], processes: int) -> list[str]:
    """What is not there yet of all of them, what stands in several once; why rows have no result."""
    for table in tables:
        refuse_uncommitted_protocol(table.protocol)
        refuse_contradictions(table.jobs())
        refuse_incomparable(table.jobs())
    lacking = {job.key: job for table in tables for job in table.jobs() if not job.is_tested}
    return [why for why in work(train_and_test, lacking.values(), processes) if why]


def combine_teachers(tables: list[Table], processes: int) -> None:
    """Of the rows with a fitted target that have been run, and of which it is not known, how their teachers do without a student."""
    lacking = dict[str, Job]()
    for table in tables:
        jobs = [job for job in table.jobs() if job.is_tested and is_fitted(job)]
        refuse_incomparable(jobs)
        lacking |= {job.key: job for job in jobs if FITTED not in results()[job.key]}
    work(combine, lacking.values(), processes)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["tune", "run", "combine", "table"])
    parser.add_argument(
        "archive", type=Path, nargs="?", help="train/<class>/* and test/<class>/* with the classes of params.yaml's block folder"
    )
    parser.add_argument("--task", required=True, choices=["A", "B"])
    parser.add_argument("--protocol", type=Path, action="append", help="rows, grid, seeds; several, each by a --protocol of its own")
    parser.add_argument("--rows", nargs="*", help="these alone")
    parser.add_argument("--seeds", type=int, nargs="*", help="these alone")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    arguments = parser.parse_args()
    arguments.protocol = arguments.protocol or [Path(__file__).with_suffix(".yaml")]
    known = list(dict.fromkeys(row for file in arguments.protocol for row in Protocol(file.resolve()).rows))
    if unknown := set(arguments.rows or ()) - set(known):
        parser.error(f"the protocol has no row {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    if arguments.command != "table" and (arguments.archive is None or not arguments.archive.exists()):
        parser.error(f"{arguments.command} needs the archive of images: {arguments.archive or 'none was given'}")
    if arguments.command == "tune" and arguments.seeds is not None:
        parser.error("tune is of the protocol's first seed alone; --seeds is for run, combine and table")
    return arguments


def main() -> None:
    arguments, failed = parsed(), []
    os.environ.setdefault("DVC_ROOT", str(ROOT))
    if arguments.command != "table":
        refuse_uncommitted_settings()
    tables = [table for file in arguments.protocol if (table := asked(file, arguments)).rows]
    match arguments.command:
        case "tune":
            for table in tables:
                tune(table, arguments.jobs)
        case "run":
            failed = run(tables, arguments.jobs)
        case "combine":
            combine_teachers(tables, arguments.jobs)
    if arguments.command != "tune":
        names = [f"{table.protocol.file.name}:\n\n" if len(tables) > 1 else "" for table in tables]
        print("\n\n".join(name + table.printed() for name, table in zip(names, tables, strict=True)), flush=True)
    if failed:
        raise UserError("\n".join(failed))


if __name__ == "__main__":
    run_stage(main)
