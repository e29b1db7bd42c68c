"""The training loop that teachers and students share."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import NamedTuple

import torch
from torch import Tensor

from amalgam.batches import Batch
from amalgam.compiling import compiled, compiler_told
from amalgam.errors import UserError
from amalgam.hardware import on_gpu
from amalgam.history import Epoch, Fit, Snapshot
from amalgam.models import Classifier
from amalgam.optimization import Optimization
from amalgam.states import State
from amalgam.team import SOLO, Team
from amalgam.validation import Validation
from amalgam.whole_batch import as_whole_batch, data_parallel

Terms = dict[str, Tensor]

STEPS_BETWEEN_CHECKS = 50  # of the loss being finite: each makes a GPU wait for its numbers


class StepLoss(NamedTuple):
    """What a step minimises, and what it watches."""

    terms: Terms  # scalars by name; their sum is the loss
    watched: Mapping[str, tuple[Tensor, Tensor]] = MappingProxyType({})  # name → (sum over images, number of images)


class DivergedError(UserError):
    """The loss stopped being finite; ``result`` is what training had reached before."""

    def __init__(self, message: str, result: Fit) -> None:
        super().__init__(message)
        self.result = result


@dataclass(frozen=True)
class Hooks:
    """What the caller sees and keeps of a training, and where it goes on."""

    on_step: Callable[[], None] = lambda: None
    on_epoch: Callable[[Epoch], None] = lambda record: None
    keep: Callable[[Snapshot], None] | None = None  # called after every epoch, before on_epoch
    resume: Snapshot | None = None  # what was kept last


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
    goes on from what its hooks kept ends bit for bit as it would have without the break (three processes or more: up to the order in
    which the first step's gradients are added). Raises DivergedError if a loss, of validation too, or a weight stops being finite. Every
    process of a team calls it, with the same arguments but for ``hooks`` and its share of the images.
    """
    hooks = hooks or Hooks()
    course = _Course(classifier, optimization, steps)
    if hooks.resume:
        course.restore(hooks.resume)
    network = compiled(classifier.network) if optimization.compile else classifier.network
    parallel = replace(classifier, network=data_parallel(network, team))
    for number in range(len(course.result.history) + 1, optimization.epochs + 1):
        started = time.perf_counter()
        try:
            classifier.network.train()
            with compiler_told(classifier.architecture):
                sums = _train_epoch(parallel, batches(number - 1), loss, course.update, hooks.on_step, team)
        except FloatingPointError as error:
            raise DivergedError(f"the loss is no longer finite in epoch {number}, {error}", course.result) from error
        if not all(tensor.isfinite().all() for tensor in classifier.network.state_dict().values()):
            raise DivergedError(f"the weights are no longer finite after epoch {number}, {sums.ended}", course.result)
        speed = sums.images / (time.perf_counter() - started)
        record = sums.epoch(number, course.lr, validate(course.average.classifier))
        if record.validation and not math.isfinite(record.validation.loss):
            raise DivergedError(f"the validation loss is no longer finite after epoch {number}, {sums.ended}", course.result)
        seconds, now = time.perf_counter() - started, time.time_ns() // 1_000_000
        course.add(replace(record, images_per_second=speed, seconds=seconds, ended=now))
        if hooks.keep:
            hooks.keep(course.snapshot())
        hooks.on_epoch(course.result.history[-1])
    course.result.last = _copy(course.average.classifier)
    return course.result


def epochs_done(snapshot: Snapshot | None) -> int:
    return len(snapshot["history"]) if snapshot else 0


class _Course:
    """A training's state between two epochs."""

    def __init__(self, classifier: Classifier, optimization: Optimization, steps: int) -> None:
        self.classifier = classifier
        self.clip_norm = optimization.clip_norm
        self.optimizer, self.scheduler = optimization.build(classifier.network, steps)
        self.average = optimization.average(classifier)
        self.lr = 0.0  # of the last step
        self.result = Fit()

    def update(self, total: Tensor) -> None:
        """One step down the gradient of ``total``."""
        total.backward()  # type: ignore[no-untyped-call]
        if self.clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.classifier.network.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)  # here already: the next forward pass uses their memory
        self.lr = float(self.optimizer.param_groups[0]["lr"])
        self.scheduler.step()
        self.average.update()

    def add(self, record: Epoch) -> None:
        """Keep the weights if the epoch's validation ranks best."""
        before = [past.validation for past in self.result.history if past.validation]
        self.result.history.append(record)
        if record.validation is None or not before or record.validation.is_kept(max(before, key=lambda past: past.rank)):
            self.result.best_epoch, self.result.best = record.epoch, _copy(self.average.classifier)

    @property
    def is_at_its_best(self) -> bool:
        """Whether the last epoch's weights are the best."""
        return self.result.best_epoch == len(self.result.history)

    def snapshot(self) -> Snapshot:
        return {
            "network": self.classifier.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": self.average.model.state_dict() if self.average.model else None,
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state() if on_gpu() else None,
            "best_epoch": self.result.best_epoch,
            "best": None if self.is_at_its_best else self.result.best,  # else what is averaged, not written twice
            "history": [record.plain() for record in self.result.history],
        }

    def restore(self, saved: Snapshot) -> None:
        self.classifier.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scheduler.load_state_dict(saved["scheduler"])
        if self.average.model:
            self.average.model.load_state_dict(saved["average"])
        torch.set_rng_state(saved["random"])
        if saved["random_cuda"] is not None:  # the first process's, on this process's GPU: a team draws masks of whole batches alike
            torch.cuda.set_rng_state(saved["random_cuda"])
        history = [Epoch.from_plain(values) for values in saved["history"]]
        best = _copy(self.average.classifier) if saved["best"] is None else saved["best"]
        self.result = Fit(saved["best_epoch"], best, history=history)


class _Sums:
    """An epoch's sums over images, kept as tensors so that no step waits for a number."""

    def __init__(self) -> None:
        self.terms: Terms = {}
        self.watched: dict[str, tuple[Tensor, Tensor]] = {}
        self.correct: Tensor | int = 0
        self.labelled: Tensor | int = 0
        self.images = 0
        self._last: tuple[int, Terms] = (0, {})
        self._unchecked: list[tuple[int, Terms]] = []

    @property
    def ended(self) -> str:
        """Which step was the last, and its loss by terms: what went wrong may have begun before it."""
        return f"which ended with {_told(*self._last)}"

    def add(self, step: int, logits: Tensor, batch: Batch, found: StepLoss) -> None:
        size = len(batch.labels)
        terms = {name: value.detach() for name, value in found.terms.items()}
        for name, value in terms.items():
            self.terms[name] = self.terms.get(name, 0) + value * size
        for name, (total, count) in found.watched.items():
            before = self.watched.get(name, (0, 0))
            self.watched[name] = (before[0] + total, before[1] + count)
        shown = batch.dominant_labels()
        self.correct = self.correct + (logits.detach().argmax(1) == shown).sum()
        self.labelled = self.labelled + (shown >= 0).sum()
        self.images += size
        self._last = (step, terms)
        self._unchecked.append(self._last)
        if len(self._unchecked) == STEPS_BETWEEN_CHECKS:
            self.check()

    def check(self) -> None:
        """Raise FloatingPointError that names the first step since the last check whose loss was not finite."""
        waiting, self._unchecked = self._unchecked, []
        if waiting and not torch.stack([value for _, terms in waiting for value in terms.values()]).isfinite().all():
            for step, terms in waiting:
                if not all(value.isfinite() for value in terms.values()):
                    raise FloatingPointError(_told(step, terms))

    def epoch(self, number: int, lr: float, validation: Validation | None) -> Epoch:
        means = {name: float(value) / self.images for name, value in self.terms.items()}
        accuracy = int(self.correct) / int(self.labelled) if int(self.labelled) else None
        watched = {name: float(total) / float(count) if count else 0.0 for name, (total, count) in self.watched.items()}
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
        with as_whole_batch(count, team):
            own = classifier.logits(batch.images)
        logits = team.all_gather(own, count)
        found = loss(logits, batch)
        update(torch.stack(list(found.terms.values())).sum())
        sums.add(step, logits, batch, found)
        on_step()
    sums.check()
    return sums


def _told(step: int, terms: Terms) -> str:
    return f"step {step} ({', '.join(f'{name} {value.item():g}' for name, value in terms.items())})"


def _copy(classifier: Classifier) -> State:
    return {name: tensor.detach().cpu().clone() for name, tensor in classifier.network.state_dict().items()}
