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
from amalgam.teachers import load_teachers
from amalgam.tracking.publish import attempt, publish_evaluation

PREPARED = Path("outputs/prepared")
MODELS = Path("models")
STUDENTS = Path("outputs/students")
EVALUATION = Path("outputs/evaluation")
HEADER = ("task", "student", "classes", "teachers (test %)", "val %", "test %", "best epoch", "seconds", "MLflow run", "of experiment")


def evaluate(task: str) -> None:
    label_sets = LabelSets.read(PREPARED / task)
    split = PreparedSplit.read(PREPARED / task / "test")
    controls = teacher_controls(load_teachers(MODELS / task, label_sets), label_sets, split)
    predictions = predict(load_student(STUDENTS / task, label_sets), split)
    write_evaluation(task, STUDENTS / task / "best.safetensors", predictions, controls, label_sets, split, EVALUATION / task)


def row(task: str) -> list[str]:
    student, run = read_json(STUDENTS / task / "student.json"), RunRecord.read(STUDENTS / task)
    trained, found = read_json(STUDENTS / task / "metrics.json")[task], read_json(EVALUATION / task / "results.json")
    teachers = ", ".join(f"{name} {accuracy:g}" for name, accuracy in found["teacher_accuracy"].items())
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


if __name__ == "__main__":
    run_stage(main)
