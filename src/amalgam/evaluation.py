"""What evaluation says of a student and its teachers on the test images, and its files.

::

    outputs/evaluation/<task>/results.json          accuracies in percent, overall, by class, and the teachers' own
    outputs/evaluation/<task>/metrics.json          the few numbers that DVC compares
    outputs/evaluation/<task>/predictions.csv       one row a test image: name, actual, predicted, confidence
    outputs/evaluation/<task>/confusion_matrix.csv  counts, a row an actual class, a column a predicted one
    outputs/evaluation/<task>/confusion_matrix.png  the same as a picture
"""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import confusion_matrix

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.files import whole_folder, write_json
from amalgam.inference import predict_logits
from amalgam.models import Classifier
from amalgam.plots import save_confusion_matrix
from amalgam.trainer import score


@dataclass(frozen=True)
class Predictions:
    """A student's answers to the test images."""

    classes: tuple[str, ...]
    names: list[str]
    labels: npt.NDArray[np.int64]  # (N,)
    logits: npt.NDArray[np.float32]  # (N, C)

    @property
    def predicted(self) -> npt.NDArray[np.int64]:
        guesses: npt.NDArray[np.int64] = np.argmax(self.logits, axis=1)
        return guesses

    @property
    def confidence(self) -> npt.NDArray[np.float32]:
        """The predicted class's probability (N,)."""
        return np.asarray(torch.softmax(torch.from_numpy(self.logits), dim=1).amax(dim=1))

    @property
    def confusion(self) -> npt.NDArray[np.int64]:
        """Counts (C, C): actual × predicted."""
        counts = confusion_matrix(self.labels, self.predicted, labels=np.arange(len(self.classes)))
        return cast(npt.NDArray[np.int64], counts)

    @property
    def accuracy(self) -> float:
        """In percent."""
        return round(float(100 * (self.predicted == self.labels).mean()), 2)

    @property
    def per_class_accuracy(self) -> dict[str, float]:
        """In percent, by class name."""
        shares = 100 * self.confusion.diagonal() / self.confusion.sum(axis=1)
        return {name: round(float(share), 2) for name, share in zip(self.classes, shares, strict=True)}


def predict(student: Classifier, split: PreparedSplit) -> Predictions:
    logits = predict_logits(student, split.images, np.arange(len(split.images)))
    return Predictions(student.classes, split.names, split.labels, logits)


def teacher_accuracies(teachers: dict[str, Classifier], label_sets: LabelSets, split: PreparedSplit) -> dict[str, float]:
    """Each teacher's accuracy, in percent, on the test images of its own classes."""
    accuracies = {}
    for name, teacher in teachers.items():
        columns = label_sets.columns(name)
        rows = np.flatnonzero(np.isin(split.labels, columns))
        own_labels = np.searchsorted(columns, split.labels[rows])  # columns ascend: both follow the union's order
        accuracies[name] = round(100 * score(predict_logits(teacher, split.images, rows), own_labels).accuracy, 2)
    return accuracies


def results(task: str, model_path: Path, predictions: Predictions, teachers: dict[str, float]) -> dict[str, Any]:
    return {
        "task": task,
        "model_path": model_path.as_posix(),
        "overall_accuracy": predictions.accuracy,
        "per_class_accuracy": predictions.per_class_accuracy,
        "teacher_accuracy": teachers,
        "test_images": len(predictions.labels),
    }


def write_evaluation(task: str, model_path: Path, predictions: Predictions, teachers: dict[str, float], folder: Path) -> None:
    with whole_folder(folder) as work:
        write_json(work / "results.json", results(task, model_path, predictions, teachers))
        test_loss = round(score(predictions.logits, predictions.labels).loss, 6)
        write_json(work / "metrics.json", {task: {"test_accuracy": predictions.accuracy, "test_loss": test_loss}})
        write_predictions(predictions, work / "predictions.csv")
        write_confusion(predictions, work / "confusion_matrix.csv")
        save_confusion_matrix(
            predictions.confusion, predictions.classes, f"{task}: {predictions.accuracy} %", work / "confusion_matrix.png"
        )


def write_predictions(predictions: Predictions, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "actual", "predicted", "confidence"])
        for name, label, guess, share in zip(
            predictions.names, predictions.labels, predictions.predicted, predictions.confidence, strict=True
        ):
            writer.writerow([name, predictions.classes[label], predictions.classes[guess], f"{share:.4f}"])


def write_confusion(predictions: Predictions, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["actual", *predictions.classes])
        for name, row in zip(predictions.classes, predictions.confusion, strict=True):
            writer.writerow([name, *row])
