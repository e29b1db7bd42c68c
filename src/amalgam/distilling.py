"""Training a student: which images and labels it sees, in which views, and what its loss is made of."""

from collections.abc import Callable, Iterator
from functools import partial

import torch

from amalgam.batches import Batch, BatchOrder, mixed_batches
from amalgam.blocks import LabelBlocks
from amalgam.dataset import LabelSets
from amalgam.errors import UserError
from amalgam.history import Fit
from amalgam.inference import Stored, device, take_rows, to_gpu_if_it_fits, view_images
from amalgam.losses import Distilled, distillation, label_loss
from amalgam.models import Classifier
from amalgam.optimization import Optimization
from amalgam.selection import SelectionRules, agreed_classes, validate
from amalgam.soft_targets import Combination
from amalgam.targets import StoredTargets
from amalgam.teaching import Teaching, TrainingSubset
from amalgam.team import SOLO, Team
from amalgam.trainer import Hooks, StepLoss, Terms, fit
from amalgam.transfer_set import TransferSet


def train_student(
    student: Classifier,
    transfer_set: TransferSet,
    optimization: Optimization,
    hooks: Hooks | None = None,
    team: Team = SOLO,
    latest_of_few: bool = True,
) -> Fit:
    """Train ``student`` in place; epoch e sees view e mod views, in an order that follows from (seed, e).

    ``latest_of_few`` says which epoch is kept where few labels choose it (selection.py). Raises UserError if a batch would hold fewer
    images than the team has processes, or the network is to be compiled for several.
    """
    label_sets, split, targets = transfer_set.label_sets, transfer_set.split, transfer_set.targets
    teaching, subset, steps = transfer_set.teaching, transfer_set.subset, transfer_set.steps_per_epoch
    if optimization.compile and team.world_size > 1:
        raise UserError(f"compile true is for one process, and there are {team.world_size}; set it to false, or start one")
    if len(subset.image_rows) // steps < team.world_size:
        raise UserError(
            f"batch_size {teaching.batch_size} leaves some of {team.world_size} processes without an image; raise it, or start fewer"
        )
    images = to_gpu_if_it_fits(split.images)
    rules = SelectionRules(teaching.label_fraction, teaching.rules, targets.settings.data_seed, latest_of_few)
    agreed = agreed_classes(targets, label_sets, rules, transfer_set.fitted)
    return fit(
        student,
        optimization,
        steps,
        lambda epoch: epoch_batches(images, targets, subset, teaching, epoch, team),
        student_loss(label_sets, teaching, transfer_set.fitted),
        partial(validate, images=images, split=split, label_sets=label_sets, rules=rules, agreed=agreed, team=team),
        hooks,
        team,
    )


def epoch_batches(
    images: Stored, targets: StoredTargets, subset: TrainingSubset, teaching: Teaching, epoch: int, team: Team = SOLO
) -> Iterator[Batch]:
    """The epoch's batches: images of its view with the logits that the teachers gave on exactly those pixels; of a mixed image, on those
    of the two that it is made of.

    Without teachers (alpha 0) nothing limits the number of views, and every epoch sees a new one; 0 views show the images as they are. In
    a team a process has its share of each batch's images, and all of its labels and logits.
    """
    index = epoch if teaching.alpha == 0 else epoch % targets.settings.stored_views
    show = partial(view_images, images, targets.settings.view(index, len(images)))
    logits = None if teaching.alpha == 0 else to_gpu_if_it_fits(targets.logits(index))
    labels = to_gpu_if_it_fits(subset.labels)
    order = BatchOrder(teaching.batch_size, teaching.seed, epoch)
    for chosen, shown, mixture in mixed_batches(show, subset.image_rows, order, teaching.mixup, team):
        said = None if logits is None else take_rows(logits, subset.target_rows[chosen])
        yield Batch(shown, take_rows(labels, chosen), said, mixture)


def student_loss(
    label_sets: LabelSets, teaching: Teaching, combine: Combination | None = None
) -> Callable[[torch.Tensor, Batch], StepLoss]:
    """A batch's mean of (1 − α)·cross-entropy + α·distillation, for an image without label the distillation alone.

    Of a mixed batch the mean over both images, weighted by their shares.
    """
    names = list(label_sets.teachers)
    blocks = LabelBlocks.of(label_sets, device())
    active_for = torch.from_numpy(label_sets.asked()).to(device())  # (C + 1, teachers)

    def single(logits: torch.Tensor, batch: Batch) -> StepLoss:
        terms: Terms = {}
        watched = {}
        if teaching.alpha < 1:
            terms["labels"] = (1 - teaching.alpha) * label_loss(logits, batch.labels, teaching.label_smoothing)
        if teaching.alpha > 0:
            assert batch.teacher_logits is not None
            active = active_for[batch.labels]
            said, labels = batch.teacher_logits, batch.labels
            found = distillation(logits, said, active, labels, blocks, teaching.rules, teaching.objective, combine)
            weight = torch.where(batch.labels < 0, 1.0, teaching.alpha)
            terms["distillation"] = (weight * found.losses).mean()
            watched = by_teacher(names, active, found) | by_part(found, weight)
        return StepLoss(terms, watched)

    def loss(logits: torch.Tensor, batch: Batch) -> StepLoss:
        first = single(logits, batch)
        if batch.mixture is None:
            return first
        return mixed(first, single(logits, batch.partners()), batch.mixture.share)

    return loss


def mixed(first: StepLoss, second: StepLoss, share: float) -> StepLoss:
    """The mean of a mixed batch's two losses, ``share`` of the first, and of what they watch."""

    def mean(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return share * one + (1 - share) * other

    terms = {name: mean(value, second.terms[name]) for name, value in first.terms.items()}
    pairs = {name: zip(values, second.watched[name], strict=True) for name, values in first.watched.items()}
    return StepLoss(terms, {name: (mean(*totals), mean(*counts)) for name, (totals, counts) in pairs.items()})


def by_teacher(names: list[str], active: torch.Tensor, found: Distilled) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For the log: each teacher's part in the target, over all images; its divergence from and agreement with the student, over those on
    which it is active."""
    every, counts = torch.tensor(len(active)), active.sum(0)
    sums = {
        "teacher_weight": (found.weight.detach().sum(0), every.expand(len(names))),
        "teacher_divergence": ((found.divergence * active).sum(0), counts),
        "teacher_agreement": ((found.agreement & active).sum(0), counts),
    }
    return {f"{kind}/{name}": (total[i], count[i]) for kind, (total, count) in sums.items() for i, name in enumerate(names)}


def by_part(found: Distilled, weight: torch.Tensor) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For the log: the parts of the distillation loss by name, each image's by its ``weight`` (B,); nothing of an objective of one part."""
    sums = {} if len(found.parts) == 1 else {name: (weight * part.detach()).sum() for name, part in found.parts.items()}
    return {f"distillation/{name}": (total, torch.tensor(len(weight))) for name, total in sums.items()}
