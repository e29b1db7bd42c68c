"""Optimiser, learning rate and average of the weights."""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from amalgam.models import Classifier
from amalgam.student_settings import OptimizerName, SchedulerName, StudentSettings

SGD_MOMENTUM = 0.9


@dataclass(frozen=True)
class Optimization:
    """Optimiser and schedule; ``scheduler_step`` and ``warmup_epochs`` count epochs. ``compile``: of the network (compiling.py)."""

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
    compile: bool = False

    @classmethod
    def of(cls, settings: StudentSettings) -> "Optimization":
        return cls(epochs=settings.num_epochs, **settings.shared_with(cls))

    def build(self, network: torch.nn.Module, steps: int) -> tuple[Optimizer, LRScheduler]:
        """Optimiser and scheduler, for ``steps`` steps an epoch; the scheduler is advanced every step."""
        kinds: dict[str, Any] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
        options = {"momentum": SGD_MOMENTUM, "nesterov": True} if self.optimizer == "sgd" else {}
        optimizer = kinds[self.optimizer](network.parameters(), lr=self.lr, weight_decay=self.weight_decay, fused=True, **options)
        if self.scheduler == "one_cycle" and self.epochs * steps > 1:  # a single step is none, and takes lr itself
            return optimizer, OneCycleLR(optimizer, self.lr, epochs=self.epochs, steps_per_epoch=steps)
        return optimizer, LambdaLR(optimizer, lambda step: self.factor(step, steps))

    def factor(self, step: int, steps: int) -> float:
        """The share of ``lr`` at a step, for the schedules step and cosine: a linear warm-up, then drops or half a cosine to zero.

        ``lr`` itself is reached at the last step, if not before.

        Of one_cycle this is a training's only step.
        """
        if self.scheduler == "one_cycle":
            return 1.0
        total = self.epochs * steps
        warmup = min(round(self.warmup_epochs * steps), total - 1)
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
        self.model = AveragedModel(classifier.network) if decay else None
        self.classifier = replace(classifier, network=self.model.module) if self.model else classifier

    @torch.no_grad()
    def update(self) -> None:
        """One step of the average, from the network as it is now.

        Weights and statistics get the same bits as from AveragedModel.update_parameters, which sends a GPU the count of updates at every
        step, and waits for it. Whole numbers, as indices of positions and counts of batches, have no mean and are taken as they are; so is
        what has taken another shape, as a table does that a network makes at its first images.

        Early on the average is short, so that it does not drag the random start along: its decay is at most (1 + n) / (10 + n) after
        n updates, as in TensorFlow's ExponentialMovingAverage with ``num_updates``.
        """
        if self.model is None:
            return
        count = int(self.model.n_averaged)
        averaged, current = [], []
        for mine, now in zip(_tensors(self.model.module), _tensors(self.source.network), strict=True):
            if count and mine.is_floating_point() and mine.shape == now.shape:
                averaged.append(mine)
                current.append(now)
            else:
                (mine if mine.shape == now.shape else mine.resize_(now.shape)).copy_(now)
        if averaged:
            average = get_ema_multi_avg_fn(min(self.decay, (1 + count) / (10 + count)))  # type: ignore[no-untyped-call]
            average(averaged, current, count)
        self.model.n_averaged += 1


def _tensors(network: torch.nn.Module) -> list[Tensor]:
    return [*network.parameters(), *network.buffers()]
