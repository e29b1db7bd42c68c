"""One row of a table of accuracies with one seed: its images, teachers and targets, its student, and what these reach.

What was computed is kept below the protocol's ``workplace`` and not computed again.
"""

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.apart import TEACHERS, part
from benchmarks.arithmetic import arithmetic
from benchmarks.comparison import packed, right_images
from benchmarks.measured import made_here
from benchmarks.protocol import FITTED, RATES, ROOT, SCORE, Job, Protocol, record, results
from benchmarks.same_teachers import refuse_other_arithmetic, refuse_other_teachers
from benchmarks.specialists import finetune
from filelock import FileLock

from amalgam.answers import answers
from amalgam.checkpoint import Checkpoint, checkpoint
from amalgam.controls import teacher_controls
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.distilling import train_student
from amalgam.errors import UserError
from amalgam.evaluation import predict
from amalgam.files import read_json, sha256_of_file, write_json
from amalgam.flags import ONLY_UNDER
from amalgam.inference import device_name
from amalgam.optimization import Optimization
from amalgam.preparing import plan_split, stored_size, write_split
from amalgam.provenance import code_hash, execution_record, fingerprint
from amalgam.sources import folder as folder_source
from amalgam.sources.raw import SPLITS, read_classes, read_split
from amalgam.student_settings import StudentSettings
from amalgam.students import Architecture, load_student, new_student, write_student
from amalgam.targets import StoredTargets, ViewSettings, write_targets
from amalgam.teacher_training import Recipe, provide_teacher, train_teacher
from amalgam.teachers import OwnImages, load_teachers
from amalgam.teaching import Teaching
from amalgam.trainer import DivergedError, Hooks, epochs_done
from amalgam.transfer_set import TransferSet
from amalgam.whole import whole_folder

MOST_BYTES = 50_000_000_000
START = "student_weights_sha256"  # of an entry whose student starts from a file of weights
IMAGES = ("training_images", "test_images")  # of an entry, what identifies them
MACHINE = "machine.json"  # beside teachers: what the results say of the machine that trained them
SHIPPED = "shipped"  # of an entry: the settings that its protocol does not say, as params.yaml had them
OF_TEACHERS = {"target", "objective", "temperature", "standardize_logits", "confidence_temperature", "stored_teachers"}
MADE = ("seconds", "machine", "date", "commit", "training_images", START)  # of an entry, as far as it was written down


def once(folder: Path, make: Any) -> Path:
    """``folder``, made by ``make(work)`` if it is not there; other processes wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            with whole_folder(folder) as work:
                make(work)
    return folder


def prepared(protocol: Protocol, seed: int, task: str) -> Path:
    params = protocol.parameters(seed)

    def fetch(work: Path) -> None:
        folder_source.fetch(work, Path.cwd(), str(protocol.archive), None, MOST_BYTES)

    raw = once(protocol.workplace / "raw", fetch)

    def prepare(work: Path) -> None:
        available = read_classes(raw)
        label_sets = LabelSets.of_task(params.folder.tasks[task], available, "folder", task)
        splits = [read_split(raw, split) for split in SPLITS]
        size = stored_size(splits, available, label_sets.classes, None)
        for split, name, fraction in zip(splits, ("trainval", "test"), (params.val_fraction, 0.0), strict=True):
            write_split(plan_split([split], available, label_sets.classes, fraction, seed), size, work / name)
            label_sets.write(work / name)
        if (share := protocol.teachers_share) is not None:
            part(work, share, seed)

    return once(protocol.workplace / f"seed{seed}" / "prepared" / task, prepare)


def pupils(protocol: Protocol, folder: Path) -> Path:
    """The images that the student learns from and is validated on."""
    return folder / (TEACHERS if "student_sees_the_teachers" in protocol.apart else "trainval")


def trained_teachers(protocol: Protocol, folder: Path, seed: int, task: str) -> Path:
    """Raises UserError, before any is trained, if the results hold a seed of that number from a machine that computes otherwise."""
    images = folder / ("trainval" if protocol.teachers_share is None else TEACHERS)
    label_sets, split = LabelSets.read(images), PreparedSplit.read(images)

    def provide(work: Path) -> None:
        here = {"machine": device_name(), "arithmetic": arithmetic()}
        refuse_other_arithmetic(results().get(protocol.teachers_key(task, seed), {}), here, seed, task)
        for name in label_sets.teachers:
            provide_one(protocol, OwnImages.of(name, label_sets, split), seed, task, work / name)
        write_json(work / MACHINE, here)

    return once(protocol.workplace / f"seed{seed}" / "models" / task, provide)


def provide_one(protocol: Protocol, own: OwnImages, seed: int, task: str, target: Path) -> None:
    """Write one teacher into ``target``; it is kept, whatever becomes of the others."""
    if not protocol.is_finetuned:
        recipe = Recipe.of(protocol.parameters(seed))
        provide_teacher(own, recipe, target, partial(train_teacher, own, recipe))
        return
    settings, augmentation = protocol.specialist_settings(seed), protocol.parameters(seed).folder.augmentation
    start = architecture(settings)
    place = protocol.workplace / f"seed{seed}" / "specialists" / task / f"{target.name}-{(start_weights(settings) or 'random')[:12]}"
    shutil.copytree(once(place, partial(finetune, own, settings, start, augmentation)), target)


def stored_targets(folder: Path, job: Job, settings: StudentSettings) -> StoredTargets:
    """What the teachers say; of a student that learns from labels alone, which views there are, and no teacher is trained for it."""
    protocol, images = job.protocol, pupils(job.protocol, folder)
    label_sets, split = LabelSets.read(images), PreparedSplit.read(images)
    views = ViewSettings.of(settings, protocol.parameters(job.seed).folder.augmentation, job.seed)
    if settings.alpha == 0:
        return StoredTargets(Path(), views, settings.stored_teachers)
    models = trained_teachers(protocol, folder, job.seed, job.task)

    def write(work: Path) -> None:
        write_targets(work / "targets", split, label_sets, load_teachers(models, label_sets), views, settings.stored_teachers)

    name = f"{images.name}-{settings.views}-{settings.view_zoom:g}-{settings.view_colour:g}-{settings.stored_teachers}"
    kept = once(protocol.workplace / f"seed{job.seed}" / "views" / job.task / name, write)
    return StoredTargets.read(kept / "targets", split, label_sets)


def train(job: Job) -> float:
    """Train one student unless it is there, from where an earlier process was broken off; its validation accuracy in percent."""
    settings = job.settings
    folder = prepared(job.protocol, job.seed, job.task)
    targets, images = stored_targets(folder, job, settings), pupils(job.protocol, folder)
    label_sets, split = LabelSets.read(images), PreparedSplit.read(images)

    def make(own: Checkpoint, work: Path) -> None:
        student, saved = new_student(architecture(settings), label_sets, split, settings.seed), own.last()
        if done := epochs_done(saved):
            print(f"{job.task} {job.row} seed {job.seed}: goes on after epoch {done} of {settings.num_epochs}", flush=True)
        transfer_set = TransferSet.of(label_sets, split, targets, Teaching.of(settings))
        result = train_student(student, transfer_set, Optimization.of(settings), Hooks(keep=own.keep, resume=saved))
        seconds = {"seconds": round(sum(record.seconds for record in result.history), 1)}
        write_student(student, result, job.task, {"settings": settings.model_dump()} | seconds | made_of(settings, split), work)

    with checkpoint(training_key(job, settings, split, targets)) as own:
        done = once(job.folder, partial(make, own))
        own.remove()
    metrics, made = read_json(done / "metrics.json")[job.task], read_json(done / "student.json")
    accuracy = float(metrics["val_accuracy"])
    chosen_by = {SCORE: metrics["val_score"]} if "val_score" in metrics else {}
    record(
        job.key,
        about(job)
        | {"validation": accuracy, SHIPPED: shipped_settings(job, made["settings"])}
        | chosen_by
        | {name: made[name] for name in MADE if name in made},
    )
    print(f"{job.task} {job.row} {job.own} seed {job.seed}: validation {accuracy} %", flush=True)
    return accuracy


def training_key(job: Job, settings: StudentSettings, split: PreparedSplit, targets: StoredTargets) -> str:
    """Of all that a training depends on: one that was broken off goes on only where nothing of it has changed."""
    return fingerprint(
        job=job.key,
        settings=settings.model_dump(),
        images=split.content,
        views=asdict(targets.settings),
        targets=read_json(targets.folder / "targets.json") if settings.alpha > 0 else None,
        weights=start_weights(settings),
        record=execution_record(),
        code=code_hash("amalgam.training"),
    )[:32]


def made_of(settings: StudentSettings, split: PreparedSplit) -> dict[str, str]:
    """What a training was made with and when, beside what the protocol says of it."""
    found = made_here() | {"training_images": split.content, START: start_weights(settings)}
    return {name: value for name, value in found.items() if value}


def start_weights(settings: StudentSettings) -> str | None:
    """The sha256 of the file of weights that a student starts from; None without one, or where it is not to be had."""
    weights = architecture(settings).weights
    return sha256_of_file(weights) if weights and weights.is_file() else None


def shipped_settings(job: Job, student: dict[str, Any]) -> dict[str, Any]:
    """By name, what the protocol leaves to params.yaml: of the ``student``'s settings, of images and, if it has any, of its teachers.

    What has no effect on the row is left out.
    """
    params, said = job.protocol.parameters(job.seed), {"seed"} | job.protocol.common.keys() | job.own.keys()
    idle = {"run"} | (OF_TEACHERS if job.is_alone else set())
    idle |= {name for name, (other, needed) in ONLY_UNDER.items() if student[other] != needed}
    found = {name: value for name, value in student.items() if name not in said | idle}
    images = {"val_fraction": params.val_fraction, "augmentation": params.folder.augmentation.model_dump(mode="json")}
    own = {"seed", *job.protocol.teacher}
    theirs = {} if job.is_alone or job.protocol.is_finetuned else params.teacher.model_dump(mode="json", exclude=own)
    return found | images | {f"teacher.{name}": value for name, value in theirs.items()}


def about(job: Job) -> dict[str, Any]:
    return {"task": job.task, "row": job.row, "settings": job.own, "seed": job.seed}


def tuned(job: Job) -> float:
    """Its validation accuracy in percent; 0 where the training diverged."""
    try:
        return train(job)
    except DivergedError as error:
        record(job.key, about(job) | {"validation": 0.0, "diverged": str(error)})
        return 0.0


def architecture(settings: StudentSettings) -> Architecture:
    weights = ROOT / Path(settings.student_weights).expanduser() if settings.student_weights else None
    return Architecture(settings.student_model, settings.student_resolution, settings.pretrained, weights)


def test(job: Job) -> None:
    """Look at the test images with a trained student; and, where its target was fitted, with its teachers and this fit alone."""
    folder = prepared(job.protocol, job.seed, job.task)
    label_sets, split = LabelSets.read(folder / "test"), PreparedSplit.read(folder / "test")
    found = predict(load_student(job.folder, label_sets), split)
    combined = combined_teachers(job) if is_fitted(job) else {}
    seen = {"images": len(found.labels), "test_images": split.content}
    record(job.key, seen | {"right": packed(found.predicted == found.labels)} | combined)


def is_fitted(job: Job) -> bool:
    return Teaching.of(job.settings).is_fitted


def combine(job: Job) -> float:
    """Record, of a row that has been run, how its teachers do without the student; their accuracy in percent."""
    recognised(job.protocol, job.task, job.seed)
    found = combined_teachers(job)
    record(job.key, found)
    return 100 * float(right_images(results()[job.key], FITTED).mean())


def combined_teachers(job: Job) -> dict[str, str]:
    """Which test images the teachers get right, combined as the row's target was fitted to the training images; packed."""
    folder = prepared(job.protocol, job.seed, job.task)
    label_sets, split = LabelSets.read(folder / "test"), PreparedSplit.read(folder / "test")
    trainval, targets = PreparedSplit.read(pupils(job.protocol, folder)), stored_targets(folder, job, job.settings)
    transfer_set = TransferSet.of(label_sets, trainval, targets, Teaching.of(job.settings))
    teachers = load_teachers(trained_teachers(job.protocol, folder, job.seed, job.task), label_sets)
    right = teacher_controls(answers(teachers, split), label_sets, split.labels, transfer_set.fitted).unrouted_fitted_right
    assert right is not None
    return {FITTED: packed(right)}


def recognised(protocol: Protocol, task: str, seed: int) -> None:
    """Record what the seed's teachers reach on the test images; the machine that is recorded stays the one that made them first.

    Raises UserError if the results hold a seed of that number with other teachers.
    """
    folder = prepared(protocol, seed, task)
    models = trained_teachers(protocol, folder, seed, task)

    def measure(work: Path) -> None:
        label_sets, split = LabelSets.read(folder / "test"), PreparedSplit.read(folder / "test")
        measured = teacher_controls(answers(load_teachers(models, label_sets), split), label_sets, split.labels)
        rates = dict(zip(RATES, (measured.oracle_routed, measured.unrouted, measured.unrouted_joint), strict=True))
        right = {"right": packed(measured.unrouted_right), "joint right": packed(measured.unrouted_joint_right)}
        write_json(work / "controls.json", {"own": measured.own} | rates | {"images": len(split.labels)} | right)

    found = read_json(once(protocol.workplace / f"seed{seed}" / "controls" / task, measure) / "controls.json")
    key = protocol.teachers_key(task, seed)
    if protocol.is_finetuned and (weights := start_weights(protocol.specialist_settings(seed))):
        found |= {START: weights}
    before = results().get(key, {})
    refuse_other_teachers(before, found, seed, task)
    record(key, found | (read_json(models / MACHINE) if (models / MACHINE).exists() else {}) | before)


def train_and_test(job: Job) -> str | None:
    """Why there is no result, if there is none: the training diverged, say."""
    try:
        if job.settings.alpha > 0:
            recognised(job.protocol, job.task, job.seed)
        train(job)
        test(job)
    except UserError as error:
        return f"{job.protocol.file.name}, {job.row}, seed {job.seed}: {error}; it has no result"
    return None


def images_of(job: Job) -> dict[str, str]:
    """What identifies the images of the archive, those that students learn from and those that they are tested on."""
    folder = prepared(job.protocol, job.seed, job.task)
    both = (pupils(job.protocol, folder), folder / "test")
    return {name: PreparedSplit.read(own).content for name, own in zip(IMAGES, both, strict=True)}
