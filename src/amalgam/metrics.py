"""Measures of predictions: pure functions of arrays."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from amalgam.dataset import LabelSets

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.floating]

RELIABILITY_BINS = 15


class Reliability(NamedTuple):
    """Predictions sorted into bins of equal width by their confidence; empty bins are left out."""

    share: npt.NDArray[np.float64]  # (bins,) of all images
    confidence: npt.NDArray[np.float64]  # (bins,) mean
    accuracy: npt.NDArray[np.float64]  # (bins,)

    @property
    def expected_calibration_error(self) -> float:
        """Σ share · |accuracy − confidence| (Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017)."""
        return float((self.share * np.abs(self.accuracy - self.confidence)).sum())


def reliability(confidence: Floats, right: Bools, bins: int = RELIABILITY_BINS) -> Reliability:
    """How often predictions (N,) of each confidence, 0 … 1, are right."""
    place = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)  # a bin holds its upper end
    count = np.bincount(place, minlength=bins)
    used = count > 0
    sums = (np.bincount(place, weights=values, minlength=bins)[used] / count[used] for values in (confidence, right))
    return Reliability(count[used] / len(place), *sums)


def accuracy_interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy, in percent."""
    interval = binomtest(right, total).proportion_ci(0.95, method="wilson")
    return round(100 * float(interval.low), 2), round(100 * float(interval.high), 2)


def mcnemar(first: Bools, second: Bools) -> float:
    """The exact p value of McNemar's test that two classifiers, right (N,) on the same images, are equally good."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return float(binomtest(only_first, only_first + only_second).pvalue) if only_first + only_second else 1.0


class ErrorSplit(NamedTuple):
    """Shares of all images, in percent."""

    within: float  # some teacher knows both the actual and the predicted class
    across: float  # no teacher could have told them apart


def split_errors(labels: Ints, predicted: Ints, covering: Bools) -> ErrorSplit:
    """Errors (N,) by whether one teacher knows both classes; ``covering`` (teachers, classes) says who knows what."""
    known_together = (covering[:, labels] & covering[:, predicted]).any(axis=0)
    wrong = labels != predicted
    return ErrorSplit(*(round(float(100 * (wrong & which).mean()), 2) for which in (known_together, ~known_together)))


def shared_class_accuracy(labels: Ints, predicted: Ints, covering: Bools) -> float | None:
    """Accuracy, in percent, on images of classes that more than one teacher knows; None where there are none."""
    shared = (covering.sum(axis=0) > 1)[labels]
    return round(float(100 * (labels == predicted)[shared].mean()), 2) if shared.any() else None


def agreement(logits: Floats, labels: Ints, choices: Ints, label_sets: LabelSets) -> npt.NDArray[np.float64]:
    """How often student, logits (N, C), and teacher, ``choices`` (teachers, N), prefer the same of the teacher's classes, in percent.

    (teachers, classes), by the image's actual class; NaN where the teacher does not know it, or no image shows it.
    """
    covering = label_sets.covering()
    shares = np.full(covering.shape, np.nan)
    for number, name in enumerate(label_sets.teachers):
        columns = np.array(label_sets.columns(name))
        same = columns[logits[:, columns].argmax(1)] == choices[number]
        for label in columns[np.isin(columns, labels)]:
            shares[number, label] = 100 * same[labels == label].mean()
    return shares
