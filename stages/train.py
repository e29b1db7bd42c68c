"""Train a task's student from its images, labels and stored targets; one run in MLflow."""

import dataclasses
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.distilling import Pupils, Teaching, train_student
from amalgam.errors import UserError
from amalgam.files import repository_root, whole_folder
from amalgam.inference import device_name
from amalgam.models import save_weights
from amalgam.notes import changed_settings, repeat, run_name
from amalgam.origin import code_commit, code_is_dirty, committed_params, origin_tags, pinned
from amalgam.params import PARAMS_FILE, Params, StudentSettings
from amalgam.progress import progress_bar
from amalgam.provenance import configure_execution, execution_record
from amalgam.record import DataRecord, RunRecord
from amalgam.stage import check_task, run_stage, stage_params, task_argument
from amalgam.store import STORE
from amalgam.students import Architecture, epoch_row, new_student, student_metrics, write_student
from amalgam.targets import StoredTargets
from amalgam.tracking.publish import attempt, publish_training
from amalgam.tracking.run import Tracker, training_run
from amalgam.trainer import DivergedError, Epoch, Fit, Optimization, steps_per_epoch

PREPARED = Path("outputs/prepared")
TARGETS = Path("outputs/targets")
STUDENTS = Path("outputs/students")
SUPPLIED = Path("fetched/weights")


def run_params(params: Params, settings: StudentSettings) -> dict[str, str]:
    """Everything that made the student, under the names of params.yaml."""
    common = {"source": params.source, "data_seed": params.data_seed, "val_fraction": params.val_fraction}
    teacher = {f"teacher.{name}": value for name, value in params.teacher.model_dump().items()}
    views = {f"augmentation.{name}": value for name, value in params.source_block.augmentation.model_dump().items()}
    return {name: str(value) for name, value in (common | settings.model_dump() | teacher | views).items()}


def optimization(settings: StudentSettings) -> Optimization:
    return Optimization(epochs=settings.num_epochs, **_fields(settings, Optimization, {"epochs"}))


def teaching(settings: StudentSettings) -> Teaching:
    return Teaching(**_fields(settings, Teaching))


def _fields(settings: StudentSettings, kind: type, but: Collection[str] = ()) -> dict[str, Any]:
    """The settings that a dataclass has under the same names."""
    return {field.name: getattr(settings, field.name) for field in dataclasses.fields(kind) if field.name not in but}


def train(
    task: str,
    settings: StudentSettings,
    label_sets: LabelSets,
    split: PreparedSplit,
    folder: Path,
    tracker: Tracker,
    epochs: list[dict[str, float]],
) -> Fit:
    """Train and write the student; ``epochs`` is told when each ended and how fast it was."""
    targets = StoredTargets.read(TARGETS / task, split, label_sets)
    supplied = SUPPLIED / task / "weights.safetensors" if settings.student_weights else None
    architecture = Architecture(settings.student_model, settings.student_resolution, settings.pretrained, supplied)
    student = new_student(architecture, label_sets, split, settings.seed)
    lesson = teaching(settings)
    images = len(Pupils.of(split, label_sets.classes, targets, lesson).rows)
    steps = settings.num_epochs * steps_per_epoch(images, settings.batch_size)
    with progress_bar(f"student {task}", steps, "step") as (on_step, show):

        def on_epoch(record: Epoch) -> None:
            show(record)
            speed = {"epoch_seconds": record.seconds, "images_per_second": record.images_per_second}
            epochs.append({"ended": milliseconds()} | speed)
            tracker.metrics(epoch_row(record) | speed, record.epoch)

        try:
            result = train_student(student, label_sets, split, targets, optimization(settings), lesson, on_step, on_epoch)
        except DivergedError as error:
            raise UserError(f"{error}; {keep_best(error.result, tracker.run_id)}") from error
    write_student(student, result, task, {"settings": settings.model_dump(), "execution": execution_record()}, folder)
    return result


def keep_best(result: Fit, run_id: str) -> str:
    """Save what a training had reached before it failed, and say where."""
    if not result.best:
        return "no epoch was finished before"
    path = repository_root() / STORE / "diverged" / f"{run_id}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(result.best, path)
    return f"the best weights before, of epoch {result.best_epoch}, are kept in {path}"


def milliseconds() -> int:
    """Since 1970."""
    return time.time_ns() // 1_000_000


def changed_from_commit() -> dict[str, str]:
    committed = committed_params()
    return changed_settings(PARAMS_FILE.read_text(encoding="utf-8"), committed) if committed else {}


def main() -> None:
    started = milliseconds()
    task = task_argument(__doc__)
    params = stage_params()
    check_task(task, params.task_names)
    settings = params.student(task)
    configure_execution()
    label_sets, split = LabelSets.read(PREPARED / task), PreparedSplit.read(PREPARED / task / "trainval")
    data = DataRecord(params.source, pinned("data"), split.content, label_sets.classes, split.images.shape[1:3], len(split.images))
    changed, dirty = changed_from_commit(), code_is_dirty()
    name, values, commands = run_name(settings, changed, task), run_params(params, settings), repeat(code_commit(), changed)
    kind = {"task": task, "source": params.source, "student": settings.student_model, "target": settings.target, "device": device_name()}
    tags = kind | origin_tags()
    epochs: list[dict[str, float]] = []
    with whole_folder(STUDENTS / task) as work:
        with training_run(task, name, values, tags) as tracker:
            result = train(task, settings, label_sets, split, work, tracker, epochs)
        record = RunRecord(tracker.run_id, task, name, values, tags, data, commands, dirty, started, milliseconds(), epochs)
        record.write(work)
    accuracy = student_metrics(result).get("val_accuracy")
    chosen = "no validation images" if accuracy is None else f"validation accuracy {accuracy} %"
    print(f"student {task}: epoch {result.best_epoch} of {settings.num_epochs}, {chosen}, {record.seconds} s", flush=True)
    attempt(lambda: publish_training(STUDENTS / task))


if __name__ == "__main__":
    run_stage(main)
