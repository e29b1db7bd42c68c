"""Accuracy by the share of labels that the student may use: the picture of docs/experiments.md.

    export PYTHONPATH=src:.
    python benchmarks/label_curve.py --task A docs/few_labels_taskA.png

Draws, from benchmarks/accuracy.results.json, the lines that ``curves`` of benchmarks/labels.yaml and, broken, of benchmarks/pretrained.yaml
names: mean and range over the seeds; a point of fewer seeds than the protocol's is hollow, and seeds other than the first one's are named.
The teachers by themselves, with the first one's seeds, are the horizontal lines. The picture holds what it draws as text, under ``DRAWN``.
"""

import argparse
import json
from dataclasses import dataclass
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
COLOURS = ("tab:blue", "tab:orange")  # of labels alone, and with teachers
DRAWN = "Description"  # of the picture's texts, the one that says which accuracies it shows
CLOSE = 4  # points: of two so close at a share, the upper one's number stands above it and the lower one's below
NEAR = 2.5  # points: the text of a line so close below another one stands below it
HEADROOM = 0.06  # of the axis, above the highest line, for its text
PLACES = {0: 0, 0.1: 1, 0.25: 2, 1: 3}  # of the shares on the axis


@dataclass(frozen=True)
class Style:
    """How a protocol's lines are drawn, and on which side of a point its number stands."""

    line: str
    aside: int  # points
    alignment: str


STYLES = {"labels": Style("-", 7, "left"), "pretrained": Style("--", -7, "right")}  # by protocol
Curve = dict[float, list[float]]  # by share of labels: the accuracies of its seeds, in percent


def curve(protocol: Protocol, task: str, rows: dict[float, str]) -> Curve:
    """Of the shares and seeds that have been run."""
    known = results()
    jobs = {share: protocol.jobs(task, {row: protocol.rows[row]}, protocol.seeds(task)) for share, row in rows.items()}
    found = {
        share: [100 * float(right_images(known[job.key]).mean()) for job in of_share if job.is_tested] for share, of_share in jobs.items()
    }
    return {share: values for share, values in found.items() if values}


def draw_curve(axes: Axes, found: Curve, seeds: int, **look: Any) -> None:
    """One line; points of fewer ``seeds`` than the protocol has are hollow, and no line leads to them."""
    whole = {share: values for share, values in found.items() if len(values) == seeds}
    ranged = np.array(list(whole.values())).reshape(len(whole), seeds)
    means = ranged.mean(axis=1)
    spread = [means - ranged.min(axis=1), ranged.max(axis=1) - means] if whole else None
    axes.errorbar([PLACES[share] for share in whole], means, yerr=spread, marker="o", capsize=3, **look)
    for share in found.keys() - whole.keys():
        axes.plot(PLACES[share], np.mean(found[share]), marker="o", markerfacecolor="none", color=look["color"])


def write_numbers(axes: Axes, lines: dict[str, Curve], style: Style, others: list[Curve]) -> None:
    """Each point's mean: below the point if one of the ``lines`` is higher there, else above; unless one of all ``others`` is close."""
    for colour, found in zip(COLOURS, lines.values(), strict=True):
        for share, values in found.items():
            mean = float(np.mean(values))
            gaps = [float(np.mean(other[share])) - mean for other in others if share in other]
            is_lower = any(np.mean(other[share]) > mean for other in lines.values() if share in other)
            is_close = {side: any(0 < side * gap < CLOSE for gap in gaps) for side in (1, -1)}
            is_below = is_close[1] or (is_lower and not is_close[-1])
            box = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.3}
            look: dict[str, Any] = {"fontsize": 8, "color": colour, "ha": style.alignment, "bbox": box}
            offset = (style.aside, -9 if is_below else 7)
            axes.annotate(f"{mean:.1f}", (PLACES[share], mean), textcoords="offset points", xytext=offset, **look)


def curves(protocol: Protocol, task: str) -> dict[str, Curve]:
    """Its lines by their names, of what has been run."""
    seeds = protocol.seeds(task)
    which = "" if seeds == LABELS.seeds(task) else f" (seeds {', '.join(map(str, seeds))})"
    return {f"{name}{which}": curve(protocol, task, rows) for name, rows in protocol.values["curves"].items()}


def draw_protocol(axes: Axes, protocol: Protocol, task: str, style: Style) -> None:
    """Its lines, of those that have been run."""
    lines = curves(protocol, task)
    for colour, (name, found) in zip(COLOURS, lines.items(), strict=True):
        if found:
            draw_curve(axes, found, len(protocol.seeds(task)), label=name, color=colour, linestyle=style.line)
    write_numbers(axes, lines, style, [found for file in STYLES for found in curves(Protocol.named(file), task).values()])


def draw_teachers(axes: Axes, task: str) -> None:
    """What they reach without a student: told which of them knows the image, and not told."""
    above = np.inf
    for name, mean in sorted(teachers(task).items(), key=lambda line: -line[1]):
        axes.axhline(mean, color="grey", linestyle=LINES[name], linewidth=1)
        share = axes.get_yaxis_transform()  # x as a share of the axis
        offset = (0, 3 if above - mean > NEAR else -10)
        axes.annotate(f"teachers, {name}: {mean:.1f}", (0.01, mean), xycoords=share, xytext=offset, textcoords="offset points", fontsize=8)
        above = mean


def teachers(task: str) -> dict[str, float]:
    """The mean over the seeds of what they reach in each way that has been measured with every seed."""
    every = [LABELS.known_teachers(task, seed) for seed in LABELS.seeds(task)]
    return {name: float(np.mean([known[name] for known in every])) for name in LINES if all(name in known for known in every)}


def drawn(task: str) -> str:
    """All accuracies that the picture shows."""
    lines = {name: found for file in STYLES for name, found in curves(Protocol.named(file), task).items()}
    return json.dumps(lines | {f"teachers, {name}": mean for name, mean in teachers(task).items()})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", type=Path, help="the .png file to write")
    parser.add_argument("--task", required=True, choices=["A", "B"])
    arguments = parser.parse_args()
    task = f"task{arguments.task}"
    figure, axes = plt.subplots(figsize=(6.4, 5), layout="constrained")
    for name, style in STYLES.items():
        draw_protocol(axes, Protocol.named(name), task, style)
    draw_teachers(axes, task)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + HEADROOM * (high - low))
    axes.set_xlim(-0.4, max(PLACES.values()) + 0.4)
    axes.set_xticks(list(PLACES.values()), [f"{100 * share:g} %" for share in PLACES])
    axes.set(xlabel="training images whose label the student may use", ylabel="test accuracy, %", title=f"Task {arguments.task}")
    figure.legend(loc="outside lower center", ncols=2, fontsize=8, handlelength=4)
    figure.savefig(arguments.picture, dpi=110, metadata={DRAWN: drawn(task)})


if __name__ == "__main__":
    main()
