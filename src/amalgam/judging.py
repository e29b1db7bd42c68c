"""Which student evaluation judges, and beside which teachers: of the pipeline's own, or a file that was given."""

from pathlib import Path
from typing import Any

from amalgam.answers import answers
from amalgam.combination import FITTED_FILE, FittedTarget, read_fitted
from amalgam.controls import teacher_controls
from amalgam.dataset import LabelSets
from amalgam.errors import UserError
from amalgam.evaluation import Evaluation, Judged, predict
from amalgam.files import read_json
from amalgam.given_student import described, load_checkpoint
from amalgam.models import Classifier
from amalgam.places import MODELS, PREPARED, STUDENTS
from amalgam.record import RunRecord
from amalgam.student_files import BEST_WEIGHTS, STUDENT_MANIFEST
from amalgam.students import load_student
from amalgam.supplied import doubt
from amalgam.teachers import load_teachers
from amalgam.up_to_date import prepared


def trained_student(task: str) -> tuple[Classifier, Judged]:
    """The pipeline's own. Raises UserError if there is none, or it was trained on other images or another split than are there."""
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


def judge(task: str, student: Classifier, judged: Judged) -> Evaluation:
    """Ask the student and the task's teachers about the test images."""
    label_sets, split = prepared(PREPARED / task / "test")
    teachers = load_teachers(MODELS / task, label_sets)
    identities = {name: teacher.identity() for name, teacher in teachers.items()}
    controls = teacher_controls(answers(teachers, split), label_sets, split.labels, fitted_to(identities, task, judged, label_sets))
    return Evaluation(task, judged, predict(student, split), controls, label_sets, split, doubts(MODELS / task))


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


def doubts(models: Path) -> dict[str, str]:
    """By supplied teacher, what makes its figures here optimistic."""
    found = {path.parent.name: doubt(read_json(path)) for path in sorted(models.glob("*/manifest.json"))}
    return {name: text for name, text in found.items() if text}
