"""Accuracy and time of students trained from scratch on an archive of images: the short run of docs/experiments.md.

    python benchmarks/students.py path/to/images.zip

Runs the pipeline once for each student, by ``dvc exp run`` with the settings below, and prints a Markdown table. What is
already up to date is not run again.
"""

import argparse
import json
import subprocess
from pathlib import Path

SETTINGS = {"source": "folder", "num_epochs": 12, "views": 6, "teacher.num_epochs": 40}
STUDENTS = ("MobileNetV3", "ResNet18")
TASKS = ("taskA", "taskB")


def run(archive: Path, student: str) -> list[str]:
    """Train and evaluate one student on every task; the command."""
    settings = {**SETTINGS, "folder.fetch.path": archive, "student_model": student}
    command = ["dvc", "exp", "run", *(word for name, value in settings.items() for word in ("-S", f"{name}={value}"))]
    subprocess.run(command, check=True)
    return command


def rows(student: str) -> list[str]:
    """The table's rows of the student that was evaluated last."""
    lines = []
    for task in TASKS:
        trained = json.loads(Path(f"outputs/students/{task}/metrics.json").read_text())[task]
        run = json.loads(Path(f"outputs/students/{task}/run.json").read_text())
        found = json.loads(Path(f"outputs/evaluation/{task}/results.json").read_text())
        teachers = ", ".join(f"{name} {accuracy}" for name, accuracy in found["teacher_accuracy"].items())
        lines.append(f"| {task} | {teachers} | {student} | {trained['val_accuracy']} | {found['overall_accuracy']} | {run['seconds']} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="train/<class>/* and test/<class>/* with the classes of params.yaml's block folder")
    archive = parser.parse_args().archive.resolve()
    table = ["| task | teachers (test %) | student | val % | test % | seconds |", "|---|---|---|---|---|---|"]
    for student in STUDENTS:
        print(" ".join(run(archive, student)))
        table += rows(student)
    print("\n".join(table))


if __name__ == "__main__":
    main()
