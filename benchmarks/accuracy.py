"""Accuracy of students by target, objective and recipe: the tables of docs/experiments.md.

    export PYTHONPATH=src:.
    python benchmarks/accuracy.py tune  images.zip --task A    every row on its grid, first seed, validation alone
    python benchmarks/accuracy.py run   images.zip --task A    the chosen settings, every seed; then the test images, once
    python benchmarks/accuracy.py table            --task A    Markdown, from what has been run

``tune`` writes its choice beside the protocol, into accuracy.chosen.yaml, which is committed before ``run``; ``run`` refuses rows
without a choice, unless the grid is a single point. ``--protocol benchmarks/labels.yaml`` is the other table: few labels, and none. Each
training's validation accuracy, and which test images it got right, go into accuracy.results.json: ``table`` reads nothing else, and a
training that stands in two tables is run once. A training is known by its seed and by what the protocol says of it; after a change of
params.yaml's other settings, or of the code, it is not run again by itself. What was computed is kept under .amalgam/accuracy and not
computed again, and what the results hold is not run again; teachers made twice are the same on the same kind of machine alone, so what
learns from a seed's teachers is finished where it was begun: ``run`` refuses to go on with other teachers. Rows of alpha 0 need none, and
train none. ``--jobs 2`` runs two trainings at a time, each on its part of the cores (or on AMALGAM_THREADS).
"""

import argparse
import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from benchmarks.apart import TEACHERS, part
from benchmarks.comparison import gain, packed, refuse_other_teachers, right_images, with_spread
from filelock import FileLock

from amalgam.controls import teacher_controls
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.distilling import Pupils, fitted_target, train_student
from amalgam.evaluation import predict
from amalgam.files import available_cores, read_json, whole_file, whole_folder, write_json
from amalgam.inference import device_name, predict_logits
from amalgam.params import Params
from amalgam.params_file import load_params
from amalgam.preparing import prepare_split, stored_size
from amalgam.provenance import THREADS_VARIABLE, configure_execution, fingerprint
from amalgam.sources import folder as folder_source
from amalgam.sources.raw import SPLITS, read_classes, read_split
from amalgam.student_settings import StudentSettings
from amalgam.students import Architecture, load_student, new_student, write_student
from amalgam.targets import StoredTargets, ViewSettings, write_targets
from amalgam.teachers import OwnImages, Recipe, load_hashed_teachers, load_teachers, provide_teacher, train_teacher
from amalgam.training import optimization, teaching

ROOT = Path(__file__).parent.parent

RESULTS = Path(__file__).with_suffix(".results.json")
PROTOCOL = "ACCURACY_PROTOCOL"  # environment variables that tell trainings in other processes which
ARCHIVE = "ACCURACY_ARCHIVE"
MOST_BYTES = 50_000_000_000
UNROUTED = {"unrouted teachers": "right", "unrouted teachers, joint": "joint right"}  # names of rows to compare with, and their entries
FITTED = "teachers right"  # of an entry: by the teachers, combined as its target, no student
RATES = ("oracle-routed", "unrouted", "unrouted, joint")

Settings = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """One training."""

    task: str
    row: str
    settings: Settings  # what differs from params.yaml
    seed: int

    @property
    def key(self) -> str:
        common = {name: protocol()[name] for name in ("teacher", "common")}
        return fingerprint(task=self.task, settings=self.settings, seed=self.seed, **common, **apart_settings())[:16]

    @property
    def folder(self) -> Path:
        return workplace() / "runs" / self.key


@cache
def workplace() -> Path:
    """Where everything is kept that comes of this archive and these teachers."""
    archive = Path(os.environ[ARCHIVE])
    about = archive.stat()
    key = fingerprint(
        archive=str(archive), size=about.st_size, changed=about.st_mtime_ns, teacher=protocol()["teacher"], **apart_settings()
    )
    return ROOT / ".amalgam" / "accuracy" / key[:12]


def protocol() -> dict[str, Any]:
    return read_protocol(Path(os.environ[PROTOCOL]))


@cache
def read_protocol(file: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    return read


def apart_settings() -> dict[str, float]:
    """Of a protocol whose teachers learn from other images than its students."""
    return {name: value for name, value in protocol().items() if name == "teachers_share"}


def teachers_key(task: str, seed: int) -> str:
    """The entry of what a seed's teachers reach."""
    return f"teachers {task} seed {seed}" + "".join(f", {100 * share:g} % of the images" for share in apart_settings().values())


def choice_file() -> Path:
    return Path(os.environ[PROTOCOL]).with_suffix(".chosen.yaml")


def chosen() -> dict[str, dict[str, Settings]]:
    return yaml.safe_load(choice_file().read_text(encoding="utf-8")) if choice_file().exists() else {}


def choice(task: str, row: str) -> Settings | None:
    """The grid's point with which ``row`` is run, or None before it is tuned."""
    grid: list[Settings] = protocol()["grid"]
    return grid[0] if len(grid) == 1 else chosen().get(task, {}).get(row)


def results() -> dict[str, Any]:
    return read_json(RESULTS) if RESULTS.exists() else {}


def record(key: str, found: dict[str, Any]) -> None:
    """Keep what one training, or one seed's teachers, came to."""
    with FileLock(ROOT / ".amalgam" / "accuracy.lock"):
        known = results()
        found_so_far = dict(sorted((known | {key: known.get(key, {}) | found}).items()))
        whole_file(RESULTS, (json.dumps(found_so_far, indent=2, ensure_ascii=False) + "\n").encode())


def parameters(seed: int) -> Params:
    shipped = load_params(ROOT / "params.yaml")
    teacher = shipped.teacher.model_copy(update=protocol()["teacher"] | {"seed": seed})
    return shipped.model_copy(update={"source": "folder", "data_seed": seed, "teacher": teacher})


def student_settings(job: Job) -> StudentSettings:
    shipped = parameters(job.seed)
    values = {name: getattr(shipped, name) for name in StudentSettings.model_fields}
    return StudentSettings.model_validate(values | protocol()["common"] | job.settings | {"seed": job.seed})


# ── Data, teachers, targets: once for each seed ──────────────────────────────────────────────────────────────────────


def once(folder: Path, make: Any) -> Path:
    """``folder``, made by ``make(work)`` if it is not there; other processes wait."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not folder.is_dir():
            with whole_folder(folder) as work:
                make(work)
    return folder


def prepared(seed: int, task: str) -> Path:
    params = parameters(seed)

    def fetch(work: Path) -> None:
        folder_source.fetch(work, Path.cwd(), os.environ[ARCHIVE], None, MOST_BYTES)

    raw = once(workplace() / "raw", fetch)

    def prepare(work: Path) -> None:
        available = read_classes(raw)
        label_sets = LabelSets.of_task(params.folder.tasks[task], available, "folder", task)
        splits = [read_split(raw, split) for split in SPLITS]
        size = stored_size(splits, available, label_sets.classes, None)
        for split, name, fraction in zip(splits, ("trainval", "test"), (params.val_fraction, 0.0), strict=True):
            prepare_split([split], available, label_sets.classes, size, fraction, seed, work / name)
            label_sets.write(work / name)
        for share in apart_settings().values():
            part(work, share, seed)

    return once(workplace() / f"seed{seed}" / "prepared" / task, prepare)


def trained_teachers(folder: Path, seed: int, task: str) -> Path:
    images = folder / (TEACHERS if apart_settings() else "trainval")
    label_sets, split = LabelSets.read(images), PreparedSplit.read(images)
    recipe = Recipe.of(parameters(seed))

    def provide(work: Path) -> None:
        for name in label_sets.teachers:
            own = OwnImages.of(name, label_sets, split)
            provide_teacher(own, recipe, work / name, partial(train_teacher, own, recipe))

    return once(workplace() / f"seed{seed}" / "models" / task, provide)


def stored_targets(folder: Path, job: Job, settings: StudentSettings) -> StoredTargets:
    """What the teachers say; of a student that learns from labels alone, which views there are, and no teacher is trained for it."""
    label_sets, split = LabelSets.read(folder / "trainval"), PreparedSplit.read(folder / "trainval")
    views = ViewSettings.of(settings, parameters(job.seed).folder.augmentation, job.seed)
    if settings.alpha == 0:
        return StoredTargets(Path(), views, settings.stored_teachers)
    models = trained_teachers(folder, job.seed, job.task)

    def write(work: Path) -> None:
        write_targets(work, split, label_sets, load_hashed_teachers(models, label_sets), views, settings.stored_teachers == "covering")

    name = f"{settings.views}-{settings.view_zoom:g}-{settings.view_colour:g}-{settings.stored_teachers}"
    return StoredTargets.read(once(workplace() / f"seed{job.seed}" / "targets" / job.task / name, write), split, label_sets)


# ── One training ─────────────────────────────────────────────────────────────────────────────────────────────────────


def train(job: Job) -> float:
    """Train one student unless it is there; its validation accuracy in percent."""
    settings = student_settings(job)
    folder = prepared(job.seed, job.task)
    targets = stored_targets(folder, job, settings)
    label_sets, split = LabelSets.read(folder / "trainval"), PreparedSplit.read(folder / "trainval")

    def make(work: Path) -> None:
        student = new_student(architecture(settings), label_sets, split, settings.seed)
        how, lesson = optimization(settings), teaching(settings)
        result = train_student(student, label_sets, split, targets, how, lesson)
        seconds = round(sum(record.seconds for record in result.history), 1)
        write_student(student, result, job.task, {"settings": settings.model_dump(), "seconds": seconds}, work)

    done = once(job.folder, make)
    accuracy = float(read_json(done / "metrics.json")[job.task]["val_accuracy"])
    seconds = read_json(done / "student.json")["seconds"]
    about = {"task": job.task, "row": job.row, "settings": job.settings, "seed": job.seed}
    where = {"machine": device_name(), "date": datetime.now(UTC).date().isoformat()}
    record(job.key, about | {"validation": accuracy, "seconds": seconds} | where)
    print(f"{job.task} {job.row} {job.settings} seed {job.seed}: validation {accuracy} %", flush=True)
    return accuracy


def architecture(settings: StudentSettings) -> Architecture:
    weights = Path(settings.student_weights) if settings.student_weights else None
    return Architecture(settings.student_model, settings.student_resolution, settings.pretrained, weights)


def test(job: Job) -> None:
    """Look at the test images with a trained student; and, where its target was fitted, with its teachers and this fit alone."""
    folder = prepared(job.seed, job.task)
    label_sets, split = LabelSets.read(folder / "test"), PreparedSplit.read(folder / "test")
    found = predict(load_student(job.folder, label_sets), split)
    record(job.key, {"images": len(found.labels), "right": packed(found.predicted == found.labels)})
    if teaching(student_settings(job)).is_fitted:
        predicted = combined_teachers(job, folder, label_sets, split)
        record(job.key, {FITTED: packed(predicted == split.labels)})


def combined_teachers(job: Job, folder: Path, label_sets: LabelSets, split: PreparedSplit) -> npt.NDArray[np.int64]:
    """The class of each image of ``split`` (N,) by the teachers, combined as the row's target was fitted to the training images."""
    settings, trainval = student_settings(job), PreparedSplit.read(folder / "trainval")
    targets = stored_targets(folder, job, settings)
    pupils = Pupils.of(trainval, label_sets.classes, targets, teaching(settings))
    combine = fitted_target(label_sets, targets, pupils, settings.target)
    teachers = load_teachers(trained_teachers(folder, job.seed, job.task), label_sets).values()
    logits = np.concatenate([predict_logits(teacher, split.images, np.arange(len(split.images))) for teacher in teachers], axis=1)
    predicted: npt.NDArray[np.int64] = combine(torch.from_numpy(logits)).argmax(1).numpy()
    return predicted


def recognised(task: str, seed: int) -> None:
    """Record what the seed's teachers reach on the test images. Exits if the results hold a seed of that number with other teachers."""
    folder = prepared(seed, task)
    models = trained_teachers(folder, seed, task)

    def measure(work: Path) -> None:
        label_sets, split = LabelSets.read(folder / "test"), PreparedSplit.read(folder / "test")
        measured = teacher_controls(load_teachers(models, label_sets), label_sets, split)
        rates = dict(zip(RATES, (measured.oracle_routed, measured.unrouted, measured.unrouted_joint), strict=True))
        right = {"right": packed(measured.unrouted_right), "joint right": packed(measured.unrouted_joint_right)}
        write_json(work / "controls.json", {"own": measured.own} | rates | {"images": len(split.labels)} | right)

    found = read_json(once(workplace() / f"seed{seed}" / "controls" / task, measure) / "controls.json")
    key = teachers_key(task, seed)
    refuse_other_teachers(results().get(key, {}), found, seed, task)
    record(key, found)


# ── The commands ─────────────────────────────────────────────────────────────────────────────────────────────────────


def work(do: Callable[[Job], float], jobs: Iterable[Job], processes: int) -> list[float]:
    os.environ.setdefault(THREADS_VARIABLE, str(max(available_cores() // processes, 1)))
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=configure_execution) as pool:
        return list(pool.map(do, jobs))


def train_and_test(job: Job) -> float:
    if student_settings(job).alpha > 0:
        recognised(job.task, job.seed)
    accuracy = train(job)
    test(job)
    return accuracy


def tune(task: str, processes: int, rows: dict[str, Settings]) -> None:
    """Every row on the grid with the first seed; the best by validation goes into the choice."""
    grid, seed = protocol()["grid"], protocol()["seeds"][0]
    jobs = [Job(task, row, settings | point, seed) for row, settings in rows.items() for point in grid]
    work(train, [job for job in jobs if "validation" not in results().get(job.key, {})], processes)
    known = results()
    accuracies = [known[job.key]["validation"] for job in jobs]
    choices = chosen()
    for index, row in enumerate(rows):
        own = accuracies[index * len(grid) : (index + 1) * len(grid)]
        choices.setdefault(task, {})[row] = dict(grid[int(np.argmax(own))])
    choice_file().write_text(yaml.safe_dump(choices, sort_keys=False, allow_unicode=True), encoding="utf-8")


def tested(job: Job) -> bool:
    return "right" in results().get(job.key, {})


def final_jobs(task: str, rows: dict[str, Settings], seeds: list[int]) -> list[Job]:
    points = {row: point for row in rows if (point := choice(task, row)) is not None}
    if lacking := rows.keys() - points.keys():
        raise SystemExit(f"no choice for {', '.join(sorted(lacking))} of {task}; tune them first, and commit {choice_file().name}")
    return [Job(task, row, settings | points[row], seed) for seed in seeds for row, settings in rows.items()]


def table(task: str, rows: dict[str, Settings], seeds: list[int]) -> str:
    """Markdown: a line a row of which each of these seeds has been run, then the controls."""
    known = results()
    done: dict[str, list[dict[str, Any]]] = {}
    for job in final_jobs(task, {row: settings for row, settings in rows.items() if choice(task, row)}, seeds):
        if tested(job):
            done.setdefault(job.row, []).append(known[job.key])
    done = {row: found for row, found in done.items() if len(found) == len(seeds)}
    right = {row: np.stack([right_images(run) for run in found]) for row, found in done.items()}
    teachers = [known[key] for seed in seeds if (key := teachers_key(task, seed)) in known]
    for name, kept in UNROUTED.items():
        if len(teachers) == len(seeds) and all(kept in found for found in teachers):
            right[name] = np.stack([right_images(found, kept) for found in teachers])
    reference = protocol()["reference"]
    lines = [f"| row | chosen | validation % | test % | over its control (95 %) | over {reference} (95 %) |", "|---" * 6 + "|"]
    for row, found in done.items():
        others = (protocol()["controls"].get(row, protocol()["control"]), reference)
        gains = " | ".join(gain(right[row], right[other]) if other in right and other != row else "–" for other in others)
        point = ", ".join(f"{name} {value:g}" for name, value in (choice(task, row) or {}).items())
        validation = np.mean([run["validation"] for run in found])
        lines.append(f"| {row} | {point} | {validation:.1f} | {with_spread(100 * right[row].mean(axis=1))} | {gains} |")
    if teachers:
        known_rates = [name for name in RATES if all(name in found for found in teachers)]
        rates = {name: with_spread(np.array([found[name] for found in teachers])) for name in known_rates}
        lines += [f"| *teachers, {name}* | | | {rate} | | |" for name, rate in rates.items()]
    for row, found in done.items():
        if all(FITTED in run for run in found):
            combined = 100 * np.stack([right_images(run, FITTED) for run in found]).mean(axis=1)
            lines.append(f"| *teachers, combined as for {row}* | | | {with_spread(combined)} | | |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["tune", "run", "table"])
    parser.add_argument(
        "archive", type=Path, nargs="?", help="train/<class>/* and test/<class>/* with the classes of params.yaml's block folder"
    )
    parser.add_argument("--task", required=True, choices=["A", "B"])
    parser.add_argument("--protocol", type=Path, default=Path(__file__).with_suffix(".yaml"), help="rows, grid, seeds")
    parser.add_argument("--rows", nargs="*", help="these alone")
    parser.add_argument("--seeds", type=int, nargs="*", help="these alone")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    arguments = parser.parse_args()
    os.environ.setdefault("DVC_ROOT", str(ROOT))
    os.environ[PROTOCOL] = str(arguments.protocol.resolve())
    task = f"task{arguments.task}"
    known = protocol()["rows"]
    if unknown := set(arguments.rows or known) - known.keys():
        parser.error(f"the protocol has no row {', '.join(sorted(unknown))}; it has {', '.join(known)}")
    rows = {row: settings for row, settings in known.items() if not arguments.rows or row in arguments.rows}
    if arguments.command != "table":
        if arguments.archive is None or not arguments.archive.exists():
            parser.error(f"{arguments.command} needs the archive of images: {arguments.archive or 'none was given'}")
        os.environ[ARCHIVE] = str(arguments.archive.resolve())
    seeds = arguments.seeds or protocol()["seeds"]
    if arguments.command == "tune":
        tune(task, arguments.jobs, rows)
    elif arguments.command == "run":
        jobs = final_jobs(task, rows, seeds)
        work(train_and_test, [job for job in jobs if not tested(job)], arguments.jobs)
    if arguments.command != "tune":
        print(table(task, rows, seeds))


if __name__ == "__main__":
    main()
