"""Pictures."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import numpy.typing as npt

matplotlib.use("Agg")

from matplotlib import pyplot as plt
from sklearn.metrics import ConfusionMatrixDisplay

from amalgam.metrics import Reliability

WRITTEN_UP_TO = 30  # classes; beyond, counts in the cells could not be read


def save_confusion_matrix(counts: npt.NDArray[np.int64], classes: Sequence[str], title: str, path: Path) -> None:
    """Draw counts (C, C), actual × predicted, coloured by the share of each actual class."""
    side = 2.5 + 0.42 * len(classes) if len(classes) <= WRITTEN_UP_TO else 2.5 + 0.16 * len(classes)
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    display = ConfusionMatrixDisplay(shares, display_labels=list(classes))
    display.plot(ax=axes, include_values=False, cmap="Blues", xticks_rotation="vertical", colorbar=False)
    if len(classes) <= WRITTEN_UP_TO:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                ink = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, str(count), ha="center", va="center", color=ink, fontsize=8)
    axes.tick_params(labelsize=9 if len(classes) <= WRITTEN_UP_TO else 6)
    axes.set(xlabel="predicted", ylabel="actual", title=title)
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def save_reliability(found: Reliability, task: str, path: Path) -> None:
    """Draw accuracy against confidence, a circle a bin, as large as its share of the images; the diagonal is perfect calibration."""
    figure, axes = plt.subplots(figsize=(4.5, 4.5), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="dashed")
    axes.vlines(found.confidence, found.confidence, found.accuracy, color="tab:red", linewidth=1)
    axes.scatter(found.confidence, found.accuracy, s=10 + 600 * found.share, alpha=0.7)
    error = f"{100 * found.expected_calibration_error:.1f} %"
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="confidence", ylabel="accuracy", title=f"{task}: calibration error {error}")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
