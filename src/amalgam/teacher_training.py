"""Training a teacher: the reference CNN from scratch on the images of its own classes, each kept in the store by all that determines it."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from amalgam import store
from amalgam.batches import Batch, BatchOrder, mixed_batches, steps_per_epoch
from amalgam.errors import UserError
from amalgam.history import Fit
from amalgam.inference import device, predict_logits, take_rows, to_gpu_if_it_fits, view_images
from amalgam.models import Classifier, save_classifier
from amalgam.networks import build_network
from amalgam.optimization import Optimization
from amalgam.params import Params
from amalgam.places import TEACHER_MANIFEST, WEIGHTS_FILE
from amalgam.preprocessing import Preprocessing, channel_statistics
from amalgam.provenance import code_hash, execution_record, fingerprint
from amalgam.teachers import OwnImages
from amalgam.trainer import Hooks, StepLoss, fit
from amalgam.validation import Validation, validated
from amalgam.views import draw_view

ARCHITECTURE = "ReferenceCNN"


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


def provide_teacher(own: OwnImages, recipe: Recipe, target: Path, train: Callable[[], tuple[Classifier, Fit]]) -> bool:
    """Write the teacher into ``target``, from the store if it was ever trained exactly so. Returns whether it had to be trained."""
    record = execution_record()
    trained = False

    def make(folder: Path) -> None:
        nonlocal trained
        trained = True
        classifier, result = train()
        write_teacher(classifier, result, own, recipe, record, folder)

    store.copy_entry(store.entry(store.TEACHERS, teacher_key(own, recipe), make), target)
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
    height, width = (recipe.resolution,) * 2 if recipe.resolution else own.images.shape[1:3]
    preprocessing = Preprocessing((height, width), *channel_statistics(own.images, training))
    network = build_network(ARCHITECTURE, len(own.classes))
    classifier = Classifier(ARCHITECTURE, network, own.classes, preprocessing).to(device())
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
        folder / WEIGHTS_FILE,
        folder / TEACHER_MANIFEST,
        {
            "origin": "trained",
            "images": own.content,
            "validation_accuracy": round(100 * best.validation.accuracy, 2) if best.validation else None,
            "epoch": best.epoch,
            "recipe": asdict(recipe),
            "execution": record,
        },
    )
