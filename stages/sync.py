"""Send to MLflow what it lacks of the students and evaluations in outputs/: after a server was away, or into another store.

Of trainings by hand it sends those whose folders are named.
"""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from amalgam.errors import UserError
from amalgam.params_file import load_params
from amalgam.places import EVALUATION, STUDENTS
from amalgam.record import RUN_FILE
from amalgam.stage import run_stage
from amalgam.tracking.publish import publish_result, publish_training, reason
from amalgam.tracking.store import connect


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="folders below runs/ (default: the pipeline's students)")
    parser.add_argument("--no-restore", action="store_true", help="leave runs deleted that were deleted in MLflow")
    given = parser.parse_args()
    connect()
    sent = by_hand(given.folders, not given.no_restore) if given.folders else pipeline(not given.no_restore)
    if not all(sent):
        sys.exit(1)


def by_hand(folders: Sequence[Path], restore: bool) -> list[bool]:
    """Send these trainings; whether each could be."""
    for folder in folders:
        if not (folder / RUN_FILE).is_file():
            raise UserError(f"{folder} holds no training: it has no {RUN_FILE}; name the folder of one, as runs/ has them")
    return [tell(str(folder), partial(publish_training, folder, restore)) for folder in folders]


def pipeline(restore: bool) -> list[bool]:
    """Send the pipeline's students and what evaluation said of them; whether each could be."""
    students = {task: STUDENTS / task for task in load_params().task_names}
    for task in (task for task, student in students.items() if not (student / RUN_FILE).is_file()):
        print(f"{task}: no student yet", file=sys.stderr)
    there = [task for task, student in students.items() if (student / RUN_FILE).is_file()]
    return [tell(task, partial(send, task, restore)) for task in there]


def tell(name: str, send: Callable[[], Iterable[str]]) -> bool:
    """Print what ``send`` says, if only that MLflow has all of it now, or what stops it: that does not stop the others."""
    try:
        told = False
        for line in send():
            print(line)
            told = True
        if not told:
            print(f"{name}: MLflow has all of it")
    except FileNotFoundError as error:
        print(f"error: {name}: {error.filename} is missing; dvc repro makes it, dvc pull fetches it", file=sys.stderr)
    except Exception as error:  # noqa: BLE001 (each kind of store has errors of its own)
        print(f"error: {name}: {reason(error)}", file=sys.stderr)
    else:
        return True
    return False


def send(task: str, restore: bool) -> Iterator[str]:
    """Says what came of it."""
    yield from publish_training(STUDENTS / task, restore)
    if (EVALUATION / task).is_dir():
        yield from publish_result(STUDENTS / task, EVALUATION / task, restore)


if __name__ == "__main__":
    run_stage(main)
