"""One training of a student: all that it depends on, its run in MLflow, and what it leaves on disk."""

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from amalgam.checkpoint import Checkpoint
from amalgam.combination import write_fitted
from amalgam.distilling import train_student
from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_file
from amalgam.history import Epoch, Fit
from amalgam.inference import device_name
from amalgam.models import Classifier, save_weights
from amalgam.notes import recorded_settings, run_name
from amalgam.optimization import Optimization
from amalgam.origin import code_is_dirty, origin_tags, pinned
from amalgam.params import Params
from amalgam.places import repository_root
from amalgam.preprocessing import Preprocessing
from amalgam.progress import training_bar
from amalgam.provenance import code_hash, execution_record, fingerprint
from amalgam.record import DataRecord, RunRecord
from amalgam.store import DIVERGED, STORE
from amalgam.student_settings import StudentSettings
from amalgam.students import Architecture, new_student, write_student
from amalgam.team import SOLO, Team
from amalgam.tracking.run import Tracker, training_run
from amalgam.trainer import DivergedError, Hooks, epochs_done
from amalgam.transfer_set import TransferSet


def run_params(params: Params, settings: StudentSettings) -> dict[str, str]:
    """Everything that made the student, under the names of params.yaml."""
    common = {"source": params.source, "data_seed": params.data_seed, "val_fraction": params.val_fraction}
    teacher = {f"teacher.{name}": value for name, value in params.teacher.model_dump().items()}
    views = {f"augmentation.{name}": value for name, value in params.source_block.augmentation.model_dump().items()}
    return {name: str(value) for name, value in (common | recorded_settings(settings) | teacher | views).items()}


@dataclass(frozen=True)
class Job:
    """All that a training depends on."""

    task: str
    settings: StudentSettings
    values: dict[str, str]  # the run's parameters
    transfer_set: TransferSet
    supplied: Path | None  # weights to start from
    preprocessing: Preprocessing | None = None  # the student's, where not its own
    about: dict[str, str] = field(default_factory=dict)  # what its manifest and its run's tags say besides
    latest_of_few: bool = True  # which epoch is kept where few labels choose it (selection.py)

    def student(self) -> Classifier:
        """Untrained."""
        settings = self.settings
        architecture = Architecture(settings.student_model, settings.student_resolution, settings.pretrained, self.supplied)
        student = new_student(architecture, self.transfer_set.label_sets, self.transfer_set.split, settings.seed)
        return dataclasses.replace(student, preprocessing=self.preprocessing) if self.preprocessing else student

    def fit(self, student: Classifier, hooks: Hooks, team: Team) -> Fit:
        return train_student(student, self.transfer_set, Optimization.of(self.settings), hooks, team, self.latest_of_few)

    def key(self, processes: int = 1) -> str:
        return fingerprint(
            task=self.task,
            by_hand="one_off" in self.about,
            settings=self.settings.model_dump(),
            params=self.values,
            classes=self.transfer_set.label_sets.classes,
            images=self.transfer_set.split.content,
            targets=read_json(self.transfer_set.targets.folder / "targets.json"),
            weights=sha256_of_file(self.supplied) if self.supplied else None,
            preprocessing=dataclasses.asdict(self.preprocessing) if self.preprocessing else None,
            record=execution_record(processes),
            code=code_hash(__name__),
        )[:32]


def train(
    job: Job, student: Classifier, folder: Path, tracker: Tracker, own: Checkpoint, watch: Callable[[Epoch], None], team: Team
) -> Fit:
    """Train and write the new ``student``, from where an earlier session was broken off; ``watch`` is shown every epoch.

    In a team the first process calls it, while the others ``assist``.
    """
    settings = job.settings
    saved, steps = team.broadcast(own.last()), job.transfer_set.steps_per_epoch
    with training_bar(f"student {job.task}", settings.num_epochs, steps, epochs_done(saved)) as (on_step, show):

        def on_epoch(record: Epoch) -> None:
            show(record)
            speed = {"epoch_seconds": record.seconds, "images_per_second": record.images_per_second}
            tracker.metrics(record.row() | speed, record.epoch)
            watch(record)

        hooks = Hooks(on_step, on_epoch, own.keep, saved)
        try:
            result = job.fit(student, hooks, team)
        except DivergedError as error:
            raise UserError(f"student {job.task}: {error}; lower lr; {keep_best(error.result, tracker.run_id)}") from error
    taught_by = job.transfer_set.targets.classifiers if settings.alpha > 0 else {}
    made_of = {"taught_by": taught_by, "training_images": job.transfer_set.split.content}
    details = {"settings": recorded_settings(settings), "execution": execution_record(team.world_size)} | made_of | job.about
    write_student(student, result, job.task, details, folder)
    if fitted := job.transfer_set.fitted:
        write_fitted(fitted, folder)
    return result


def assist(job: Job, team: Team) -> None:
    """Be one of the processes of a team that train with the first, and write nothing."""
    student, saved = job.student(), team.broadcast(None)
    try:
        job.fit(student, Hooks(resume=saved), team)
    except DivergedError:
        team.barrier()  # for the first, which tells and keeps what was reached: with its end the team's other processes end
        raise


def keep_best(result: Fit, run_id: str) -> str:
    """Save what a training had reached before it failed, and say where."""
    if not result.best:
        return "no epoch was finished before"
    path = repository_root() / STORE / DIVERGED / f"{run_id}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    save_weights(result.best, path)
    return f"the best weights before, of epoch {result.best_epoch}, are kept in {path}"


def milliseconds() -> int:
    """Since 1970."""
    return time.time_ns() // 1_000_000


def epoch_times(result: Fit) -> list[dict[str, float]]:
    return [
        {"ended": record.ended, "epoch_seconds": record.seconds, "images_per_second": record.images_per_second} for record in result.history
    ]


def past_epochs(own: Checkpoint) -> list[Epoch]:
    saved = own.last()
    return [Epoch.from_plain(values) for values in saved["history"]] if saved else []


def one_run(
    job: Job,
    source: str,
    own: Checkpoint,
    folder: Path,
    watch: Callable[[Epoch], None],
    changed: dict[str, str],
    commands: str,
    team: Team = SOLO,
) -> tuple[RunRecord, Fit]:
    """Train inside a run of MLflow, and write the student into ``folder``; ``changed`` settings and ``commands`` are for people."""
    task, settings, student = job.task, job.settings, job.student()
    split, classes = job.transfer_set.split, job.transfer_set.label_sets.classes
    data = DataRecord(source, pinned("data"), split.content, classes, split.images.shape[1:3], len(split.images))
    dirty, name = code_is_dirty(), run_name(settings, changed, task)
    kind = {"task": task, "source": source, "student": settings.student_model, "target": settings.target, "device": device_name()}
    tags = kind | origin_tags() | job.about
    with training_run(task, name, job.values, tags, own.sessions.mark) as tracker:
        result = train(job, student, folder, tracker, own, watch, team)
    times = (own.sessions.began, milliseconds(), epoch_times(result))
    record = RunRecord(tracker.run_id, task, name, job.values, tags, data, commands, dirty, *times)
    record.write(folder)
    return record, result
