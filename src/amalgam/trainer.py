"""The training loop that teachers and students share."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, StepLR

from amalgam.errors import UserError
from amalgam.models import Classifier

State = dict[str, Tensor]
Terms = dict[str, Tensor]


class Batch(NamedTuple):
    """What one step sees."""

    images: Tensor  # uint8 (B, height, width, 3)
    labels: Tensor  # int64 (B,)
    teacher_logits: Tensor | None = None  # (B, Σ|Lᵢ|)
    mixed_labels: Tensor | None = None  # (B, C), rows sum to one: what the images show where each is a mixture of two

    def shown(self) -> Tensor:
        """The class that each image shows most of (B,)."""
        return self.labels if self.mixed_labels is None else self.mixed_labels.argmax(1)


class Validation(NamedTuple):
    loss: float  # mean cross-entropy
    accuracy: float  # 0 … 1


@dataclass(frozen=True)
class Epoch:
    """One row of the learning curve; accuracies are fractions, losses means over images."""

    epoch: int  # from 1
    lr: float  # at the epoch's end
    train_loss: float
    train_accuracy: float
    terms: dict[str, float]
    validation: Validation | None = None
    seconds: float = 0.0


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
class Optimization:
    """Optimiser and schedule; ``scheduler_step`` counts epochs."""

    optimizer: str
    lr: float
    weight_decay: float
    scheduler: str
    epochs: int
    scheduler_step: int = 1
    scheduler_gamma: float = 1.0

    def build(self, network: torch.nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        """Optimiser and scheduler, for ``steps`` steps an epoch; the scheduler is advanced every step."""
        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.optimizer]
        optimizer = kind(network.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True)
        if self.scheduler == "step":
            return optimizer, StepLR(optimizer, self.scheduler_step * steps, self.scheduler_gamma)
        return optimizer, OneCycleLR(optimizer, self.lr, epochs=self.epochs, steps_per_epoch=steps)


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
    loss: Callable[[Tensor, Batch], Terms],
    validate: Callable[[], Validation | None],
    on_step: Callable[[], None] = lambda: None,
    on_epoch: Callable[[Epoch], None] = lambda record: None,
) -> Fit:
    """Train ``classifier`` in place; keep the weights of the best validation accuracy (then loss), or the last without one.

    ``batches(epoch)`` yields ``steps`` batches; the loss is the sum of the terms that ``loss`` returns. Raises UserError if
    it stops being finite.
    """
    optimizer, scheduler = optimization.build(classifier.network, steps)
    result, best_score = Fit(), (-math.inf, -math.inf)
    for number in range(1, optimization.epochs + 1):
        started = time.perf_counter()
        record = _train_epoch(classifier, optimizer, scheduler, batches(number - 1), loss, on_step, number)
        validation = validate()
        record = replace(record, validation=validation, seconds=time.perf_counter() - started)
        result.history.append(record)
        score = (validation.accuracy, -validation.loss) if validation else (number, 0.0)
        if score > best_score:
            best_score, result.best_epoch = score, number
            result.best = _copy(classifier)
        on_epoch(record)
    result.last = _copy(classifier)
    return result


def _train_epoch(
    classifier: Classifier,
    optimizer: Optimizer,
    scheduler: LRScheduler,
    batches: Iterator[Batch],
    loss: Callable[[Tensor, Batch], Terms],
    on_step: Callable[[], None],
    number: int,
) -> Epoch:
    """One pass over the batches; the epoch's means of loss, accuracy and each term, not yet validated."""
    classifier.network.train()
    sums: Terms = {}
    correct, seen = torch.zeros(()), 0
    for batch in batches:
        logits = classifier.logits(batch.images)
        terms = loss(logits, batch)
        total = torch.stack(list(terms.values())).sum()
        optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
        size = len(batch.labels)
        for name, value in terms.items():
            sums[name] = sums.get(name, 0) + value.detach() * size
        correct = correct + (logits.detach().argmax(1) == batch.shown()).sum().cpu()
        seen += size
        on_step()
    means = {name: value.item() / seen for name, value in sums.items()}
    if not all(map(math.isfinite, means.values())):
        raise UserError(f"the loss is no longer finite in epoch {number} ({means}); lower lr")
    lr = float(optimizer.param_groups[0]["lr"])
    return Epoch(number, lr, sum(means.values()), correct.item() / seen, means)


def _copy(classifier: Classifier) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in classifier.network.state_dict().items()}


def score(logits: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> Validation:
    """Mean cross-entropy and accuracy of logits (N, C) for labels (N,)."""
    known = torch.from_numpy(labels)
    values = torch.from_numpy(logits)
    accuracy = (values.argmax(1) == known).float().mean().item()
    return Validation(functional.cross_entropy(values, known).item(), accuracy)
