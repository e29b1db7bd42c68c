"""The training loop that teachers and students share."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from amalgam.errors import UserError
from amalgam.models import Classifier
from amalgam.params import OptimizerName, SchedulerName
from amalgam.team import SOLO, Team

State = dict[str, Tensor]
Snapshot = dict[str, Any]  # everything a training needs to go on: tensors and plain values
Terms = dict[str, Tensor]

SGD_MOMENTUM = 0.9
STEPS_BETWEEN_CHECKS = 50  # of the loss being finite: each makes a GPU wait for its numbers


class Mixture(NamedTuple):
    """How the images of a batch were mixed (mixup, Zhang et al., 2018): ``share`` of each, the rest of its partner."""

    partner: Tensor  # int64 (B,): index into the batch
    share: float  # 0 … 1


class Batch(NamedTuple):
    """What one step sees."""

    images: Tensor  # uint8 (B, height, width, 3); in a team, this process's share of them
    labels: Tensor  # int64 (B,); −1 where the label may not be used
    teacher_logits: Tensor | None = None  # (B, Σ|Lᵢ|)
    mixture: Mixture | None = None

    def shown(self) -> Tensor:
        """The label of what each image shows most of (B,)."""
        mixture = self.mixture
        return self.labels if mixture is None or mixture.share >= 0.5 else self.labels[mixture.partner]

    def partners(self) -> "Batch":
        """The same images, with what belongs to their partners."""
        assert self.mixture is not None
        partner, logits = self.mixture.partner, self.teacher_logits
        return Batch(self.images, self.labels[partner], None if logits is None else logits[partner])


Rows = npt.NDArray[np.int64]


def mixed_images(
    show: Callable[[Rows], Tensor], rows: Rows, strength: float, random: np.random.Generator, part: slice
) -> tuple[Tensor, Mixture | None]:
    """The ``part`` of a batch's images, which ``show`` gives, each mixed with another of the batch: one share λ ~ Beta(strength, strength).

    Strength 0 mixes none.
    """
    images = show(rows[part])
    if strength == 0:
        return images, None
    share, partner = float(random.beta(strength, strength)), random.permutation(len(rows))
    images = (share * images + (1 - share) * show(rows[partner[part]])).round().to(torch.uint8)
    return images, Mixture(torch.from_numpy(partner).to(images.device), share)


class StepLoss(NamedTuple):
    """What a step minimises, and what it watches."""

    terms: Terms  # scalars by name; their sum is the loss
    watched: Mapping[str, tuple[Tensor, Tensor]] = MappingProxyType({})  # name → (sum over images, number of images)


class DivergedError(UserError):
    """The loss stopped being finite; ``result`` is what training had reached before."""

    def __init__(self, message: str, result: "Fit") -> None:
        super().__init__(message)
        self.result = result


class Validation(NamedTuple):
    """How good the weights are on the validation images."""

    loss: float  # mean cross-entropy
    accuracy: float  # 0 … 1
    score: float | None = None  # what chooses the epoch where not these, the higher the better
    error: float = 0.0  # the score's standard error: among epochs that it cannot tell apart, the latest is kept

    @property
    def rank(self) -> tuple[float, float]:
        return (self.accuracy, -self.loss) if self.score is None else (self.score, 0.0)


@dataclass(frozen=True)
class Epoch:
    """One row of the learning curve; accuracies are fractions, losses means over images."""

    epoch: int  # from 1
    lr: float  # at the epoch's end
    train_loss: float
    train_accuracy: float | None  # None if no label was used
    terms: dict[str, float]
    watched: dict[str, float] = field(default_factory=dict)
    validation: Validation | None = None
    seconds: float = 0.0
    images_per_second: float = 0.0  # in training, validation aside
    ended: int = 0  # milliseconds since 1970

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "Epoch":
        validation = values["validation"]
        return cls(**values | {"validation": Validation(**validation) if validation else None})

    def plain(self) -> dict[str, Any]:
        validation = self.validation
        return asdict(self) | {"validation": validation._asdict() if validation else None}


@dataclass
class Fit:
    """What training gives: the best and the last weights, and how it went."""

    best_epoch: int = 0
    best: State = field(default_factory=dict)
    last: State = field(default_factory=dict)
    history: list[Epoch] = field(default_factory=list)

    @property
    def best_record(self) -> Epoch:
        return self.history[self.best_epoch - 1]


@dataclass(frozen=True)
class Hooks:
    """What the caller sees and keeps of a training, and where it goes on."""

    on_step: Callable[[], None] = lambda: None
    on_epoch: Callable[[Epoch], None] = lambda record: None
    keep: Callable[[Snapshot], None] | None = None  # called after every epoch, before on_epoch
    resume: Snapshot | None = None  # what was kept last


@dataclass(frozen=True)
class Optimization:
    """Optimiser and schedule; ``scheduler_step`` and ``warmup_epochs`` count epochs."""

    optimizer: OptimizerName
    lr: float
    weight_decay: float
    scheduler: SchedulerName
    epochs: int
    scheduler_step: int = 1
    scheduler_gamma: float = 1.0
    warmup_epochs: float = 0.0
    ema_decay: float = 0.0
    clip_norm: float | None = None

    def build(self, network: torch.nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        """Optimiser and scheduler, for ``steps`` steps an epoch; the scheduler is advanced every step."""
        kinds: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        options = {"momentum": SGD_MOMENTUM, "nesterov": True} if self.optimizer == "sgd" else {}
        optimizer = kinds[self.optimizer](network.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True, **options)
        if self.scheduler == "one_cycle":
            return optimizer, OneCycleLR(optimizer, self.lr, epochs=self.epochs, steps_per_epoch=steps)
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step, steps))

    def factor(self, step: int, steps: int) -> float:
        """The share of ``lr`` at a step, for the schedules step and cosine: a linear warm-up, then drops or half a cosine to zero."""
        warmup, total = round(self.warmup_epochs * steps), self.epochs * steps
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if self.scheduler == "step":
            return self.scheduler_gamma ** (step // (self.scheduler_step * steps))
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))

    def average(self, classifier: Classifier) -> "Average":
        return Average(classifier, self.ema_decay)


class Average:
    """The exponential moving average of a network's weights and statistics; the network itself at ``decay`` 0."""

    def __init__(self, classifier: Classifier, decay: float) -> None:
        self.decay = decay
        self.source = classifier
        self.model = AveragedModel(classifier.network, multi_avg_fn=self._average, use_buffers=True) if decay else None
        self.classifier = replace(classifier, network=self.model.module) if self.model else classifier

    def update(self) -> None:
        if self.model:
            self.model.update_parameters(self.source.network)

    def _average(self, averaged: Any, current: Any, updates: Tensor | int) -> None:
        """Early on the average is short, so that it does not drag the random start along."""
        count = int(updates)
        get_ema_multi_avg_fn(min(self.decay, (1 + count) / (10 + count)))(averaged, current, updates)  # type: ignore[no-untyped-call]


def epochs_done(snapshot: Snapshot | None) -> int:
    return len(snapshot["history"]) if snapshot else 0


def shuffled_batches(rows: npt.NDArray[np.int64], batch_size: int, seed: int, epoch: int) -> list[npt.NDArray[np.int64]]:
    """The rows in the epoch's own order, in batches that differ in size by one at most: none is left with a single image."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return list(np.array_split(order, steps_per_epoch(len(rows), batch_size)))


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Steps of at most ``batch_size`` images, and of at least two (batch norm needs them) even if one must then hold three."""
    return max(min(math.ceil(count / batch_size), count // 2), 1)


def fit(
    classifier: Classifier,
    optimization: Optimization,
    steps: int,
    batches: Callable[[int], Iterator[Batch]],
    loss: Callable[[Tensor, Batch], StepLoss],
    validate: Callable[[Classifier], Validation | None],
    hooks: Hooks | None = None,
    team: Team = SOLO,
) -> Fit:
    """Train ``classifier`` in place; keep the weights that rank best in validation, or the last without one.

    A score from few images chooses the latest epoch within one standard error of the best.

    ``batches(epoch)`` yields ``steps`` batches. With an average of the weights, it is what is validated and kept. A training that
    goes on from what its hooks kept ends bit for bit as it would have without the break. Raises DivergedError if the loss stops
    being finite. Every process of a team calls it, with the same arguments but for ``hooks`` and its share of the images.
    """
    hooks = hooks or Hooks()
    course = _Course(classifier, optimization, steps)
    if hooks.resume:
        course.restore(hooks.resume)
    parallel = replace(classifier, network=team.wrap(classifier.network))
    for number in range(len(course.result.history) + 1, optimization.epochs + 1):
        started = time.perf_counter()
        try:
            classifier.network.train()
            sums = _train_epoch(parallel, batches(number - 1), loss, course.update, hooks.on_step, team)
        except FloatingPointError as error:
            raise DivergedError(f"the loss is no longer finite in epoch {number}, {error}; lower lr", course.result) from error
        speed = sums.images / (time.perf_counter() - started)
        record = sums.epoch(number, course.lr, validate(course.average.classifier))
        seconds, now = time.perf_counter() - started, time.time_ns() // 1_000_000
        course.add(replace(record, images_per_second=speed, seconds=seconds, ended=now))
        if hooks.keep:
            hooks.keep(course.snapshot())
        hooks.on_epoch(course.result.history[-1])
    course.result.last = _copy(course.average.classifier)
    return course.result


class _Course:
    """A training's state between two epochs."""

    def __init__(self, classifier: Classifier, optimization: Optimization, steps: int) -> None:
        self.classifier = classifier
        self.clip_norm = optimization.clip_norm
        self.optimizer, self.scheduler = optimization.build(classifier.network, steps)
        self.average = optimization.average(classifier)
        self.result = Fit()
        self.best_rank = (-math.inf, -math.inf)

    @property
    def lr(self) -> float:
        return float(self.optimizer.param_groups[0]["lr"])

    def update(self, total: Tensor) -> None:
        """One step down the gradient of ``total``."""
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.classifier.network.parameters(), self.clip_norm)
        self.optimizer.step()
        self.scheduler.step()
        self.average.update()

    def add(self, record: Epoch) -> None:
        """Keep the weights if the epoch's validation ranks best."""
        self.result.history.append(record)
        validation = record.validation
        rank = validation.rank if validation else (record.epoch, 0.0)
        if rank > self.best_rank or (validation and validation.error and rank[0] >= self.best_rank[0] - validation.error):
            self.result.best_epoch, self.result.best = record.epoch, _copy(self.average.classifier)
        self.best_rank = max(self.best_rank, rank)

    def snapshot(self) -> Snapshot:
        return {
            "network": self.classifier.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": self.average.model.state_dict() if self.average.model else None,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "best_rank": self.best_rank,
            "best_epoch": self.result.best_epoch,
            "best": self.result.best,
            "history": [record.plain() for record in self.result.history],
        }

    def restore(self, saved: Snapshot) -> None:
        self.classifier.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        if self.average.model:
            self.average.model.load_state_dict(saved["average"])
        torch.set_rng_state(saved["random"])
        torch.cuda.set_rng_state_all(saved["random_cuda"])
        self.best_rank = tuple(saved["best_rank"])
        history = [Epoch.from_plain(values) for values in saved["history"]]
        self.result = Fit(saved["best_epoch"], saved["best"], history=history)


class _Sums:
    """An epoch's sums over images, kept as tensors so that no step waits for a number."""

    def __init__(self) -> None:
        self.terms: Terms = {}
        self.watched: dict[str, tuple[Tensor, Tensor]] = {}
        self.correct: Tensor | int = 0
        self.labelled: Tensor | int = 0
        self.images = 0
        self._unchecked: list[tuple[int, Terms]] = []

    def add(self, step: int, logits: Tensor, batch: Batch, found: StepLoss) -> None:
        size = len(batch.labels)
        terms = {name: value.detach() for name, value in found.terms.items()}
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0) + value * size
        for name, (total, count) in found.watched.items():
            before = self.watched.get(name, (0, 0))
            self.watched[name] = (before[0] + total, before[1] + count)
        shown = batch.shown()
        self.correct = self.correct + (logits.detach().argmax(1) == shown).sum()
        self.labelled = self.labelled + (shown >= 0).sum()
        self.images += size
        self._unchecked.append((step, terms))
        if len(self._unchecked) == STEPS_BETWEEN_CHECKS:
            self.check()

    def check(self) -> None:
        """Raise FloatingPointError that names the first step since the last check whose loss was not finite."""
        waiting, self._unchecked = self._unchecked, []
        if waiting and not torch.stack([value for _, terms in waiting for value in terms.values()]).isfinite().all():
            for step, terms in waiting:
                values = {name: value.item() for name, value in terms.items()}
                if not all(map(math.isfinite, values.values())):
                    raise FloatingPointError(f"step {step} ({', '.join(f'{name} {value:g}' for name, value in values.items())})")

    def epoch(self, number: int, lr: float, validation: Validation | None) -> Epoch:
        means = {name: float(value) / self.images for name, value in self.terms.items()}
        accuracy = int(self.correct) / int(self.labelled) if int(self.labelled) else None
        watched = {name: float(total) / max(float(count), 1) for name, (total, count) in self.watched.items()}
        return Epoch(number, lr, sum(means.values()), accuracy, means, watched, validation)


def _train_epoch(
    classifier: Classifier,
    batches: Iterator[Batch],
    loss: Callable[[Tensor, Batch], StepLoss],
    update: Callable[[Tensor], None],
    on_step: Callable[[], None],
    team: Team,
) -> _Sums:
    """One pass over the batches. Raises FloatingPointError if a loss is not finite."""
    sums = _Sums()
    for step, batch in enumerate(batches, start=1):
        count = len(batch.labels)
        with team.whole_batch(count):
            own = classifier.logits(batch.images)
        logits = team.gather(own, count)
        found = loss(logits, batch)
        update(torch.stack(list(found.terms.values())).sum())
        sums.add(step, logits, batch, found)
        on_step()
    sums.check()
    return sums


def _copy(classifier: Classifier) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in classifier.network.state_dict().items()}


def score(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Validation:
    """Mean cross-entropy and accuracy of logits (N, C) for labels (N,)."""
    known = torch.from_numpy(labels)
    values = torch.from_numpy(logits)
    accuracy = (values.argmax(1) == known).float().mean().item()
    return Validation(functional.cross_entropy(values, known).item(), accuracy)
