"""Remove what killed processes left half-written; and what nothing used for some days. Nothing that a running one holds."""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

from amalgam.cleaning import any_checkpoints, clean_checkpoints, clean_leftovers, clean_unused
from amalgam.errors import UserError
from amalgam.params_file import load_params
from amalgam.places import repository_root
from amalgam.stage import run_stage
from amalgam.tracking.run import end_marked
from amalgam.tracking.store import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--days",
        type=float,
        help="also teachers, logits and downloads that were not used for so many days, and trainings that were broken off before: "
        "they cannot go on then",
    )
    days = parser.parse_args().days
    if days is not None and not 0 <= days < math.inf:
        raise UserError(f"--days is {days:g}; it must be a number of days, 0 or more (make clean DAYS=30)")
    removed = list(clean_leftovers())
    tell(removed)
    ended = 0
    if days is not None:
        tell(unused := list(clean_unused(days)))
        removed += unused
    if days is not None and any_checkpoints():
        client = connect()  # they alone know their runs: none goes while MLflow cannot be told
        broken_off = list(clean_checkpoints(days))
        tell(freed := [(path, size) for path, size, _ in broken_off])
        removed += freed
        ended = end_marked(client, load_params().task_names, {mark for _, _, mark in broken_off})
    print(f"{len(removed)} removed, {sum(size for _, size in removed) / 1e6:.1f} MB; {ended} runs in MLflow marked as killed")


def tell(removed: Iterable[tuple[Path, int]]) -> None:
    for path, size in removed:
        print(f"removed {path.relative_to(repository_root())}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_stage(main)
