"""What evaluation says of a student and its teachers on the test images, and its files.

::

    outputs/evaluation/<task>/results.json          accuracies in percent, overall and by class; controls; kinds of errors
    outputs/evaluation/<task>/metrics.json          the few numbers that DVC compares
    outputs/evaluation/<task>/predictions.csv       one row a test image: name, actual, predicted, confidence
    outputs/evaluation/<task>/per_class.csv         one row a class: accuracy, images, the teachers that know it
    outputs/evaluation/<task>/confusion_matrix.csv  counts, a row an actual class, a column a predicted one
    outputs/evaluation/<task>/*.png                 confusion_matrix (counts) and confusion_matrix_normalized (percent);
                                                    learning_curve: the training's losses and accuracies, where they are known;
                                                    reliability: how often the student is right, by how sure it is;
                                                    responsibility: which teacher knows which class;
                                                    agreement: how often student and teacher prefer the same class;
                                                    sample_predictions: some test images, right in green, wrong in red
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import confusion_matrix

from amalgam.controls import Controls
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_file, write_json
from amalgam.history import read_history
from amalgam.inference import predict_logits
from amalgam.lettering import drawable
from amalgam.metrics import Reliability, accuracy_interval, agreement, reliability, shared_class_accuracy, split_errors
from amalgam.models import Classifier
from amalgam.places import repository_relative
from amalgam.plots import save_confusion_matrix, save_learning_curve, save_matrix, save_reliability, save_samples
from amalgam.student_files import STUDENT_MANIFEST, is_chosen, own_manifest
from amalgam.validation import validated
from amalgam.whole import whole_folder

SAMPLES = 20  # images in the picture of sample predictions


@dataclass(frozen=True)
class Predictions:
    """A student's answers to the test images."""

    classes: tuple[str, ...]
    names: Sequence[str]
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
    """Raises UserError if the student gives logits that are not finite, as one may that no validation image has judged."""
    logits = predict_logits(student, split.images, np.arange(len(split.images)))
    if not np.isfinite(logits).all():
        raise UserError(f"the student ({student.architecture}) gives logits that are not finite for test images; train it with a lower lr")
    return Predictions(student.classes, split.names, split.labels, logits)


@dataclass(frozen=True)
class Judged:
    """The student whose answers are judged."""

    weights: Path
    checkpoint: dict[str, str] | None = None  # what is known of a file given in place of the student trained here

    @property
    def training(self) -> Path | None:
        """The folder of its training, where its learning curve is known: a history that lies beside it may be of something else."""
        folder = self.weights.parent
        return folder if (folder / "history.csv").is_file() and own_manifest(self.weights) else None


@dataclass(frozen=True)
class Evaluation:
    """A student on the test images of a task, beside its teachers."""

    task: str
    student: Judged
    predictions: Predictions
    controls: Controls
    label_sets: LabelSets
    split: PreparedSplit  # the test images
    doubts: dict[str, str]  # by teacher, what makes its figures optimistic


def results(evaluation: Evaluation) -> dict[str, Any]:
    """What results.json holds: accuracies, errors and the calibration error in percent, the interval (low, high) in percent too."""
    predictions, controls, covering = evaluation.predictions, evaluation.controls, evaluation.label_sets.covering()
    labels, predicted = predictions.labels, predictions.predicted
    errors = split_errors(labels, predicted, covering)
    return {
        "task": evaluation.task,
        "model_path": repository_relative(evaluation.student.weights),
        "weights_sha256": sha256_of_file(evaluation.student.weights),
        "checkpoint": evaluation.student.checkpoint,
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
        "unrouted_teachers_joint": controls.unrouted_joint,
        "unrouted_teachers_fitted": controls.unrouted_fitted,
        "test_images": len(labels),
        "teacher_doubts": evaluation.doubts,
        "test_content": evaluation.split.content,
    }


def compared(found: dict[str, Any], test_loss: float) -> dict[str, float]:
    """The few numbers that DVC compares."""
    return {
        "test_accuracy": found["overall_accuracy"],
        "test_loss": round(test_loss, 6),
        "test_ece": found["expected_calibration_error"],
        "oracle_routed_teachers": found["oracle_routed_teachers"],
        "unrouted_teachers": found["unrouted_teachers"],
        "unrouted_teachers_joint": found["unrouted_teachers_joint"],
    } | ({} if (fitted := found["unrouted_teachers_fitted"]) is None else {"unrouted_teachers_fitted": fitted})


def write_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """Write all the files named above into ``folder``."""
    found, predictions = results(evaluation), evaluation.predictions
    with whole_folder(folder) as work:
        write_json(work / "results.json", found)
        write_json(work / "metrics.json", {evaluation.task: compared(found, validated(predictions.logits, predictions.labels).loss)})
        write_predictions(predictions, work / "predictions.csv")
        write_per_class(predictions, evaluation.label_sets, work / "per_class.csv")
        write_confusion(predictions, work / "confusion_matrix.csv")
        draw(evaluation, work)


def draw(evaluation: Evaluation, folder: Path) -> None:
    """All pictures; the learning curve where the training's folder is known."""
    task, predictions, label_sets, training = evaluation.task, evaluation.predictions, evaluation.label_sets, evaluation.student.training
    title = f"{task}: {predictions.accuracy} %"
    save_confusion_matrix(predictions.confusion, predictions.classes, title, folder / "confusion_matrix.png")
    normalized = folder / "confusion_matrix_normalized.png"
    save_confusion_matrix(predictions.confusion, predictions.classes, f"{title}; rows in percent", normalized, in_percent=True)
    save_reliability(predictions.reliability, task, folder / "reliability.png")
    if training is not None:
        chosen = is_chosen(sha256_of_file(evaluation.student.weights), training)  # the last epoch's weights are not
        best_epoch = read_json(training / STUDENT_MANIFEST)["best_epoch"] if chosen else None
        save_learning_curve(read_history(training / "history.csv"), best_epoch, f"{task}: training", folder / "learning_curve.png")
    teachers, classes, covering = list(label_sets.teachers), label_sets.classes, label_sets.covering()
    known = np.where(covering, 100.0, np.nan)
    save_matrix(known, teachers, classes, f"{task}: who knows what", folder / "responsibility.png", written=False)
    same = agreement(predictions.logits, predictions.labels, evaluation.controls.choices, label_sets)
    save_matrix(same, teachers, classes, f"{task}: student and teacher agree, %", folder / "agreement.png")
    draw_samples(predictions, label_sets, evaluation.split, folder / "sample_predictions.png")


def draw_samples(predictions: Predictions, label_sets: LabelSets, split: PreparedSplit, path: Path) -> None:
    """Some test images, always the same ones, with their actual class, the teachers that know it, and the predicted class."""
    count = min(SAMPLES, len(predictions.labels))
    rows = np.sort(np.random.default_rng(0).choice(len(predictions.labels), count, replace=False))
    titles, predicted, shown, covering = [], predictions.predicted, drawable(predictions.classes), label_sets.covering()
    teachers = drawable(list(label_sets.teachers))
    for row in rows:
        actual, guess = predictions.labels[row], predicted[row]
        knowing = np.flatnonzero(covering[:, actual])
        numbers, names = ", ".join(str(number + 1) for number in knowing), ", ".join(teachers[number] for number in knowing)
        titles.append(f"True: {shown[actual]}\n(Teacher {numbers}: {names})\nPred: {shown[guess]} {'✓' if guess == actual else '✗'}")
    save_samples(split.images[rows], titles, (predictions.labels == predicted)[rows], path)


def write_predictions(predictions: Predictions, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image", "actual", "predicted", "confidence"])
        for name, label, guess, share in zip(
            predictions.names, predictions.labels, predictions.predicted, predictions.confidence, strict=True
        ):
            writer.writerow([name, predictions.classes[label], predictions.classes[guess], f"{share:.4f}"])


def write_per_class(predictions: Predictions, label_sets: LabelSets, path: Path) -> None:
    """The lowest accuracy first."""
    counts = dict(zip(predictions.classes, predictions.confusion.sum(axis=1).tolist(), strict=True))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["class", "accuracy", "images", "teachers"])
        for name, accuracy in sorted(predictions.per_class_accuracy.items(), key=lambda entry: entry[1]):
            knowing = [teacher for teacher, classes in label_sets.teachers.items() if name in classes]
            writer.writerow([name, accuracy, counts[name], ", ".join(knowing)])


def write_confusion(predictions: Predictions, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["actual", *predictions.classes])
        for name, row in zip(predictions.classes, predictions.confusion, strict=True):
            writer.writerow([name, *row])
