"""Pictures."""

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from amalgam.lettering import drawable, inches, use_fonts
from amalgam.metrics import Reliability

use_fonts()
matplotlib.rcParams["text.parse_math"] = False  # a class may have a dollar sign in its name
SAMPLES_A_ROW = 5
TITLE_WIDTH = 26  # characters above a sample
DARKEST = 125  # percent that the end of the colours would stand for: a hundred is no black
WRITTEN_UP_TO = 30  # classes; beyond, counts in the cells could not be read
NAMED_UP_TO = 130  # classes; beyond, nor could their names, and the picture grows no more
FEW, MANY = 9, 6  # points of their names, where counts are written and where not
SHORTEST = 1.0  # inches for names, however short


def save_confusion_matrix(counts: npt.NDArray[np.int64], classes: Sequence[str], title: str, path: Path, in_percent: bool = False) -> None:
    """Draw counts (C, C), actual × predicted, coloured by the share of each actual class; the cells say counts, or percent of the row."""
    few, names = len(classes) <= WRITTEN_UP_TO, _written(classes)
    side = 1.5 + _cells(len(classes)) + _room(names, FEW if few else MANY)
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", interpolation="nearest", vmin=0, vmax=1)
    if names:
        axes.set_xticks(range(len(classes)), names, rotation="vertical")
        axes.set_yticks(range(len(classes)), names)
    if few:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                text = f"{100 * shares[row, column]:.0f}" if in_percent else str(count)
                axes.text(column, row, text, ha="center", va="center", color=_ink(shares[row, column]), fontsize=8)
    axes.tick_params(labelsize=FEW if few else MANY)
    axes.set(xlabel="predicted", ylabel="actual")
    figure.suptitle(title)
    _save(figure, path)


def save_matrix(
    values: npt.NDArray[np.float64], rows: Sequence[str], columns: Sequence[str], title: str, path: Path, written: bool = True
) -> None:
    """Draw shares in percent (rows, columns), the larger the darker; NaN stays white. A scale says what cells too small for it do not."""
    few, above, beside = len(columns) <= WRITTEN_UP_TO, _written(columns), _written(rows)
    width = 1.5 + _cells(len(columns)) + _room(beside, FEW)
    height = 0.8 + 0.35 * min(len(rows), NAMED_UP_TO) + _room(above, FEW if few else MANY)
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    drawn = axes.imshow(values, cmap="Blues", vmin=0, vmax=DARKEST, aspect="auto")
    if written and not few:
        figure.colorbar(drawn, ax=axes, ticks=range(0, 101, 20), boundaries=range(101), label="%")
    if above:
        axes.set_xticks(range(len(columns)), above, rotation="vertical", fontsize=FEW if few else MANY)
    if beside:
        axes.set_yticks(range(len(rows)), beside, fontsize=FEW)
    if written and few:
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=_ink(value / DARKEST), fontsize=8)
    figure.suptitle(title)
    _save(figure, path)


def save_samples(images: npt.NDArray[np.uint8], titles: Sequence[str], right: npt.NDArray[np.bool_], path: Path) -> None:
    """Draw images (N, height, width, 3) in a grid, the titles of right predictions in green, of wrong ones in red.

    Lines of a title that would run into the next one are broken.
    """
    columns = min(SAMPLES_A_ROW, len(images))
    rows = -(-len(images) // columns)
    broken = ["\n".join(part for line in title.split("\n") for part in textwrap.wrap(line, TITLE_WIDTH)) for title in titles]
    height = 2.25 + 0.17 * max(title.count("\n") + 1 for title in broken)
    figure, grid = plt.subplots(rows, columns, figsize=(2.2 * columns, height * rows), layout="constrained", squeeze=False)
    for axes in grid.flat:
        axes.axis("off")
        axes.set_anchor("S")  # what height the image leaves is its title's
    for axes, image, title, is_right in zip(grid.flat, images, broken, right, strict=False):
        axes.imshow(image, interpolation="nearest")
        axes.set_title(title, fontsize=9, color="tab:green" if is_right else "tab:red")
    _save(figure, path)


def _cells(classes: int) -> float:
    """Inches for so many classes side by side."""
    return (0.42 if classes <= WRITTEN_UP_TO else 0.16) * min(classes, NAMED_UP_TO)


def _written(names: Sequence[str]) -> list[str]:
    """As the picture shows them; none where there are too many."""
    return drawable(names) if len(names) <= NAMED_UP_TO else []


def _room(names: Sequence[str], points: int) -> float:
    """Inches for the longest of the names that are written."""
    return max(inches(names, points), SHORTEST)


def _ink(darkness: float) -> str:
    return "white" if darkness > 0.5 else "black"


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, dpi=120, format="png", metadata={"Software": None})
    plt.close(figure)


def save_learning_curve(history: Mapping[str, npt.NDArray[np.float64]], best_epoch: int | None, title: str, path: Path) -> None:
    """Draw loss and accuracy (percent) by epoch, of training and, where there is one, of validation; the kept epoch, if any, is marked."""
    figure, both = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, kind, label in zip(both, ("loss", "accuracy"), ("loss", "accuracy, %"), strict=True):
        for split in ("train", "val"):
            values = history[f"{split}_{kind}"]
            if not np.isnan(values).all():
                axes.plot(
                    history["epoch"], values, label={"train": "training", "val": "validation"}[split], marker="." * (len(values) == 1)
                )
        if best_epoch is not None:
            axes.axvline(best_epoch, color="grey", linewidth=1, linestyle="dashed", label=f"kept: epoch {best_epoch}")
        axes.set(xlabel="epoch", ylabel=label)
        axes.locator_params(axis="x", integer=True)
        if axes.get_legend_handles_labels()[0]:  # without any label there is no accuracy to draw
            axes.legend(fontsize=8)
    figure.suptitle(title)
    _save(figure, path)


def save_reliability(found: Reliability, task: str, path: Path) -> None:
    """Draw accuracy against confidence, a circle a bin, as large as its share of the images; the diagonal is perfect calibration."""
    figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="dashed")
    axes.vlines(found.confidence, found.confidence, found.accuracy, color="tab:red", linewidth=1)
    axes.scatter(found.confidence, found.accuracy, s=10 + 600 * found.share, alpha=0.7)
    error = f"{100 * found.expected_calibration_error:.1f} %"
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", title=f"{task}: calibration error {error}")
    _save(figure, path)
