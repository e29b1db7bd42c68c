"""Look at the test images once: evaluate every task's student and teachers, and add the results to the training's run."""

import argparse
from functools import partial
from pathlib import Path

from amalgam.controls import teacher_controls
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.evaluation import predict, write_evaluation
from amalgam.files import read_json
from amalgam.provenance import configure_execution
from amalgam.record import RunRecord
from amalgam.stage import run_stage, stage_params
from amalgam.students import load_student
from amalgam.summary import table
from amalgam.supplied import DOUBT, doubt
from amalgam.teachers import load_teachers
from amalgam.tracking.publish import attempt, publish_evaluation

PREPARED = Path("outputs/prepared")
MODELS = Path("models")
STUDENTS = Path("outputs/students")
EVALUATION = Path("outputs/evaluation")
HEADER = ("task", "student", "classes", "teachers (test %)", "val %", "test %", "best epoch", "seconds", "MLflow run", "of experiment")


def evaluate(task: str) -> None:
    label_sets = LabelSets.read(PREPARED / task / "test")
    split = PreparedSplit.read(PREPARED / task / "test")
    controls = teacher_controls(load_teachers(MODELS / task, label_sets), label_sets, split)
    predictions = predict(load_student(STUDENTS / task, label_sets), split)
    weights, doubtful = STUDENTS / task / "best.safetensors", doubts(MODELS / task)
    write_evaluation(task, weights, predictions, controls, label_sets, split, doubtful, EVALUATION / task)


def doubts(models: Path) -> dict[str, str]:
    """By supplied teacher, what makes its figures here optimistic."""
    found = {path.parent.name: doubt(read_json(path)) for path in sorted(models.glob("*/manifest.json"))}
    return {name: text for name, text in found.items() if text}


def row(task: str) -> list[str]:
    student, run = read_json(STUDENTS / task / "student.json"), RunRecord.read(STUDENTS / task)
    trained, found = read_json(STUDENTS / task / "metrics.json")[task], read_json(EVALUATION / task / "results.json")
    doubtful = found["teacher_doubts"]
    teachers = ", ".join(f"{name} {accuracy:g}{'*' * (name in doubtful)}" for name, accuracy in found["teacher_accuracy"].items())
    epochs = f"{student['best_epoch']} of {student['settings']['num_epochs']}"
    values = (
        student["architecture"],
        len(student["classes"]),
        teachers,
        trained.get("val_accuracy", "–"),
        found["overall_accuracy"],
        epochs,
        run.seconds,
        run.run_id,
        run.tags.get("dvc.experiment", "–"),
    )
    return [task, *map(str, values)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--show", action="store_true", help="only print the table of the last evaluation")
    only_show = parser.parse_args().show
    tasks = stage_params().task_names
    if not only_show:
        configure_execution()
        for task in tasks:
            evaluate(task)
            attempt(partial(publish_evaluation, STUDENTS / task, EVALUATION / task))
    print(table(HEADER, [row(task) for task in tasks]))
    if any(read_json(EVALUATION / task / "results.json")["teacher_doubts"] for task in tasks):
        print(f"* {DOUBT}")


if __name__ == "__main__":
    run_stage(main)
