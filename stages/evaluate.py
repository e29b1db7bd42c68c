"""Look at the test images once: evaluate every task's student and teachers, and add the results to the training's run."""

import argparse
from pathlib import Path

from amalgam.controls import teacher_controls
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.evaluation import predict, write_evaluation
from amalgam.files import read_json, sha256_of_file
from amalgam.notes import run_note
from amalgam.provenance import configure_execution, fingerprint
from amalgam.stage import run_stage, stage_params
from amalgam.students import load_student
from amalgam.summary import table
from amalgam.teachers import load_teachers
from amalgam.tracking import add_evaluation

PREPARED = Path("outputs/prepared")
MODELS = Path("models")
STUDENTS = Path("outputs/students")
EVALUATION = Path("outputs/evaluation")
MORE_METRICS = ("within_teacher_errors", "across_teacher_errors", "shared_class_accuracy")
HEADER = ("task", "student", "classes", "teachers (test %)", "val %", "test %", "best epoch", "seconds", "MLflow run")


def evaluate(task: str) -> None:
    label_sets = LabelSets.read(PREPARED / task)
    split = PreparedSplit.read(PREPARED / task / "test")
    controls = teacher_controls(load_teachers(MODELS / task, label_sets), label_sets, split)
    predictions = predict(load_student(STUDENTS / task, label_sets), split)
    write_evaluation(task, STUDENTS / task / "best.safetensors", predictions, controls, label_sets, split, EVALUATION / task)


def track(task: str) -> None:
    folder = EVALUATION / task
    run, found = read_json(STUDENTS / task / "run.json"), read_json(folder / "results.json")
    metrics = read_json(folder / "metrics.json")[task]
    metrics |= {f"test_accuracy/{name}": value for name, value in found["per_class_accuracy"].items()}
    metrics |= {name: found[name] for name in MORE_METRICS if found[name] is not None}
    metrics |= {f"teacher_accuracy/{name}": value for name, value in found["teacher_accuracy"].items()}
    files = sorted(folder.iterdir())
    architecture, trained = read_json(STUDENTS / task / "student.json")["architecture"], read_json(STUDENTS / task / "metrics.json")[task]
    note = run_note(task, architecture, trained, found, run["commands"], run["dirty"])
    known = add_evaluation(run["run_id"], fingerprint(files={file.name: sha256_of_file(file) for file in files}), metrics, files, note)
    if not known:
        print(f"{task}: this MLflow store has no run {run['run_id']}; the test results stand in {folder} alone")


def row(task: str) -> list[str]:
    student, run = read_json(STUDENTS / task / "student.json"), read_json(STUDENTS / task / "run.json")
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
        run["seconds"],
        run["run_id"],
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
            track(task)
    print(table(HEADER, [row(task) for task in tasks]))


if __name__ == "__main__":
    run_stage(main)
