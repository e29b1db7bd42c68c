"""Evaluation and targets beside the bare forward pass of the same network.

    PYTHONPATH=src:. python -m benchmarks.speed.forward path/to/images.zip

*Evaluation* runs a student over images as they are (``inference.predict_logits``); *targets* runs three reference CNNs over one new view of
the images of their classes and stores what they say (``targets.write_targets``). *Bare* is the network alone on one batch that lies in
memory as a normalised tensor, in its own precision and the fastest variant of layout and batch size, found by trial. They take turns, and
every ratio has its 95 % interval. Prints a Markdown table and writes benchmarks/forward.results.json, after every network, where
those of before stay. Nothing else should run on the machine.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from benchmarks.markdown import markdown
from benchmarks.measured import keep, measured
from benchmarks.speed.pairs import times_as_fast
from benchmarks.speed.setting import ROOT, Setting, prepare, untrained_teachers
from torch import nn

from amalgam.inference import predict_logits
from amalgam.networks import build_network
from amalgam.precision import precision_of
from amalgam.provenance import configure_execution
from amalgam.student_settings import STUDENTS
from amalgam.students import Architecture, new_student
from amalgam.targets import write_targets

TEACHER = "ReferenceCNN"
NETWORKS = (*STUDENTS, TEACHER)
COLUMNS = ("work", "network", "shipped, images/s", "bare, images/s", "shipped / bare (95 %)")
RESULTS = ROOT / "benchmarks" / "forward.results.json"
BATCH_SIZES = (32, 64, 128, 256, 512)
TRIALS = 5
TRIAL_IMAGES = 1024

Variant = tuple[torch.memory_format, int]
VARIANTS: list[Variant] = list(itertools.product((torch.contiguous_format, torch.channels_last), BATCH_SIZES))


@torch.inference_mode()
def bare(network: nn.Module, precision: torch.dtype, side: int, variant: Variant, images: int) -> float:
    """Seconds of the network's forward pass over so many images, in whole batches."""
    layout, batch_size = variant
    network = network.to(memory_format=layout).eval()
    batch = torch.randn(batch_size, 3, side, side).to(memory_format=layout)
    steps = max(images // batch_size, 1)
    started = time.perf_counter()
    for _ in range(steps):
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            network(batch)
    return (time.perf_counter() - started) * images / (steps * batch_size)


def fastest(network: nn.Module, precision: torch.dtype, side: int) -> Variant:
    """By trials in turn, once warm: the one with the smallest median."""
    seconds: dict[Variant, list[float]] = {variant: [] for variant in VARIANTS}
    for variant in VARIANTS:
        bare(network, precision, side, variant, variant[1])
    for _ in range(TRIALS):
        for variant, found in seconds.items():
            found.append(bare(network, precision, side, variant, TRIAL_IMAGES))
    return min(VARIANTS, key=lambda variant: statistics.median(seconds[variant]))


def evaluation(setting: Setting) -> tuple[Callable[[], Any], int, int]:
    """What is timed, of how many images, and the side that the network sees."""
    settings, split = setting.settings, setting.split
    architecture = Architecture(setting.student, settings.student_resolution, pretrained=False)
    student = new_student(architecture, setting.label_sets, split, settings.seed)
    rows = np.arange(len(split.images))
    return partial(predict_logits, student, split.images, rows), len(rows), settings.student_resolution


def targets(setting: Setting) -> tuple[Callable[[], Any], int, int]:
    split, label_sets = setting.split, setting.label_sets
    teachers = untrained_teachers(split, label_sets)
    images = int(label_sets.covering()[:, split.labels[split.training_rows]].sum())
    seeds = itertools.count(1)

    def write() -> None:
        number = next(seeds)  # a view that nobody has seen
        views = replace(setting.targets.settings, views=1, data_seed=number)
        write_targets(setting.work / f"targets-{number}", split, label_sets, teachers, views, "covering")

    return write, images, split.images.shape[1]


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def entry(name: str, network: str, shipped: Callable[[], Any], images: int, side: int, turns: int) -> dict[str, Any]:
    alone, precision = build_network(network, 15), precision_of(network, "cpu")
    variant = fastest(alone, precision, side)
    shipped()
    taken: dict[str, list[float]] = {"shipped": [], "bare": []}
    for turn in range(turns):
        for kind in ("shipped", "bare") if turn % 2 else ("bare", "shipped"):
            taken[kind].append(seconds_of(shipped) if kind == "shipped" else bare(alone, precision, side, variant, images))
    return {
        "work": name,
        "network": network,
        "images_per_second": {kind: round(images * turns / sum(seconds)) for kind, seconds in taken.items()},
        "shipped / bare": [round(value, 3) for value in times_as_fast(taken["shipped"], taken["bare"])],
        "variant": ", ".join(str(part).removeprefix("torch.") for part in (precision, *variant)),
        "turns": turns,
    }


def table(entries: list[dict[str, Any]]) -> str:
    rows = []
    for found in entries:
        speeds = (str(found["images_per_second"][kind]) for kind in ("shipped", "bare"))
        rows.append((found["work"], found["network"], *speeds, "{:g} ({:g} … {:g})".format(*found["shipped / bare"])))
    return markdown(COLUMNS, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, help="train/<class>/* with the classes of params.yaml's block folder, task A")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=NETWORKS, help="these alone")
    parser.add_argument("--turns", type=int, default=7, help="how often each is measured")
    arguments = parser.parse_args()
    configure_execution()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DVC_ROOT"] = folder
        prepare(arguments.archive.resolve(), Path(folder))
        for network in arguments.networks:
            setting = Setting(Path(folder), STUDENTS[0] if network == TEACHER else network, 32)
            work, timed = ("targets", targets(setting)) if network == TEACHER else ("evaluation", evaluation(setting))
            keep(RESULTS, entry(work, network, *timed, arguments.turns), "work", "network")
    print(table(measured(RESULTS)))


if __name__ == "__main__":
    main()
