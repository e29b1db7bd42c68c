"""Accuracy and time of students trained from scratch on an archive of images: the short run of docs/experiments.md.

    python benchmarks/students.py path/to/images.zip

Runs the pipeline once for each student, as ``dvc exp run --temp`` does, with the settings below, and prints a Markdown table. The workspace
stays as it is; results are the experiments', which ``dvc exp show`` lists. What is already up to date is not run again. The published
numbers are of two threads (AMALGAM_THREADS=2, or two cores) for the students, one (AMALGAM_THREADS=1) for the teachers, made before.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.markdown import markdown
from dvc.api import DVCFileSystem
from dvc.repo import Repo

from amalgam.files import read_json
from amalgam.record import RunRecord

SETTINGS = {"source": "folder", "num_epochs": 12, "views": 6, "teacher.num_epochs": 40}
STUDENTS = ("MobileNetV3", "ResNet18")
TASKS = ("taskA", "taskB")
COLUMNS = ("task", "teachers (test %)", "student", "val %", "test %", "seconds")


def run(archive: Path, student: str) -> str:
    """Train and evaluate one student on every task; the experiment's commit."""
    settings = SETTINGS | {"folder.fetch.path": archive, "student_model": student}
    changed = [f"{name}={value}" for name, value in settings.items()]
    print("dvc exp run --temp", *(f"-S {setting}" for setting in changed), flush=True)
    with Repo() as repo:
        (commit,) = repo.experiments.run(params=changed, tmp_dir=True)
    return str(commit)


def rows(student: str, commit: str) -> Sequence[Sequence[str]]:
    """The table's rows of the student of an experiment."""
    cells = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in ("students", "evaluation"):
            DVCFileSystem(rev=commit).get(f"outputs/{name}", str(folder / name), recursive=True)
        for task in TASKS:
            trained = read_json(folder / "students" / task / "metrics.json")[task]
            seconds = RunRecord.read(folder / "students" / task).seconds
            found = read_json(folder / "evaluation" / task / "results.json")
            teachers = ", ".join(f"{name} {accuracy}" for name, accuracy in found["teacher_accuracy"].items())
            cells.append((task, teachers, student, f"{trained['val_accuracy']}", f"{found['overall_accuracy']}", f"{seconds}"))
    return cells


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="train/<class>/* and test/<class>/* with the classes of params.yaml's block folder")
    archive = parser.parse_args().archive.resolve()
    print(markdown(COLUMNS, (row for student in STUDENTS for row in rows(student, run(archive, student)))))


if __name__ == "__main__":
    main()
