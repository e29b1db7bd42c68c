"""What evaluation says of a student and its teachers on the test images, and its files.

::

    outputs/evaluation/<task>/results.json          accuracies in percent, overall and by class; controls; kinds of errors
    outputs/evaluation/<task>/metrics.json          the few numbers that DVC compares
    outputs/evaluation/<task>/predictions.csv       one row a test image: name, actual, predicted, confidence
    outputs/evaluation/<task>/confusion_matrix.csv  counts, a row an actual class, a column a predicted one
    outputs/evaluation/<task>/confusion_matrix.png  the same as a picture
    outputs/evaluation/<task>/reliability.png       how often the student is right, by how sure it is

Controls are what the teachers themselves reach on the same images: *oracle-routed*, where someone tells for each image which
teachers know its class, and *unrouted*, where nobody does; either way the most probable class of the mean of their zero-padded
distributions.
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
from amalgam.losses import Knowledge, LabelBlocks, teacher_weights, union_target
from amalgam.metrics import Reliability, accuracy_interval, reliability, shared_class_accuracy, split_errors
from amalgam.models import Classifier
from amalgam.plots import save_confusion_matrix, save_reliability
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
    def reliability(self) -> Reliability:
        return reliability(self.confidence, self.predicted == self.labels)

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


@dataclass(frozen=True)
class Controls:
    """What the teachers reach on the test images, in percent."""

    own: dict[str, float]  # each on its own classes
    oracle_routed: float
    unrouted: float


def teacher_controls(teachers: dict[str, Classifier], label_sets: LabelSets, split: PreparedSplit) -> Controls:
    """Run every teacher on every test image."""
    logits = {name: predict_logits(teacher, split.images, np.arange(len(split.images))) for name, teacher in teachers.items()}
    covering = torch.from_numpy(label_sets.covering().T[split.labels])  # (N, teachers)
    side_by_side = torch.from_numpy(np.concatenate(list(logits.values()), axis=1))
    return Controls(
        {name: own_accuracy(values, label_sets.columns(name), split.labels) for name, values in logits.items()},
        routed_accuracy(side_by_side, covering, label_sets, split.labels),
        routed_accuracy(side_by_side, torch.ones_like(covering), label_sets, split.labels),
    )


def own_accuracy(logits: npt.NDArray[np.float32], columns: list[int], labels: npt.NDArray[np.int64]) -> float:
    """A teacher's accuracy, in percent, on the images of its own classes; ``columns`` are these in the union, ascending."""
    own = np.isin(labels, columns)
    return round(100 * score(logits[own], np.searchsorted(columns, labels[own])).accuracy, 2)


def routed_accuracy(logits: torch.Tensor, active: torch.Tensor, label_sets: LabelSets, labels: npt.NDArray[np.int64]) -> float:
    """Accuracy, in percent, of the mean of the active teachers' zero-padded distributions; logits (N, Σ|Lᵢ|), active (N, teachers)."""
    blocks = LabelBlocks([label_sets.columns(name) for name in label_sets.teachers], len(label_sets.classes))
    knowledge = Knowledge(blocks, blocks.of_teachers(logits, active), active, torch.from_numpy(labels))
    target = union_target(knowledge, "mean", teacher_weights(knowledge, "mean", 1.0))
    return round(float(100 * (target.argmax(1).numpy() == labels).mean()), 2)


def results(task: str, model_path: Path, predictions: Predictions, controls: Controls, covering: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """``covering`` (teachers, classes) says who knows what."""
    labels, predicted = predictions.labels, predictions.predicted
    errors = split_errors(labels, predicted, covering)
    return {
        "task": task,
        "model_path": model_path.as_posix(),
        "overall_accuracy": predictions.accuracy,
        "interval_95": accuracy_interval(int((labels == predicted).sum()), len(labels)),
        "per_class_accuracy": predictions.per_class_accuracy,
        "shared_class_accuracy": shared_class_accuracy(labels, predicted, covering),
        "within_teacher_errors": errors.within,
        "across_teacher_errors": errors.across,
        "expected_calibration_error": round(100 * predictions.reliability.expected_calibration_error, 2),
        "teacher_accuracy": controls.own,
        "oracle_routed_teachers": controls.oracle_routed,
        "unrouted_teachers": controls.unrouted,
        "test_images": len(labels),
    }


def compared(found: dict[str, Any], test_loss: float) -> dict[str, float]:
    """The few numbers that DVC compares."""
    return {
        "test_accuracy": found["overall_accuracy"],
        "test_loss": round(test_loss, 6),
        "test_ece": found["expected_calibration_error"],
        "oracle_routed_teachers": found["oracle_routed_teachers"],
        "unrouted_teachers": found["unrouted_teachers"],
    }


def write_evaluation(
    task: str, model_path: Path, predictions: Predictions, controls: Controls, covering: npt.NDArray[np.bool_], folder: Path
) -> None:
    found = results(task, model_path, predictions, controls, covering)
    with whole_folder(folder) as work:
        write_json(work / "results.json", found)
        write_json(work / "metrics.json", {task: compared(found, score(predictions.logits, predictions.labels).loss)})
        write_predictions(predictions, work / "predictions.csv")
        write_confusion(predictions, work / "confusion_matrix.csv")
        title = f"{task}: {predictions.accuracy} %"
        save_confusion_matrix(predictions.confusion, predictions.classes, title, work / "confusion_matrix.png")
        save_reliability(predictions.reliability, task, work / "reliability.png")


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
