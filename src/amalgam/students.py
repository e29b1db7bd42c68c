"""Students: trained on images, labels and stored targets; made, written and read (student_files.py: their folder on disk)."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.files import sha256_of_file, write_json
from amalgam.hardware import on_gpu
from amalgam.history import Fit, write_history
from amalgam.inference import device
from amalgam.models import Classifier, load_classifier, save_classifier, save_weights
from amalgam.networks import IMAGENET_MEAN, IMAGENET_STD, build_network, pretrained_statistics
from amalgam.preprocessing import Preprocessing, channel_statistics
from amalgam.student_files import BEST_WEIGHTS, LAST_WEIGHTS, STUDENT_MANIFEST
from amalgam.trial import Remedies, trial


@dataclass(frozen=True)
class Architecture:
    """The student's network; ``resolution`` in pixels."""

    name: str
    resolution: int
    pretrained: bool
    weights: Path | None = None  # to start from instead of the published ones


def new_student(architecture: Architecture, label_sets: LabelSets, split: PreparedSplit, seed: int) -> Classifier:
    """An untrained student of the union's classes on this process's device, its random weights drawn from ``seed``."""
    name, pretrained = architecture.name, architecture.pretrained
    torch.manual_seed(seed)
    network = build_network(name, len(label_sets.classes), pretrained, architecture.weights)
    preprocessing = student_preprocessing(name, architecture.resolution, pretrained, split.images, split.training_rows)
    student = Classifier(name, network, label_sets.classes, preprocessing).to(device())
    check_trains(student)
    return student


def check_possible(architecture: Architecture, classes: Sequence[str]) -> None:
    """Raises UserError unless there is such a network for these classes, its published weights are at hand or on the way, and it trains."""
    network = build_network(architecture.name, len(classes), architecture.pretrained, architecture.weights)
    resolution = architecture.resolution
    blank = Preprocessing((resolution, resolution), IMAGENET_MEAN, IMAGENET_STD)
    check_trains(Classifier(architecture.name, network, tuple(classes), blank).to(device()))


def check_trains(student: Classifier) -> None:
    """Raises UserError if a copy of the network cannot make a step on images of its input's size, on this process's device."""
    named, (height, width) = f"student_model {student.architecture}", student.preprocessing.size
    own = replace(student, network=copy.deepcopy(student.network).train())
    remedies = Remedies("choose another", "set student_resolution to what it is made for, often 224, or choose another")
    with (
        torch.random.fork_rng(devices=[torch.cuda.current_device()] if on_gpu() else []),
        trial(named, "trained", f"images of {height} x {width} pixels", remedies),
    ):
        logits = own.logits(torch.zeros((2, height, width, 3), dtype=torch.uint8, device=device()))
        logits.sum().backward()  # type: ignore[no-untyped-call]
    if tuple(logits.shape) != (2, len(student.classes)):
        raise UserError(f"{named} gives {tuple(logits.shape)} for two images, and no logit for each class; choose another")


def write_student(student: Classifier, result: Fit, task: str, details: dict[str, Any], folder: Path) -> None:
    """Write the student's folder; the best weights are left in ``student``."""
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(result.last, folder / LAST_WEIGHTS)
    student.network.load_state_dict(result.best)
    extra = {"best_epoch": result.best_epoch, "last_sha256": sha256_of_file(folder / LAST_WEIGHTS)} | details
    save_classifier(student, folder / BEST_WEIGHTS, folder / STUDENT_MANIFEST, extra)
    write_history(result.history, folder / "history.csv")
    write_json(folder / "metrics.json", {task: {"best_epoch": result.best_epoch} | student_metrics(result)})


def load_student(folder: Path, label_sets: LabelSets) -> Classifier:
    """The best student. Raises UserError if it knows other classes than the task."""
    student = load_classifier(folder / BEST_WEIGHTS, folder / STUDENT_MANIFEST)
    if student.classes != label_sets.classes:
        raise UserError(
            f"student {folder} knows {', '.join(student.classes)}, but the task says {', '.join(label_sets.classes)}; run dvc repro"
        )
    return student.to(device())


def student_metrics(result: Fit) -> dict[str, float]:
    """The best epoch's figures, in percent: accuracies by all labels and, where another, what chose it, by fewer or none."""
    best = result.best_record
    metrics = {} if best.train_accuracy is None else {"train_accuracy": round(100 * best.train_accuracy, 2)}
    if best.validation:
        metrics |= {"val_accuracy": round(100 * best.validation.accuracy, 2), "val_loss": round(best.validation.loss, 6)}
        if best.validation.score not in (None, best.validation.accuracy):
            metrics["val_score"] = round(100 * best.validation.score, 2)
    return metrics


def student_preprocessing(
    architecture: str, resolution: int, pretrained: bool, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]
) -> Preprocessing:
    """The statistics that pre-trained weights expect, else those of the training images."""
    statistics = pretrained_statistics(architecture) if pretrained else channel_statistics(images, rows)
    return Preprocessing((resolution, resolution), *statistics)
