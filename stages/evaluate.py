"""Evaluate students and teachers on the test images: accuracies, pictures, and the student's run in MLflow.

As a stage of the pipeline (dvc repro) it looks at every task's student once, or at the one that evaluate.checkpoint names in params.yaml.
By hand it is a one-off: it writes into a new folder below runs/, and the pipeline's outputs stay as they are.
"""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

import argparse
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from amalgam.answers import answers
from amalgam.brought import refuse_changed
from amalgam.combination import FITTED_FILE, FittedTarget, read_fitted
from amalgam.controls import teacher_controls
from amalgam.dataset import LabelSets
from amalgam.errors import UserError
from amalgam.evaluation import Evaluation, Judged, predict, write_evaluation
from amalgam.files import read_json, sha256_of_file
from amalgam.given_student import copy_checkpoint, described, load_checkpoint
from amalgam.models import Classifier
from amalgam.one_off import new_folder
from amalgam.params import EvaluationSettings, Params
from amalgam.params_file import load_params
from amalgam.places import EVALUATION, MODELS, PREPARED, STUDENTS, SUPPLIED_CHECKPOINTS, WEIGHTS_FILE, brought_file
from amalgam.provenance import configure_execution
from amalgam.record import RUN_FILE, RunRecord
from amalgam.stage import check_task, full_task_name, in_pipeline, run_stage, stage_params
from amalgam.students import BEST_WEIGHTS, STUDENT_MANIFEST, is_chosen, load_student
from amalgam.summary import table
from amalgam.supplied import DOUBT, doubt
from amalgam.teachers import load_teachers
from amalgam.tracking.publish import attempt, publish_evaluation, publish_result
from amalgam.up_to_date import check_images, prepared

HEADER = ("task", "student", "classes", "teachers (test %)", "val %", "test %", "best epoch", "seconds", "MLflow run", "of experiment")


def evaluate(task: str, student: Classifier, judged: Judged, folder: Path) -> None:
    """Judge one task's student, and its teachers, on the test images."""
    label_sets, split = prepared(PREPARED / task / "test")
    teachers = load_teachers(MODELS / task, label_sets)
    identities = {name: teacher.identity() for name, teacher in teachers.items()}
    controls = teacher_controls(answers(teachers, split), label_sets, split.labels, fitted_to(identities, task, judged, label_sets))
    found = Evaluation(task, judged, predict(student, split), controls, label_sets, split, doubts(MODELS / task))
    write_evaluation(found, folder)


def fitted_to(teachers: dict[str, dict[str, Any]], task: str, judged: Judged, label_sets: LabelSets) -> FittedTarget | None:
    """What the student was taught by, if that was fitted, and to the answers of these ``teachers`` (their identities), in this order.

    Raises UserError if the pipeline's own student was taught by others.
    """
    if judged.training is None:
        return None
    taught_by = read_json(judged.training / STUDENT_MANIFEST).get("taught_by")
    same = bool(taught_by) and [*taught_by.items()] == [*teachers.items()]
    others = (
        f"{judged.training} was taught by other teachers than {MODELS / task} holds, by these in another order, or as they saw other pixels"
    )
    if judged.checkpoint is None and taught_by and not same:
        raise UserError(f"{others}; run dvc repro")
    found = read_fitted(judged.training, label_sets) if same else None
    if found is None and (judged.training / FITTED_FILE).exists():
        print(f"{others}: what they reach without a student, put together as it was taught, is left out", flush=True)
    return found


def trained_student(task: str) -> tuple[Classifier, Judged]:
    if not (STUDENTS / task).is_dir():
        raise UserError(f"{STUDENTS / task} is missing; dvc repro trains it, or name a file of weights: --checkpoint FILE")
    label_sets, training = prepared(PREPARED / task / "trainval")
    if RunRecord.read(STUDENTS / task).data.content != training.content:
        raise UserError(f"{STUDENTS / task} was trained on other images, or another split, than {PREPARED / task} holds; run dvc repro")
    return load_student(STUDENTS / task, label_sets), Judged(STUDENTS / task / BEST_WEIGHTS)


def given_student(task: str, folder: Path, weights: Path) -> tuple[Classifier, Judged]:
    """The student that ``copy_checkpoint`` wrote into ``folder``, from the file ``weights``."""
    label_sets, training = prepared(PREPARED / task / "trainval")
    return load_checkpoint(folder, label_sets, training), Judged(weights, described(folder))


def publish(judged: Judged, evaluation: Path) -> list[str]:
    """Add the evaluation to the run that trained the student, also by hand; where there was none, to one of its own."""
    folder = judged.weights.parent
    ours = (folder / RUN_FILE).is_file() and is_chosen(sha256_of_file(judged.weights), folder)
    return publish_evaluation(folder, evaluation) if ours else publish_result(folder, evaluation)


def doubts(models: Path) -> dict[str, str]:
    """By supplied teacher, what makes its figures here optimistic."""
    found = {path.parent.name: doubt(read_json(path)) for path in sorted(models.glob("*/manifest.json"))}
    return {name: text for name, text in found.items() if text}


def row(task: str, evaluation: Path) -> list[str]:
    found = read_json(evaluation / task / "results.json")
    doubtful, checkpoint, folder = found["teacher_doubts"], found["checkpoint"], Path(found["model_path"]).parent
    classes = len(found["per_class_accuracy"])
    teachers = ", ".join(f"{name} {accuracy:g}{'*' * (name in doubtful)}" for name, accuracy in found["teacher_accuracy"].items())
    if checkpoint is not None:
        optimistic = f", chosen on {checkpoint['selected_on']}" if "selected_on" in checkpoint else ""
        student = f"{checkpoint['architecture']} ({checkpoint['file']}{optimistic})"
        return [task, student, str(classes), teachers, "–", str(found["overall_accuracy"]), *["–"] * 4]
    if not is_chosen(found["weights_sha256"], folder):
        replaced = "(one before the present one)"
        return [task, replaced, str(classes), teachers, "–", str(found["overall_accuracy"]), *["–"] * 4]
    student, run = read_json(folder / STUDENT_MANIFEST), RunRecord.read(folder)
    validation = read_json(folder / "metrics.json")[task].get("val_accuracy", "–")
    epochs = f"{student['best_epoch']} of {student['settings']['num_epochs']}"
    own = (validation, found["overall_accuracy"], epochs, run.seconds, run.run_id, run.tags.get("dvc.experiment", "–"))
    return [task, student["architecture"], str(classes), teachers, *map(str, own)]


def show(tasks: list[str], evaluation: Path) -> None:
    """Print the table of an evaluation."""
    print(table(HEADER, [row(task, evaluation) for task in tasks]))
    if any(read_json(evaluation / task / "results.json")["teacher_doubts"] for task in tasks):
        print(f"* {DOUBT}")


def stage() -> None:
    """Evaluate every task, as a stage of the pipeline."""
    params = stage_params()
    refuse_changed(params)
    tasks = params.task_names
    configure_execution()
    for task in tasks:
        given = SUPPLIED_CHECKPOINTS / task
        student, judged = given_student(task, given, given / WEIGHTS_FILE) if given.is_dir() else trained_student(task)
        evaluate(task, student, judged, EVALUATION / task)
        attempt(partial(publish, judged, EVALUATION / task))
    show(tasks, EVALUATION)


def by_hand(params: Params, named: str | None, checkpoint: str | None, resolution: int, suffix: str) -> None:
    """Evaluate one task or all, as a one-off, into a folder of its own."""
    tasks = [named] if named else params.task_names
    if checkpoint and not named:
        raise UserError("--checkpoint is a student of one task; say which, as --task A")
    for task in tasks:
        check_task(task, params.task_names)
        prepared(PREPARED / task / "test")
    configure_execution()
    with TemporaryDirectory() as scratch:
        found = {}
        for task in tasks:
            if checkpoint:
                copy = Path(scratch) / task
                classes = LabelSets.read(PREPARED / task / "test").classes
                copy_checkpoint(brought_file(checkpoint), classes, resolution, "--checkpoint", copy)
                found[task] = given_student(task, copy, brought_file(checkpoint))
            else:
                found[task] = trained_student(task)
            check_images(PREPARED / task / "trainval", MODELS / task)
        folder = new_folder("evaluation", suffix)
        for task, (student, judged) in found.items():
            evaluate(task, student, judged, folder / task)
            attempt(partial(publish, judged, folder / task), folder, "the same command sends them when it answers")
    show(tasks, folder)
    print(f"results and pictures: {folder}")


def parser(resolution: int) -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--show", action="store_true", help="only print the table of the pipeline's last evaluation")
    found.add_argument("--task", help="one task, as taskB or B (default: all)")
    found.add_argument("--checkpoint", metavar="FILE", help="a student's weights to evaluate in place of the one trained by the pipeline")
    found.add_argument(
        "--resolution",
        type=int,
        default=resolution,
        help="side in pixels of the checkpoint's input, where no student.json beside it says so (default: %(default)s)",
    )
    found.add_argument("--run", default="", metavar="SUFFIX", help="suffix of the folder's name")
    return found


def checked_resolution(side: int) -> int:
    """Raises UserError unless params.yaml's setting of the same name might have this value."""
    try:
        return EvaluationSettings(checkpoint={}, resolution=side).resolution
    except ValidationError as error:
        raise UserError(f"--resolution: {side} is refused: {error.errors()[0]['msg']}") from error


def main() -> None:
    params = load_params()
    arguments = parser(params.evaluate.resolution).parse_args()
    if arguments.show:
        show(params.task_names, EVALUATION)
    elif in_pipeline():
        stage()
    else:
        task = full_task_name(arguments.task) if arguments.task else None
        by_hand(params, task, arguments.checkpoint, checked_resolution(arguments.resolution), arguments.run)


if __name__ == "__main__":
    run_stage(main)
