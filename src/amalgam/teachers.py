"""Teachers: specialists trained on their own classes with their own preprocessing, and their folder on disk.

::

    models/<task>/<teacher>/weights.safetensors    (a supplied one may be program.pt2)
    models/<task>/<teacher>/manifest.json    architecture, classes, preprocessing, sha256, validation accuracy, origin
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from amalgam import store
from amalgam.batches import Batch, BatchOrder, mixed_batches, steps_per_epoch
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_arrays
from amalgam.inference import device, predict_logits, take_rows, to_gpu_if_it_fits, view_images
from amalgam.models import Classifier, load_classifier, save_classifier, weights_file
from amalgam.networks import build_network
from amalgam.optimization import Optimization
from amalgam.params import Params
from amalgam.preprocessing import Preprocessing, channel_statistics
from amalgam.provenance import code_hash, execution_record, fingerprint
from amalgam.trainer import Fit, Hooks, StepLoss, fit
from amalgam.validation import Validation, validated
from amalgam.views import Selected, draw_view

ARCHITECTURE = "ReferenceCNN"
IMAGES_AT_A_TIME = 1024


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a teacher is trained; sizes in pixels."""

    resolution: int | None
    lr: float
    batch_size: int
    num_epochs: int
    weight_decay: float
    label_smoothing: float
    mixup: float
    seed: int
    crop: int
    flip: bool

    @classmethod
    def of(cls, params: Params) -> "Recipe":
        augmentation = params.source_block.augmentation
        return cls(**params.teacher.model_dump(), crop=augmentation.crop, flip=augmentation.flip)


@dataclass(frozen=True)
class OwnImages:
    """The images of one teacher's classes, memory-mapped."""

    classes: tuple[str, ...]
    images: Selected  # (N, height, width, 3)
    labels: npt.NDArray[np.int64]  # (N,): index into classes
    validation: npt.NDArray[np.bool_]  # (N,)

    @classmethod
    def of(cls, teacher: str, label_sets: LabelSets, split: PreparedSplit) -> "OwnImages":
        columns = label_sets.columns(teacher)
        rows = np.flatnonzero(np.isin(split.labels, columns))
        place = np.full(len(label_sets.classes), -1, dtype=np.int64)
        place[columns] = np.arange(len(columns))
        return cls(label_sets.teachers[teacher], Selected(split.images, rows), place[split.labels[rows]], split.validation[rows])

    @cached_property
    def content(self) -> str:
        """A hash of them all."""
        pixels = hashlib.sha256()
        for start in range(0, len(self.labels), IMAGES_AT_A_TIME):
            pixels.update(self.images[np.arange(start, min(start + IMAGES_AT_A_TIME, len(self.labels)))].data)
        return fingerprint(pixels=pixels.hexdigest(), shape=self.images.shape, rest=sha256_of_arrays(self.labels, self.validation))


def provide_teacher(own: OwnImages, recipe: Recipe, target: Path, train: Callable[[], tuple[Classifier, Fit]]) -> bool:
    """Write the teacher into ``target``, from the store if it was ever trained exactly so. Returns whether it had to be trained."""
    record = execution_record()
    trained = False

    def make(folder: Path) -> None:
        nonlocal trained
        trained = True
        classifier, result = train()
        write_teacher(classifier, result, own, recipe, record, folder)

    store.copy_entry(store.entry("teachers", teacher_key(own, recipe), make), target)
    return trained


def teacher_key(own: OwnImages, recipe: Recipe) -> str:
    """The fingerprint of all that determines a teacher."""
    record, code = execution_record(), code_hash(__name__)
    return fingerprint(classes=own.classes, content=own.content, recipe=asdict(recipe), record=record, code=code, format=1)


def train_teacher(own: OwnImages, recipe: Recipe, hooks: Hooks | None = None) -> tuple[Classifier, Fit]:
    """Train the reference CNN from scratch on ``own``; the weights of the best validation epoch are in the classifier.

    Raises UserError if there is no such image.
    """
    if not len(own.labels):
        raise UserError(f"no training image of {', '.join(own.classes)} has a label; bring the teacher (supplied), or give such images")
    torch.manual_seed(recipe.seed)
    training, validation = np.flatnonzero(~own.validation), np.flatnonzero(own.validation)
    mean, std = channel_statistics(own.images, training)
    side = recipe.resolution
    size = (side, side) if side else own.images.shape[1:3]
    network = build_network(ARCHITECTURE, len(own.classes))
    classifier = Classifier(ARCHITECTURE, network, own.classes, Preprocessing(size, mean, std)).to(device())  # type: ignore[arg-type]
    pixels, labels = to_gpu_if_it_fits(own.images), to_gpu_if_it_fits(own.labels)

    def batches(epoch: int) -> Iterator[Batch]:
        view = draw_view(len(own.images), epoch, recipe.seed, recipe.crop, recipe.flip)
        order = BatchOrder(recipe.batch_size, recipe.seed, epoch)
        for chosen, images, mixture in mixed_batches(partial(view_images, pixels, view), training, order, recipe.mixup):
            yield Batch(images, take_rows(labels, training[chosen]), mixture=mixture)

    def validate(current: Classifier) -> Validation | None:
        return validated(predict_logits(current, pixels, validation), own.labels[validation]) if len(validation) else None

    def loss(logits: torch.Tensor, batch: Batch) -> StepLoss:
        shares = label_shares(batch, len(own.classes))
        return StepLoss({"labels": functional.cross_entropy(logits, shares, label_smoothing=recipe.label_smoothing)})

    optimization = Optimization("adamw", recipe.lr, recipe.weight_decay, "one_cycle", recipe.num_epochs)
    result = fit(classifier, optimization, steps_per_epoch(len(training), recipe.batch_size), batches, loss, validate, hooks)
    classifier.network.load_state_dict(result.best)
    return classifier, result


def label_shares(batch: Batch, classes: int) -> torch.Tensor:
    """The share of each class in each image (B, C), rows sum to one; the labels (B,) themselves where nothing is mixed."""
    if batch.mixture is None:
        return batch.labels
    share, labels = batch.mixture.share, functional.one_hot(batch.labels, classes).float()
    return share * labels + (1 - share) * labels[batch.mixture.partner]


def write_teacher(classifier: Classifier, result: Fit, own: OwnImages, recipe: Recipe, record: dict[str, str | int], folder: Path) -> None:
    best = result.best_record
    save_classifier(
        classifier,
        folder / "weights.safetensors",
        folder / "manifest.json",
        {
            "origin": "trained",
            "images": own.content,
            "validation_accuracy": round(100 * best.validation.accuracy, 2) if best.validation else None,
            "epoch": best.epoch,
            "recipe": asdict(recipe),
            "execution": record,
        },
    )


def load_teachers(folder: Path, label_sets: LabelSets) -> dict[str, Classifier]:
    """The task's teachers in the order of its parameters. Raises UserError if one knows other classes than it should."""
    teachers = {}
    for name, classes in label_sets.teachers.items():
        teacher = load_classifier(weights_file(folder / name), folder / name / "manifest.json")
        if teacher.classes != classes:
            raise UserError(
                f"teacher {folder / name} knows {', '.join(teacher.classes)}, but the task says {', '.join(classes)}; run dvc repro"
            )
        teachers[name] = teacher.to(device())
    return teachers


def load_hashed_teachers(folder: Path, label_sets: LabelSets) -> dict[str, tuple[Classifier, str]]:
    """Those of ``load_teachers``, each with its weights' sha256."""
    teachers = load_teachers(folder, label_sets)
    return {name: (teacher, read_json(folder / name / "manifest.json")["weights_sha256"]) for name, teacher in teachers.items()}
