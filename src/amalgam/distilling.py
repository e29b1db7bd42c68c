"""Training a student: which images and labels it sees, in which views, and what its loss is made of."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from amalgam.balancing import fit_balancing
from amalgam.batches import Batch, mixed_images, shuffled_batches, steps_per_epoch
from amalgam.contradictions import without_labels
from amalgam.dataset import LabelSets, PreparedSplit, visible_labels
from amalgam.errors import UserError
from amalgam.inference import Stored, device, take_rows, to_gpu_if_it_fits, view_images
from amalgam.losses import Combination, Distilled, LabelBlocks, TargetRules, distillation, label_loss
from amalgam.models import Classifier
from amalgam.optimization import Optimization
from amalgam.selection import SelectionRules, agreed_classes, validate
from amalgam.stacking import fit_stacking
from amalgam.target_names import FITTED_TARGETS, Objective, Target
from amalgam.targets import StoredTargets
from amalgam.team import SOLO, Team
from amalgam.trainer import Fit, Hooks, StepLoss, Terms, fit

MOST_FITTED = 20_000  # images, times views, that a target is fitted to; more change little


@dataclass(frozen=True)
class Teaching:
    """What a student learns from, beside its images."""

    alpha: float
    temperature: float
    target: Target
    objective: Objective
    standardize_logits: bool
    confidence_temperature: float
    label_fraction: float
    label_smoothing: float
    mixup: float
    batch_size: int
    seed: int

    @property
    def is_fitted(self) -> bool:
        """Whether the target has to be fitted to the teachers' answers first."""
        return self.target in FITTED_TARGETS and self.alpha > 0

    @property
    def rules(self) -> TargetRules:
        return TargetRules(self.target, self.temperature, self.standardize_logits, self.confidence_temperature)


@dataclass(frozen=True)
class TrainingSubset:
    """The images a student is trained on, M of them."""

    image_rows: npt.NDArray[np.int64]  # (M,) of the prepared split
    target_rows: npt.NDArray[np.int64]  # (M,) of the stored targets
    labels: npt.NDArray[np.int64]  # (M,), −1 where the label may not be used

    @classmethod
    def of(cls, split: PreparedSplit, classes: tuple[str, ...], targets: StoredTargets, teaching: Teaching) -> "TrainingSubset":
        """All training images, or those with a label where the teachers have no say. Raises UserError if the store lacks what they need."""
        rows = split.training_rows
        labels = visible_labels(split.labels[rows], classes, teaching.label_fraction, targets.settings.data_seed)
        if teaching.label_fraction > 0 and not (labels >= 0).any():
            raise UserError(without_labels(teaching.alpha))
        needs_all = teaching.label_fraction < 1 or teaching.is_fitted
        if teaching.alpha > 0 and needs_all and targets.stored_teachers != "all":
            raise UserError(
                f"{targets.folder} holds covering teachers only, but label_fraction {teaching.label_fraction:g} with target "
                f"{teaching.target} needs all; set stored_teachers to all"
            )
        kept = np.arange(len(rows)) if teaching.alpha > 0 else np.flatnonzero(labels >= 0)
        return cls(rows[kept], kept, labels[kept])


def train_student(
    student: Classifier,
    label_sets: LabelSets,
    split: PreparedSplit,
    targets: StoredTargets,
    optimization: Optimization,
    teaching: Teaching,
    hooks: Hooks | None = None,
    team: Team = SOLO,
    latest_of_few: bool = True,
) -> Fit:
    """Train ``student`` in place; epoch e sees view e mod views (a new one at alpha 0), in an order that follows from (seed, e).

    Raises UserError if a batch would hold fewer images than the team has processes.
    """
    subset = TrainingSubset.of(split, label_sets.classes, targets, teaching)
    steps = steps_per_epoch(len(subset.image_rows), teaching.batch_size)
    if len(subset.image_rows) // steps < team.size:
        raise UserError(f"batch_size {teaching.batch_size} leaves some of {team.size} processes without an image; raise it, or start fewer")
    images = to_gpu_if_it_fits(split.images)
    combine = fitted_target(label_sets, targets, subset, teaching.target) if teaching.is_fitted else None
    rules = SelectionRules(teaching.label_fraction, teaching.rules, targets.settings.data_seed, latest_of_few)
    agreed = agreed_classes(targets, label_sets, rules, combine)
    return fit(
        student,
        optimization,
        steps,
        lambda epoch: view_of_epoch(images, targets, subset, teaching, epoch, team),
        student_loss(label_sets, teaching, combine),
        partial(validate, images=images, split=split, label_sets=label_sets, rules=rules, agreed=agreed, team=team),
        hooks,
        team,
    )


def view_of_epoch(
    images: Stored, targets: StoredTargets, subset: TrainingSubset, teaching: Teaching, epoch: int, team: Team = SOLO
) -> Iterator[Batch]:
    """The epoch's batches: images of its view with the logits that the teachers gave on exactly those pixels; of a mixed image, on those
    of the two that it is made of.

    Without teachers (alpha 0) nothing limits the number of views, and every epoch sees a new one. In a team a process has its share of
    each batch's images, and all of its labels and logits.
    """
    index = epoch if teaching.alpha == 0 else epoch % targets.settings.stored
    show = partial(view_images, images, targets.settings.view(index, len(images)))
    logits = None if teaching.alpha == 0 else to_gpu_if_it_fits(targets.logits(index))
    labels = to_gpu_if_it_fits(subset.labels)
    random = np.random.default_rng([teaching.seed, epoch, 1])  # 1: not the stream that shuffles
    for chosen in shuffled_batches(np.arange(len(subset.image_rows)), teaching.batch_size, teaching.seed, epoch):
        mixed, mixture = mixed_images(show, subset.image_rows[chosen], teaching.mixup, random, team.share(len(chosen)))
        said = None if logits is None else take_rows(logits, subset.target_rows[chosen])
        yield Batch(mixed, take_rows(labels, chosen), said, mixture)


def fitted_target(label_sets: LabelSets, targets: StoredTargets, subset: TrainingSubset, target: Target) -> Combination:
    """Fit the map from all teachers' logits to logits over the union, on a sample of the images, in as many views as the fit can take.

    Target stacked is fitted on the images whose label may be used. Balanced takes all and no label, except that a sample of them holds
    an image of each visible label.
    """
    known = sampled(np.flatnonzero(subset.labels >= 0) if target == "stacked" else np.arange(len(subset.labels)), subset.labels)
    views = range(min(targets.settings.stored, max(MOST_FITTED // len(known), 1)))
    logits = np.concatenate([targets.logits(view)[subset.target_rows[known]] for view in views])
    if target == "stacked":
        return fit_stacking(logits, np.tile(subset.labels[known], len(views))).to(device())
    return fit_balancing(logits, LabelBlocks.of(label_sets, device()))


def sampled(known: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """At most ``MOST_FITTED`` of the places ``known``, drawn at random, in order; at least one of each of their labels."""
    if len(known) <= MOST_FITTED:
        return known
    drawn = np.random.default_rng(0).permutation(known)
    _, first = np.unique(labels[drawn], return_index=True)
    return np.sort(np.concatenate([drawn[first], np.delete(drawn, first)])[:MOST_FITTED])


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
            share = torch.where(batch.labels < 0, 1.0, teaching.alpha)
            terms["distillation"] = (share * found.losses).mean()
            watched = by_teacher(names, active, found)
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
    """For the log: each teacher's weight in the target, over all images, where it has one; its divergence from and agreement with the
    student, over those on which it is active."""
    every, counts = torch.tensor(len(active)), active.sum(0)
    sums = {} if found.weight is None else {"teacher_weight": (found.weight.detach().sum(0), every.expand(len(names)))}
    sums |= {
        "teacher_divergence": ((found.divergence * active).sum(0), counts),
        "teacher_agreement": ((found.agreement & active).sum(0), counts),
    }
    return {f"{kind}/{name}": (total[i], count[i]) for kind, (total, count) in sums.items() for i, name in enumerate(names)}
