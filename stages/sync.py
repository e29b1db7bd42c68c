"""Send to MLflow what it lacks of the students and evaluations in outputs/: after a server was away, or into another store.

Of trainings by hand it sends those whose folders are named.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from mlflow.exceptions import MlflowException

from amalgam.errors import UserError
from amalgam.params_file import load_params
from amalgam.record import FILE
from amalgam.stage import run_stage
from amalgam.tracking.publish import publish_result, publish_training
from amalgam.tracking.store import connect

STUDENTS = Path("outputs/students")
EVALUATION = Path("outputs/evaluation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, help="folders below runs/ (default: the pipeline's students)")
    folders = parser.parse_args().folders
    connect()
    for folder in folders:
        if not (folder / FILE).is_file():
            raise UserError(f"{folder} holds no training: it has no {FILE}")
        for line in publish_training(folder, restore=True):
            print(line)
    if not folders:
        pipeline()


def pipeline() -> None:
    """Send the pipeline's students and what evaluation said of them; what stops one task does not stop the others."""
    lacking = False
    for task in load_params().task_names:
        if not (STUDENTS / task / FILE).is_file():
            print(f"{task}: no student yet", file=sys.stderr)
            continue
        try:
            for line in send(task):
                print(line)
        except FileNotFoundError as error:
            lacking = told(task, f"{error.filename} is missing; dvc repro makes it, dvc pull fetches it")
        except (UserError, MlflowException) as error:
            lacking = told(task, str(error))
    if lacking:
        sys.exit(1)


def told(task: str, problem: str) -> bool:
    print(f"error: {task}: {problem}", file=sys.stderr)
    return True


def send(task: str) -> Iterator[str]:
    """Says what came of it."""
    yield from publish_training(STUDENTS / task, restore=True)
    if (EVALUATION / task).is_dir():
        yield from publish_result(STUDENTS / task, EVALUATION / task)


if __name__ == "__main__":
    run_stage(main)
