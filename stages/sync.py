"""Send to MLflow what it lacks of the students and evaluations in outputs/: after a server was away, or into another store."""

import sys
from pathlib import Path

from amalgam.errors import UserError
from amalgam.params_file import load_params
from amalgam.record import FILE
from amalgam.stage import run_stage
from amalgam.tracking.publish import publish_result, publish_training
from amalgam.tracking.store import connect

STUDENTS = Path("outputs/students")
EVALUATION = Path("outputs/evaluation")


def main() -> None:
    connect()
    for task in load_params().task_names:
        if not (STUDENTS / task / FILE).is_file():
            print(f"{task}: no student yet", file=sys.stderr)
            continue
        try:
            for line in publish_training(STUDENTS / task, restore=True):
                print(line)
            if (EVALUATION / task).is_dir():
                for line in publish_result(STUDENTS / task, EVALUATION / task):
                    print(line)
        except FileNotFoundError as error:
            raise UserError(f"{task}: {error.filename} is missing; dvc repro makes it, dvc pull fetches it") from error


if __name__ == "__main__":
    run_stage(main)
