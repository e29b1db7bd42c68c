"""Train a task's student from its images, labels and stored targets; one run in MLflow."""

import dataclasses
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amalgam.checkpoint import Checkpoint, checkpoint, finish
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.distilling import Pupils, Teaching, train_student
from amalgam.errors import UserError
from amalgam.files import read_json, repository_root, sha256_of_file, whole_folder
from amalgam.inference import device_name
from amalgam.models import save_weights
from amalgam.notes import changed_settings, repeat, run_name
from amalgam.origin import code_commit, code_is_dirty, committed_params, origin_tags, pinned
from amalgam.params import Params, StudentSettings
from amalgam.params_file import PARAMS_FILE
from amalgam.progress import progress_bar
from amalgam.provenance import configure_execution, execution_record, fingerprint, script_hash
from amalgam.record import DataRecord, RunRecord
from amalgam.stage import check_task, run_stage, stage_params, task_argument
from amalgam.store import STORE
from amalgam.students import Architecture, epoch_row, new_student, student_metrics, write_student
from amalgam.targets import StoredTargets
from amalgam.tracking.publish import attempt, publish_training
from amalgam.tracking.run import Tracker, training_run
from amalgam.trainer import DivergedError, Epoch, Fit, Hooks, Optimization, epochs_done, steps_per_epoch

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


@dataclass(frozen=True)
class Job:
    """All that a training depends on."""

    task: str
    settings: StudentSettings
    values: dict[str, str]  # the run's parameters
    label_sets: LabelSets
    split: PreparedSplit
    targets: StoredTargets
    supplied: Path | None  # weights to start from

    @property
    def steps_per_epoch(self) -> int:
        images = len(Pupils.of(self.split, self.label_sets.classes, self.targets, teaching(self.settings)).rows)
        return steps_per_epoch(images, self.settings.batch_size)

    def key(self) -> str:
        return fingerprint(
            task=self.task,
            settings=self.settings.model_dump(),
            params=self.values,
            classes=self.label_sets.classes,
            images=self.split.content,
            targets=read_json(self.targets.folder / "targets.json"),
            weights=sha256_of_file(self.supplied) if self.supplied else None,
            record=execution_record(),
            code=script_hash(Path(__file__)),
        )[:32]

    @classmethod
    def of(cls, task: str, params: Params) -> "Job":
        settings = params.student(task)
        prepared = PREPARED / task / "trainval"
        label_sets, split = LabelSets.read(prepared), PreparedSplit.read(prepared)
        targets = StoredTargets.read(TARGETS / task, split, label_sets)
        supplied = SUPPLIED / task / "weights.safetensors" if settings.student_weights else None
        return cls(task, settings, run_params(params, settings), label_sets, split, targets, supplied)


def train(job: Job, folder: Path, tracker: Tracker, own: Checkpoint) -> Fit:
    """Train and write the student, from where an earlier session was broken off."""
    settings = job.settings
    architecture = Architecture(settings.student_model, settings.student_resolution, settings.pretrained, job.supplied)
    student = new_student(architecture, job.label_sets, job.split, settings.seed)
    saved, steps = own.last(), job.steps_per_epoch
    done = epochs_done(saved)
    if done:
        print(f"student {job.task}: goes on after epoch {done} of {settings.num_epochs}", flush=True)
    with progress_bar(f"student {job.task}", settings.num_epochs * steps, "step", done * steps) as (on_step, show):

        def on_epoch(record: Epoch) -> None:
            show(record)
            speed = {"epoch_seconds": record.seconds, "images_per_second": record.images_per_second}
            tracker.metrics(epoch_row(record) | speed, record.epoch)

        hooks = Hooks(on_step, on_epoch, own.keep, saved)
        try:
            result = train_student(student, job.label_sets, job.split, job.targets, optimization(settings), teaching(settings), hooks)
        except DivergedError as error:
            raise UserError(f"{error}; {keep_best(error.result, tracker.run_id)}") from error
    write_student(student, result, job.task, {"settings": settings.model_dump(), "execution": execution_record()}, folder)
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


def epoch_times(result: Fit) -> list[dict[str, float]]:
    return [
        {"ended": record.ended, "epoch_seconds": record.seconds, "images_per_second": record.images_per_second} for record in result.history
    ]


def main() -> None:
    began = milliseconds()
    task = task_argument(__doc__)
    params = stage_params()
    check_task(task, params.task_names)
    configure_execution()
    job = Job.of(task, params)
    with checkpoint(job.key()) as own:
        own.write(began=(*own.sessions.began, began))
        record, result = one_run(job, params.source, own)
        finish(own, STUDENTS / task)
    accuracy = student_metrics(result).get("val_accuracy")
    chosen = "no validation images" if accuracy is None else f"validation accuracy {accuracy} %"
    print(f"student {task}: epoch {result.best_epoch} of {job.settings.num_epochs}, {chosen}, {record.seconds} s", flush=True)
    attempt(lambda: publish_training(STUDENTS / task))


def one_run(job: Job, source: str, own: Checkpoint) -> tuple[RunRecord, Fit]:
    """Train inside a run of MLflow; the student's folder is there when it ends."""
    task, settings, split = job.task, job.settings, job.split
    data = DataRecord(source, pinned("data"), split.content, job.label_sets.classes, split.images.shape[1:3], len(split.images))
    changed, dirty = changed_from_commit(), code_is_dirty()
    name, commands = run_name(settings, changed, task), repeat(code_commit(), changed)
    kind = {"task": task, "source": source, "student": settings.student_model, "target": settings.target, "device": device_name()}
    tags = kind | origin_tags()
    with whole_folder(STUDENTS / task) as work:
        with training_run(task, name, job.values, tags, own.sessions.mark) as tracker:
            result = train(job, work, tracker, own)
        times = (own.sessions.began, milliseconds(), epoch_times(result))
        record = RunRecord(tracker.run_id, task, name, job.values, tags, data, commands, dirty, *times)
        record.write(work)
    return record, result


if __name__ == "__main__":
    run_stage(main)
