"""How time and memory grow with the number of images: preprocess, targets, training, and DVC's hashing.

    PYTHONPATH=src:. python -m benchmarks.scale --images 10000 100000 1000000 --folder /a/disk/with/space

Synthetic PNG images of 64 x 64 pixels, a thousand different ones over and over. The teachers see 16 pixels, the student 32: what is
measured is the way of the images, not the networks. Each step is a process of its own, whose peak of memory (its children's included)
leaves out the pages of files, which the system may take back. What a larger number of images takes longer than the one before it gives
the speed of the images beyond, free of what starting takes. A step is measured from the smallest number up to the largest and down again,
so that a machine that grows faster or slower meanwhile shows. Prints a Markdown table and writes benchmarks/scale.results.json, where the
other cases of before stay. A million images need 40 GB of disk. Nothing else should run on the machine.

What imports torch is imported where it is used: the processes that decode import this module, and need no torch.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, wait
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import numpy as np
import psutil
from benchmarks.markdown import markdown
from benchmarks.measured import Entry, keep, measured
from PIL import Image

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.preparing import plan_split, stored_size, write_split
from amalgam.provenance import configure_execution
from amalgam.sources.raw import RawImage, read_classes, read_split, write_raw

SIDE, DIFFERENT = 64, 1000
TEACHER_SIDE, STUDENT_SIDE = 16, 32
BATCH_SIZE, STEPS = 128, 500  # of training
SECONDS_BETWEEN_SAMPLES = 0.02
RESULTS = Path(__file__).with_suffix(".results.json")
COLUMNS = ("images", "classes, teachers", "preprocess, images/s (MB)", "targets", "training", "DVC, s", "disk, GB")


class Run(NamedTuple):
    """Of a step."""

    seconds: float
    peak_mb: float


Step = Callable[[Path, LabelSets], float]


def label_sets(classes: int, teachers: int) -> LabelSets:
    """Each teacher knows twice its part of the classes, so that neighbours overlap."""
    names = [f"class {number:03d}" for number in range(classes)]
    part = classes // teachers
    return LabelSets(
        tuple(names), {f"teacher {t:02d}": tuple(sorted(names[(t * part + k) % classes] for k in range(2 * part))) for t in range(teachers)}
    )


def encoded_images() -> list[bytes]:
    """Smooth shapes with some noise: PNG files of about the size that photographs have."""
    random, found = np.random.default_rng(0), []
    y, x = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    for _ in range(DIFFERENT):
        waves = [np.sin(2 * np.pi * (random.random() + x * random.normal(0, 2) + y * random.normal(0, 2))) for _ in range(3)]
        pixels = 128 + 90 * np.stack(waves, axis=-1) + random.normal(0, 6, (SIDE, SIDE, 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
        found.append(buffer.getvalue())
    return found


def write_images(folder: Path, count: int, sets: LabelSets) -> None:
    encoded = encoded_images()

    def images(number: int) -> Iterator[RawImage]:
        for index in range(number):
            yield RawImage(index * len(sets.classes) // number, f"{index:07d}.png", encoded[index % DIFFERENT])

    write_raw(folder / "raw", "synthetic", sets.classes, {"train": images(count), "test": images(len(sets.classes))})


def preprocess(folder: Path, sets: LabelSets) -> float:
    started = time.perf_counter()
    raw, available = read_split(folder / "raw", "train"), read_classes(folder / "raw")
    size = stored_size([raw], available, sets.classes, None)
    write_split(plan_split([raw], available, sets.classes, 0.0, 0), size, folder / "prepared")
    return time.perf_counter() - started


def targets(folder: Path, sets: LabelSets) -> float:
    from amalgam.inference import device
    from amalgam.models import Classifier
    from amalgam.networks import build_network
    from amalgam.preprocessing import Preprocessing
    from amalgam.targets import ViewSettings, write_targets

    configure_execution()
    os.environ["DVC_ROOT"] = str(folder)
    split, looks = PreparedSplit.read(folder / "prepared"), Preprocessing((TEACHER_SIDE, TEACHER_SIDE), (0.5,) * 3, (0.5,) * 3)
    known = {
        name: Classifier("ReferenceCNN", build_network("ReferenceCNN", len(own)), own, looks, weights_sha256=name).to(device())
        for name, own in sets.teachers.items()
    }
    started = time.perf_counter()
    write_targets(folder / "targets", split, sets, known, ViewSettings(1, 4, True, 0), "covering")
    return time.perf_counter() - started


class EnoughError(Exception):
    """So many steps were to be timed."""


def training(folder: Path, sets: LabelSets) -> float:
    """Seconds of an epoch: what lies before the first step's end, whole, and the other steps at the pace of so many of them."""
    from amalgam.batches import steps_per_epoch
    from amalgam.distilling import train_student
    from amalgam.optimization import Optimization
    from amalgam.students import Architecture, new_student
    from amalgam.targets import StoredTargets
    from amalgam.teaching import Teaching
    from amalgam.trainer import Hooks
    from amalgam.transfer_set import TransferSet

    configure_execution()
    split = PreparedSplit.read(folder / "prepared")
    stored = StoredTargets.read(folder / "targets", split, sets)
    student = new_student(Architecture("MobileNetV3", STUDENT_SIDE, False), sets, split, 0)
    teaching = Teaching(
        alpha=0.5,
        temperature=4.0,
        target="blocks",
        objective="kl",
        standardize_logits=False,
        confidence_temperature=1.0,
        label_fraction=1.0,
        label_smoothing=0.0,
        mixup=0.0,
        batch_size=BATCH_SIZE,
        seed=0,
    )
    steps = steps_per_epoch(len(split.images), BATCH_SIZE)
    timed = min(steps, STEPS)
    times = [time.perf_counter()]

    def tick() -> None:
        times.append(time.perf_counter())
        if len(times) > timed:
            raise EnoughError

    with suppress(EnoughError):
        transfer_set = TransferSet.of(sets, split, stored, teaching)
        train_student(student, transfer_set, Optimization("adamw", 1e-3, 0.05, "one_cycle", 1), Hooks(on_step=tick))
    start, first, *_, last = times
    return first - start + (last - first) / (timed - 1) * (steps - 1)


def hashing(folder: Path, _: LabelSets) -> float:
    """DVC takes prepared images and targets: it hashes them and links them into its cache."""
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "--no-scm", "--quiet"], cwd=folder, check=True)
    subprocess.run([*dvc, "config", "cache.type", "reflink,hardlink,copy"], cwd=folder, check=True)
    started = time.perf_counter()
    subprocess.run([*dvc, "add", "--quiet", "prepared", "targets"], cwd=folder, check=True)
    return time.perf_counter() - started


def anonymous_memory() -> int:
    """Bytes of this process's children, and theirs, that are no file's pages."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        with suppress(OSError, psutil.Error):
            status = Path(f"/proc/{child.pid}/status").read_text()
            total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
    return total


def apart(step: Step, *arguments: Any) -> Run:
    """A step in a process of its own."""
    peak = 0
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        future = pool.submit(step, *arguments)
        while not wait([future], SECONDS_BETWEEN_SAMPLES).done:
            peak = max(peak, anonymous_memory())
        return Run(future.result(), peak / 1e6)


def size_of(folder: Path) -> int:
    """Bytes on disk, each file once however many names it has."""
    found = {(s.st_dev, s.st_ino): s.st_blocks * 512 for s in (path.stat() for path in folder.rglob("*") if path.is_file())}
    return sum(found.values())


def there_and_back(counts: list[int], sets: LabelSets, root: Path, step: Step, makes: tuple[str, ...]) -> dict[int, list[Run]]:
    """Runs of a step for each number of images; what it ``makes`` is made anew each time."""
    runs: dict[int, list[Run]] = {count: [] for count in counts}
    for count in [*counts, *counts[-2::-1]]:
        for made in makes:
            shutil.rmtree(root / str(count) / made, ignore_errors=True)
        runs[count].append(apart(step, root / str(count), sets))
        print(count, step.__name__, runs[count][-1], flush=True)
    return runs


def summary(runs: list[Run], images: int, smaller: list[Run], of_smaller: int) -> dict[str, Any]:
    """Of the speed, what a ``smaller`` number of images took is taken off."""
    seconds = mean(run.seconds for run in runs)
    beyond = seconds - (mean(run.seconds for run in smaller) if smaller else 0)
    return {
        "images_per_second": round((images - of_smaller) / beyond, 1),
        "seconds": [round(run.seconds, 2) for run in runs],
        "peak_mb": round(max(run.peak_mb for run in runs)),
    }


def measure(counts: list[int], sets: LabelSets, root: Path) -> list[Entry]:
    """All steps with each of these rising numbers of images."""
    for count in counts:
        write_images(root / str(count), count, sets)
    makes: dict[Step, tuple[str, ...]] = {preprocess: ("prepared",), targets: ("targets", ".amalgam"), training: ()}
    runs = {step.__name__: there_and_back(counts, sets, root, step, made) for step, made in makes.items()}
    runs[hashing.__name__] = {count: [apart(hashing, root / str(count), sets)] for count in counts}
    entries: list[Entry] = []
    for before, count in zip([0, *counts], counts, strict=False):
        told = {name: summary(found[count], count, found.get(before, []), before) for name, found in runs.items()}
        folders = {name: size_of(root / str(count) / name) for name in ("raw", "prepared", "targets", ".amalgam", "")}
        disk = {name or "all": round(size / 1e9, 2) for name, size in folders.items()}
        case = {"images": count, "classes": len(sets.classes), "teachers": len(sets.teachers)}
        entries.append(case | told | {"disk_gb": disk})
    return entries


def table(entries: list[Entry]) -> str:
    rows = []
    for found in entries:
        speeds = ("{images_per_second:.0f} ({peak_mb})".format(**found[step]) for step in ("preprocess", "targets", "training"))
        size = f"{found['classes']}, {found['teachers']}"
        rows.append((f"{found['images']:,}", size, *speeds, f"{found['hashing']['seconds'][0]:.0f}", f"{found['disk_gb']['all']:.1f}"))
    return markdown(COLUMNS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, help="where there is room (default: the system's temporary folder)")
    arguments = parser.parse_args()
    counts = sorted(arguments.images)
    for these, sets in ((counts, label_sets(15, 3)), (counts[:1], label_sets(100, 20))):
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            for entry in measure(these, sets, Path(folder)):
                keep(RESULTS, entry, "images", "classes")
    print(table(measured(RESULTS)))


if __name__ == "__main__":
    main()
