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

from pydantic import ValidationError

from amalgam.brought import refuse_changed
from amalgam.dataset import LabelSets
from amalgam.errors import UserError
from amalgam.evaluation import Judged, write_evaluation
from amalgam.evaluation_table import evaluation_table
from amalgam.files import sha256_of_file
from amalgam.given_student import copy_checkpoint
from amalgam.judging import given_student, judge, trained_student
from amalgam.one_off import new_folder
from amalgam.params import EvaluationSettings, Params
from amalgam.params_file import load_params
from amalgam.places import EVALUATION, MODELS, PREPARED, SUPPLIED_CHECKPOINTS, WEIGHTS_FILE, brought_file
from amalgam.provenance import configure_execution
from amalgam.record import RUN_FILE
from amalgam.stage import check_task, full_task_name, in_pipeline, run_stage, stage_params
from amalgam.student_files import is_chosen
from amalgam.tracking.publish import attempt, publish_evaluation, publish_result
from amalgam.up_to_date import check_images, prepared


def publish(judged: Judged, evaluation: Path) -> list[str]:
    """Add the evaluation to the run that trained the student, also by hand; where there was none, to one of its own."""
    folder = judged.weights.parent
    ours = (folder / RUN_FILE).is_file() and is_chosen(sha256_of_file(judged.weights), folder)
    return publish_evaluation(folder, evaluation) if ours else publish_result(folder, evaluation)


def stage() -> None:
    """Evaluate every task, as a stage of the pipeline."""
    params = stage_params()
    refuse_changed(params)
    tasks = params.task_names
    configure_execution()
    for task in tasks:
        given = SUPPLIED_CHECKPOINTS / task
        student, judged = given_student(task, given, given / WEIGHTS_FILE) if given.is_dir() else trained_student(task)
        write_evaluation(judge(task, student, judged), EVALUATION / task)
        attempt(partial(publish, judged, EVALUATION / task))
    print(evaluation_table(tasks, EVALUATION))


def by_hand(params: Params, given: argparse.Namespace) -> None:
    """Evaluate one task or all, as a one-off, into a folder of its own."""
    tasks, checkpoint = [full_task_name(given.task)] if given.task else params.task_names, given.checkpoint
    resolution = params.evaluate.resolution if given.resolution is None else checked_resolution(given.resolution)
    if checkpoint and not given.task:
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
        folder = new_folder("evaluation", given.run)
        for task, (student, judged) in found.items():
            write_evaluation(judge(task, student, judged), folder / task)
            attempt(partial(publish, judged, folder / task), folder, "the same command sends them when it answers")
    print(evaluation_table(tasks, folder))
    print(f"results and pictures: {folder}")


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    found.add_argument("--task", help="one task, as taskB or B (default: all)")
    found.add_argument("--checkpoint", metavar="FILE", help="a student's weights to evaluate in place of the one trained by the pipeline")
    found.add_argument(
        "--resolution",
        type=int,
        help="side in pixels of the checkpoint's input, if no student.json beside it says so (default: evaluate.resolution of params.yaml)",
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
    arguments = parser().parse_args()
    if in_pipeline():
        stage()
    else:
        by_hand(load_params(), arguments)


if __name__ == "__main__":
    run_stage(main)
