"""Whole experiments by the real pipeline, beside the naive loop: one of 40 epochs, one of 100, six that differ in alpha and temperature.

    PYTHONPATH=src:. python -m benchmarks.speed.experiments path/to/images.zip --students MobileNetV3

In a new clone, with images and teachers made beforehand, it times ``dvc repro train-taskA``: targets, training, validation,
checkpoints, tracking and DVC itself, in the configuration of the accuracy table. Then one with another alpha and temperature, which finds
its targets made. The naive loop (``loops.py``) is timed over whole epochs of as many steps; it validates, keeps and logs nothing. From both
follow, by whole epochs more, the numbers that were not measured. Prints a Markdown table and writes benchmarks/experiments.results.json.
Nothing else should run on the machine.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import reduce
from itertools import pairwise
from multiprocessing.connection import Connection
from operator import getitem
from pathlib import Path
from typing import Any

from benchmarks.markdown import markdown
from benchmarks.measured import keep, measured
from benchmarks.speed import loops, pairs
from benchmarks.speed.setting import IN_ACCURACY_TABLE, ROOT, TASK, Setting, prepare, processor
from dvc.utils.serialize import modify_yaml

from amalgam.inference import device_name
from amalgam.provenance import configure_execution
from amalgam.record import RunRecord
from amalgam.student_settings import STUDENTS

RESULTS = ROOT / "benchmarks" / "experiments.results.json"
BATCH_SIZE = 32
SHORT = 2  # epochs of the second experiment
FOREIGN = ("DVC_ROOT", "PYTHONPATH", "MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI")  # the clone has its own, as whoever clones it has
Settings = dict[str, Any]
EXPERIMENTS = {"40 epochs": (1, 40), "100 epochs": (1, 100), "six of 40": (6, 40)}  # how many, of how many epochs


def repro(clone: Path, target: str, settings: Settings) -> float:
    """Seconds of ``dvc repro`` up to a target, with these settings changed in params.yaml."""
    with modify_yaml(clone / "params.yaml") as params:
        for name, value in settings.items():
            *blocks, key = name.split(".")
            reduce(getitem, blocks, params)[key] = value
    environment = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    started = time.perf_counter()
    done = subprocess.run(["dvc", "repro", target], cwd=clone, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"dvc repro {target} failed:\n{done.stdout}\n{done.stderr}")
    return time.perf_counter() - started


def shipped(archive: Path, student: str, epochs: int, clone: Path) -> dict[str, float]:
    """Seconds of an epoch, of an experiment beside its epochs, and of a second one; how much of an epoch is not training, in percent."""
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    data = {"source": "folder", "folder.fetch.path": str(archive), "teacher.num_epochs": 1}
    repro(clone, "models.dvc", data | {"student_model": student, "batch_size": BATCH_SIZE} | IN_ACCURACY_TABLE)
    first = repro(clone, f"train-{TASK}", {"num_epochs": epochs})
    history = RunRecord.read(clone / "outputs" / "students" / TASK).epochs
    ends = [found["ended"] / 1000 for found in history]
    whole = [after - before for before, after in pairwise(ends)]
    images = Setting(clone / "outputs" / "prepared" / TASK, student, BATCH_SIZE).split.training_rows
    training = [len(images) / found["images_per_second"] for found in history[1:]]
    second = repro(clone, f"train-{TASK}", {"num_epochs": SHORT, "alpha": 0.3, "temperature": 2.0})
    epoch = statistics.mean(whole)
    return {
        "epoch": epoch,
        "once": first - epochs * epoch,
        "each": second - SHORT * epoch,
        "not training, %": 100 * (1 - sum(training) / sum(whole)),
        "measured epochs": epochs,
        "images": len(images),
    }


def refuse_uncommitted_code() -> None:
    """What is timed is a clone, of what is committed."""
    command = ["git", "status", "--porcelain", "--", "src", "stages", "dvc.yaml", "params.yaml"]
    changed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    if changed.stdout:
        raise SystemExit(
            f"not committed, so it would not be what is timed: {changed.stdout.decode().split()[1]} and what else git status says"
        )


def naive(setting: Setting, images: int, epochs: int) -> list[float]:
    """Seconds of each of so many epochs of so many images, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=naive_epochs, args=(theirs, setting, images, epochs))
    process.start()
    theirs.close()  # so that its death is an end of file
    seconds: list[float] = ours.recv()
    process.join()
    return seconds


def naive_epochs(connection: Connection, setting: Setting, images: int, epochs: int) -> None:
    variant = pairs.best("naive", setting)
    times: list[float] = []

    def tick() -> None:
        times.append(time.perf_counter())
        if len(times) > epochs * steps:
            raise loops.EnoughError

    steps = -(-images // setting.batch_size)
    with suppress(loops.EnoughError):
        pairs.variants_of("naive", setting)[variant](tick)
    marks = times[::steps]
    connection.send([after - before for before, after in pairwise(marks)])


def entry(student: str, ours: dict[str, float], theirs: list[float]) -> dict[str, Any]:
    epoch = statistics.mean(theirs)
    experiments = {}
    for name, (count, epochs) in EXPERIMENTS.items():
        seconds = ours["once"] + (count - 1) * ours["each"] + count * epochs * ours["epoch"]
        experiments[name] = {"shipped": round(seconds), "naive": round(count * epochs * epoch)}
    return {
        "student": student,
        "batch_size": BATCH_SIZE,
        "shipped": {name: round(value, 2) for name, value in ours.items()},
        "naive epochs": [round(value, 1) for value in theirs],
        "experiments": experiments,
    }


def table(entries: list[dict[str, Any]]) -> str:
    columns = [
        "student",
        "naive epochs, s",
        "shipped epoch, s",
        "of it not training, %",
        "once, s",
        *(f"{name}, s (times faster)" for name in EXPERIMENTS),
        "processor, date",
    ]
    rows = []
    for found in entries:
        ours = found["shipped"]
        theirs = ", ".join(f"{value:g}" for value in found["naive epochs"])
        cells = [found["student"], theirs, f"{ours['epoch']:g}", f"{ours['not training, %']:.1f}", f"{ours['once']:.0f}"]
        cells += [f"{seconds['shipped']} ({seconds['naive'] / seconds['shipped']:.1f})" for seconds in found["experiments"].values()]
        cells.append(f"{processor(found['machine'])}, {found['date']}")
        rows.append(cells)
    return markdown(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="train/<class>/* and test/<class>/* with the classes of params.yaml's block folder")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=STUDENTS, help="these alone")
    parser.add_argument("--epochs", type=int, default=40, help="measured epochs of the shipped experiment")
    parser.add_argument("--naive-epochs", type=int, default=2, help="measured epochs of the naive loop; 0 keeps this machine's of before")
    arguments = parser.parse_args()
    archive = arguments.archive.resolve()
    refuse_uncommitted_code()
    configure_execution()
    known = {found["student"]: found["naive epochs"] for found in measured(RESULTS) if found["machine"] == device_name()}
    if not arguments.naive_epochs and (lacking := set(arguments.students) - known.keys()):
        parser.error(
            f"no epoch of the naive loop was measured on this machine with {', '.join(sorted(lacking))}; leave out --naive-epochs 0"
        )
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        os.environ["DVC_ROOT"] = temporary
        prepare(archive, folder)
        for student in arguments.students:
            ours = shipped(archive, student, arguments.epochs, folder / "clone")
            shutil.rmtree(folder / "clone")
            setting, epochs = Setting(folder, student, BATCH_SIZE), arguments.naive_epochs
            theirs = naive(setting, int(ours["images"]), epochs) if epochs else known[student]
            keep(RESULTS, entry(student, ours, theirs), "student")
    print(table(measured(RESULTS)))


if __name__ == "__main__":
    main()
