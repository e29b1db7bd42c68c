"""The table that evaluation prints: a line a task."""

from pathlib import Path

from amalgam.files import read_json
from amalgam.record import RunRecord
from amalgam.student_files import STUDENT_MANIFEST, is_chosen
from amalgam.summary import table

HEADER = ("task", "student", "classes", "teachers (test %)", "val %", "test %", "best epoch", "seconds", "MLflow run", "of experiment")


def evaluation_table(tasks: list[str], evaluation: Path) -> str:
    """Of the tasks' results in the folder ``evaluation``, with a note where teachers' figures are in doubt."""
    doubts = (read_json(evaluation / task / "results.json")["teacher_doubts"].values() for task in tasks)
    told = dict.fromkeys(f"* {doubt}" for of_task in doubts for doubt in of_task)
    return "\n".join([table(HEADER, [_row(task, evaluation) for task in tasks]), *told])


def _row(task: str, evaluation: Path) -> list[str]:
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
