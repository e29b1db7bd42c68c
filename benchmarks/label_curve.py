"""Accuracy by the share of labels that the student may use: the picture of docs/experiments.md.

    export PYTHONPATH=src:.
    python benchmarks/label_curve.py --task A docs/few_labels_taskA.png

Draws, from benchmarks/accuracy.results.json, the lines that ``curves`` of benchmarks/labels.yaml names for the task: mean and range over
the seeds; a point of fewer seeds than the protocol's is hollow. The teachers by themselves are the horizontal lines.
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")

from benchmarks.comparison import right_images
from benchmarks.protocol import Protocol, results
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

LINES = {"oracle-routed": "--", "unrouted": ":", "unrouted, joint": "-."}  # of the teachers
LABELS = Protocol.named("labels")
NEAR = 2.5  # points: the text of a line so close below another one stands below it
PLACES = {0: 0, 0.1: 1, 0.25: 2, 1: 3}  # of the shares on the axis


def accuracies(task: str, row: str) -> list[float]:
    """Of the seeds that have been run, in percent."""
    known = results()
    jobs = LABELS.jobs(task, {row: LABELS.rows[row]}, LABELS.seeds)
    return [100 * float(right_images(known[job.key]).mean()) for job in jobs if job.is_tested]


def draw_curve(axes: Axes, name: str, found: dict[float, list[float]], highest: dict[float, float]) -> None:
    """One line; its numbers stand above the points that are the ``highest`` of all lines, below the others.

    Points of fewer seeds than the others are hollow, and no line leads to them.
    """
    seeds = len(LABELS.seeds)
    whole = {share: values for share, values in found.items() if len(values) == seeds}
    gap = [np.nan] * seeds
    ranged = np.array([whole.get(share, gap) for share in PLACES])  # (shares, seeds)
    means = ranged.mean(axis=1)
    below, above = means - ranged.min(axis=1), ranged.max(axis=1) - means
    colour = axes.errorbar(list(PLACES.values()), means, yerr=[below, above], marker="o", capsize=3, label=name)[0].get_color()
    for share, values in found.items():
        place, mean = PLACES[share], float(np.mean(values))
        if share not in whole:
            axes.plot(place, mean, marker="o", markerfacecolor="none", color=colour)
        offset = (6, 5 if mean == highest[share] else -12)
        axes.annotate(f"{mean:.1f}", (place, mean), textcoords="offset points", xytext=offset, fontsize=8)


def draw_teachers(axes: Axes, task: str) -> None:
    """What they reach without a student: told which of them knows the image, and not told."""
    every = [known for seed in LABELS.seeds if (known := LABELS.known_teachers(task, seed))]
    above = np.inf
    for name, style in sorted(LINES.items(), key=lambda line: -mean_of(every, line[0])):
        if np.isnan(mean := mean_of(every, name)):
            continue
        axes.axhline(mean, color="grey", linestyle=style, linewidth=1)
        share = axes.get_yaxis_transform()  # x as a share of the axis
        offset = (0, 3 if above - mean > NEAR else -10)
        axes.annotate(f"teachers, {name}: {mean:.1f}", (0.01, mean), xycoords=share, xytext=offset, textcoords="offset points", fontsize=8)
        above = mean


def mean_of(every: list[dict[str, Any]], name: str) -> float:
    """Of all seeds; not a number if one lacks it."""
    found = [known[name] for known in every if name in known]
    return float(np.mean(found)) if len(found) == len(LABELS.seeds) else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the .png file to write")
    parser.add_argument("--task", required=True, choices=["A", "B"])
    arguments = parser.parse_args()
    task = f"task{arguments.task}"
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    curves = {name: {share: accuracies(task, row) for share, row in rows.items()} for name, rows in LABELS.values["curves"][task].items()}
    lines = {name: {share: values for share, values in found.items() if values} for name, found in curves.items()}
    highest = {share: max((float(np.mean(found[share])) for found in lines.values() if share in found), default=0.0) for share in PLACES}
    for name, found in lines.items():
        draw_curve(axes, name, found, highest)
    draw_teachers(axes, task)
    axes.set_xlim(-0.3, max(PLACES.values()) + 0.4)
    axes.set_xticks(list(PLACES.values()), [f"{100 * share:g} %" for share in PLACES])
    axes.set(xlabel="training images whose label the student may use", ylabel="test accuracy, %", title=f"Task {arguments.task}")
    axes.legend(loc="lower right", fontsize=9)
    figure.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
