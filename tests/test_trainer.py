"""The training loop: what it minimises, reports and keeps, and how it ends."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from amalgam.batches import Batch, Mixture
from amalgam.history import Epoch, Fit
from amalgam.models import Classifier
from amalgam.optimization import Optimization
from amalgam.preprocessing import Preprocessing
from amalgam.student_settings import SchedulerName
from amalgam.trainer import DivergedError, Hooks, StepLoss, fit
from amalgam.validation import Validation
from toy_training import batches, cross_entropy, learning_rates, toy

HOW = Optimization("adamw", 0.05, 0.0, "one_cycle", 4)


def run(validations: list[Validation] | None = None, classifier: Classifier | None = None) -> tuple[Fit, list[Epoch]]:
    remaining, seen = list(validations or []), list[Epoch]()
    result = fit(
        classifier or toy(), HOW, 5, batches, cross_entropy, lambda _: remaining.pop(0) if remaining else None, Hooks(on_epoch=seen.append)
    )
    return result, seen


def test_training_learns_and_reports_each_epoch() -> None:
    result, seen = run()
    assert [record.epoch for record in seen] == [1, 2, 3, 4]
    assert seen[-1].train_accuracy is not None
    assert seen[-1].train_accuracy > 0.9
    assert seen[-1].train_loss < seen[0].train_loss
    assert seen[-1].terms == {"labels": seen[-1].train_loss}
    assert result.history == seen


def test_the_loss_on_record_is_the_mean_over_images_and_the_speed_theirs() -> None:
    seen: list[tuple[int, float]] = []

    def uneven(epoch: int) -> Iterator[Batch]:
        for size, batch in zip((8, 8, 3), batches(epoch), strict=False):
            yield Batch(batch.images[:size], batch.labels[:size])

    def watched(logits: torch.Tensor, batch: Batch) -> StepLoss:
        found = cross_entropy(logits, batch)
        seen.append((len(batch.labels), found.terms["labels"].item()))
        return found

    (record,) = fit(toy(), replace(HOW, epochs=1), 3, uneven, watched, lambda _: None).history
    assert record.train_loss == pytest.approx(sum(size * loss for size, loss in seen) / 19)
    assert record.images_per_second * record.seconds >= 19


def test_the_sum_of_the_terms_is_what_is_minimised() -> None:
    def once(logits: torch.Tensor, batch: Batch) -> StepLoss:
        return StepLoss({"labels": 3 * cross_entropy(logits, batch).terms["labels"]})

    def twice(logits: torch.Tensor, batch: Batch) -> StepLoss:
        value = cross_entropy(logits, batch).terms["labels"]
        return StepLoss({"one": value, "two": 2 * value})

    how = Optimization("sgd", 0.1, 0.0, "cosine", 1)
    expected, found = (fit(toy(), how, 5, batches, loss, lambda _: None).last for loss in (once, twice))
    torch.testing.assert_close(found, expected)


def test_every_setting_of_the_optimisation_changes_the_weights() -> None:
    changes: dict[str, Any] = {
        "optimizer": "adam",
        "lr": 0.04,
        "weight_decay": 0.1,
        "scheduler": "cosine",
        "epochs": 3,
        "scheduler_step": 2,
        "scheduler_gamma": 0.4,
        "warmup_epochs": 1.0,
        "ema_decay": 0.9,
        "clip_norm": 0.01,
        "compile": True,  # test_compiling.py
    }
    assert [field.name for field in fields(Optimization)] == list(changes)
    del changes["compile"]
    base = Optimization("adamw", 0.05, 0.5, "step", 4, scheduler_step=1, scheduler_gamma=0.5)

    def weights(how: Optimization) -> torch.Tensor:
        return fit(toy(), how, 5, batches, cross_entropy, lambda _: None).last["head.weight"]

    before = weights(base)
    for name, value in changes.items():
        assert not torch.equal(before, weights(replace(base, **{name: value}))), name


def test_the_best_validation_accuracy_chooses_and_loss_breaks_ties() -> None:
    values = [Validation(0.9, 0.5), Validation(0.8, 0.7), Validation(0.5, 0.7), Validation(0.1, 0.6)]
    result, _ = run(values)
    assert result.best_epoch == 3
    assert result.best_record.validation == values[2]
    assert not torch.equal(result.best["head.weight"], result.last["head.weight"])


def test_a_score_from_few_images_keeps_the_latest_epoch_that_it_cannot_tell_from_the_best() -> None:
    scores = [0.5, 0.8, 0.75, 0.6]
    result, _ = run([Validation(0.9, 0.5, score, 0.1) for score in scores])
    assert result.best_epoch == 3
    exact, _ = run([Validation(0.9, 0.5, score) for score in scores])
    assert exact.best_epoch == 2
    risen, _ = run([Validation(0.9, 0.5, score, 0.1) for score in (0.5, 0.55, 0.45, 0.9)])
    assert risen.best_epoch == 4
    perfect, _ = run([Validation(0.9, 0.5, score, error) for score, error in ((0.5, 0.1), (1.0, 0.0), (1.0, 0.0), (0.9, 0.1))])
    assert perfect.best_epoch == 3


def test_without_validation_the_last_epoch_is_taken() -> None:
    result, _ = run()
    assert result.best_epoch == 4
    torch.testing.assert_close(result.best, result.last, rtol=0, atol=0)


def test_training_repeats_bit_for_bit_whatever_ran_before() -> None:
    first, _ = run()
    torch.rand(17), np.random.rand(3)  # noqa: NPY002
    second, _ = run()
    torch.testing.assert_close(first.last, second.last, rtol=0, atol=0)


def test_a_loss_that_is_not_finite_ends_the_training_and_names_the_step() -> None:
    """In the second epoch's third step; what the first had reached is handed on."""
    steps = 0

    def breaking(logits: torch.Tensor, batch: Batch) -> StepLoss:
        nonlocal steps
        steps += 1
        terms = cross_entropy(logits, batch).terms
        return StepLoss(terms | {"other": torch.tensor(math.inf if steps == 8 else 1.0)})

    with pytest.raises(DivergedError, match=r"no longer finite in epoch 2, step 3 \(labels 0\.\d+, other inf\)$") as caught:
        fit(toy(), HOW, 5, batches, breaking, lambda _: None)
    assert caught.value.result.best_epoch == 1
    assert all(tensor.isfinite().all() for tensor in caught.value.result.best.values())


def test_a_loss_that_is_not_finite_ends_a_long_epoch_before_its_end() -> None:
    steps = 0

    def on_step() -> None:
        nonlocal steps
        steps += 1

    def breaking(logits: torch.Tensor, batch: Batch) -> StepLoss:
        return StepLoss({"labels": logits.sum() * (math.nan if steps == 2 else 1.0)})

    def long(epoch: int) -> Iterator[Batch]:
        for part in range(12):
            yield from batches(part)

    with pytest.raises(DivergedError, match="epoch 1, step 3"):
        fit(toy(), HOW, 60, long, breaking, lambda _: None, Hooks(on_step))
    assert steps < 60


def test_weights_that_are_not_finite_after_the_last_step_end_the_training() -> None:
    """A finite loss whose gradient is not: no later loss tells."""
    steps = 0

    def breaking(logits: torch.Tensor, batch: Batch) -> StepLoss:
        nonlocal steps
        steps += 1
        zero = logits.sum() * 0
        return StepLoss(cross_entropy(logits, batch).terms | {"other": zero.sqrt() if steps == 10 else zero})

    with pytest.raises(
        DivergedError, match=r"the weights are no longer finite after epoch 2, which ended with step 5 \(labels 0\.\d+, other 0\)$"
    ) as caught:
        fit(toy(), HOW, 5, batches, breaking, lambda _: None)
    assert caught.value.result.best_epoch == 1
    assert all(tensor.isfinite().all() for tensor in caught.value.result.best.values())


@pytest.mark.parametrize("scheduler", ["one_cycle", "cosine", "step"])
def test_the_learning_rate_on_record_is_that_of_the_epochs_last_step(scheduler: SchedulerName) -> None:
    how = Optimization("adamw", 0.05, 0.0, scheduler, 4)
    result = fit(toy(), how, 5, batches, cross_entropy, lambda _: None)
    assert [record.lr for record in result.history] == pytest.approx(learning_rates(how, 5)[4::5])


def test_the_average_of_the_weights_is_what_is_validated_and_kept() -> None:
    """Against the recursion by hand: decay min(d, (1 + n) / (10 + n)), statistics of batch norm included."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    classifier = Classifier("MobileNetV3", network, ("dark", "light"), Preprocessing((4, 4), (0.5,) * 3, (0.25,) * 3))
    how = Optimization("adamw", 0.05, 0.0, "cosine", 2, ema_decay=0.5)
    by_hand: dict[str, torch.Tensor] = {}
    updates = 0

    def follow() -> None:
        nonlocal updates, by_hand
        state = {name: tensor.clone() for name, tensor in network.state_dict().items() if tensor.is_floating_point()}
        decay = min(0.5, (1 + updates) / (10 + updates)) if updates else 0.0
        by_hand = {name: decay * by_hand.get(name, tensor) + (1 - decay) * tensor for name, tensor in state.items()}
        updates += 1

    validated: list[torch.Tensor] = []

    def validate(current: Classifier) -> Validation:
        validated.append(current.network.state_dict()["0.weight"].clone())
        return Validation(0.5, 0.5)

    result = fit(classifier, how, 5, batches, cross_entropy, validate, Hooks(follow))
    assert updates == 10
    torch.testing.assert_close({name: result.last[name] for name in by_hand}, by_hand)
    torch.testing.assert_close(validated[-1], by_hand["0.weight"])
    assert not torch.equal(by_hand["0.weight"], network.state_dict()["0.weight"])
    torch.testing.assert_close(result.best["0.weight"], validated[0])


def test_long_gradients_are_shortened() -> None:
    """With plain gradient descent of rate one, a step is as long as its gradient."""
    classifier = toy()
    before = {name: tensor.clone() for name, tensor in classifier.network.state_dict().items()}
    how = Optimization("sgd", 1.0, 0.0, "step", 1, clip_norm=0.01)
    moved: list[float] = []

    def measure() -> None:
        if not moved:
            moved.append(math.sqrt(sum(float((classifier.network.state_dict()[name] - before[name]).square().sum()) for name in before)))

    fit(classifier, how, 5, batches, cross_entropy, lambda _: None, Hooks(measure))
    assert moved[0] == pytest.approx(0.01 * 1.9, rel=1e-3), "Nesterov's first step is 1 + momentum gradients long"


def test_watched_values_are_means_over_the_images_they_count() -> None:
    def watching(logits: torch.Tensor, batch: Batch) -> StepLoss:
        dark = batch.labels == 0
        return cross_entropy(logits, batch)._replace(watched={"dark": (dark.sum() * 3.0, dark.sum()), "all": (dark.sum(), torch.tensor(8))})

    result = fit(toy(), HOW, 5, batches, watching, lambda _: None)
    share = float(torch.cat([batch.labels for batch in batches(0)]).eq(0).float().mean())
    assert result.history[0].watched == {"dark": pytest.approx(3.0), "all": pytest.approx(share)}


def test_training_accuracy_counts_only_images_with_a_label() -> None:
    right = []

    def distilling(logits: torch.Tensor, batch: Batch) -> StepLoss:
        right.extend((logits.argmax(1) == batch.labels)[batch.labels >= 0].tolist())
        return StepLoss({"distillation": logits.square().mean()})

    def accuracy(shown: list[int]) -> float | None:
        def hidden(epoch: int) -> Iterator[Batch]:
            for batch in batches(epoch):
                known = torch.isin(torch.arange(8), torch.tensor(shown, dtype=torch.int64))
                yield batch._replace(labels=torch.where(known, batch.labels, -1))

        right.clear()
        return fit(toy(), replace(HOW, epochs=1), 5, hidden, distilling, lambda _: None).history[0].train_accuracy

    assert accuracy([]) is None
    assert accuracy([1, 4, 6]) == pytest.approx(sum(right) / 15)
    assert 0 < sum(right) < 15


def test_training_accuracy_of_mixed_images_is_by_what_each_shows_most_of() -> None:
    partner, right, by_own_label = torch.arange(8).roll(1), list[bool](), list[bool]()

    def swapped(epoch: int) -> Iterator[Batch]:
        for batch in batches(epoch):
            yield batch._replace(mixture=Mixture(partner, 0.2))

    def watched(logits: torch.Tensor, batch: Batch) -> StepLoss:
        right.extend((logits.argmax(1) == batch.labels[partner]).tolist())
        by_own_label.extend((logits.argmax(1) == batch.labels).tolist())
        return cross_entropy(logits, batch)

    record = fit(toy(), HOW, 5, swapped, watched, lambda _: None).history[-1]
    assert record.train_accuracy == pytest.approx(sum(right[-40:]) / 40)
    assert sum(right[-40:]) != sum(by_own_label[-40:])


def test_each_steps_gradient_is_its_own() -> None:
    """The mean logit's gradient by the bias is one at each of two steps; Nesterov's momentum makes them 1 + 0.9 and 1.9 · 0.9 + 1 long."""
    classifier = toy()
    bias = classifier.network.get_parameter("head.bias")
    before = bias[0].item()
    fit(
        classifier,
        Optimization("sgd", 0.1, 0.0, "step", 1),
        2,
        lambda epoch: islice(batches(epoch), 2),
        lambda logits, _: StepLoss({"first": logits[:, 0].mean()}),
        lambda _: None,
    )
    assert before - bias[0].item() == pytest.approx(0.1 * (1.9 + 2.71), rel=1e-4)


def test_an_epoch_trains_though_validation_left_the_network_evaluating() -> None:
    classifier, training = toy(), []

    def watched(logits: torch.Tensor, batch: Batch) -> StepLoss:
        training.append(classifier.network.training)
        return cross_entropy(logits, batch)

    def validate(current: Classifier) -> Validation:
        current.network.eval()
        return Validation(0.5, 0.5)

    fit(classifier, replace(HOW, epochs=2), 5, batches, watched, validate)
    assert training == [True] * 10


def test_a_validation_loss_that_is_not_finite_ends_the_training() -> None:
    """Running statistics or averaged weights may have grown too large for it, of which no training loss tells."""
    losses = iter((0.5, math.nan))
    with pytest.raises(
        DivergedError, match=r"the validation loss is no longer finite after epoch 2, which ended with step 5 \(labels 0\.\d+\)$"
    ) as error:
        fit(toy(), replace(HOW, epochs=3), 5, batches, cross_entropy, lambda _: Validation(next(losses), 0.5))
    assert error.value.result.best_epoch == 1


def test_statistics_that_are_not_finite_end_the_training_too() -> None:
    """Batch normalisation's, say, which no loss shows while the network trains."""
    classifier = toy()
    classifier.network.register_buffer("seen", torch.zeros(1))

    def spoiled(logits: torch.Tensor, batch: Batch) -> StepLoss:
        classifier.network.get_buffer("seen").fill_(math.inf)
        return cross_entropy(logits, batch)

    with pytest.raises(DivergedError, match="the weights are no longer finite after epoch 1"):
        fit(classifier, HOW, 5, batches, spoiled, lambda _: None)


def test_an_epoch_is_compared_with_the_best_one_not_with_the_kept_one() -> None:
    """Of 0.8 ± 0.1 the third epoch cannot be told, and is kept; the fourth is nearer to that one than to the best."""
    assert run([Validation(0.9, 0.5, score, 0.1) for score in (0.5, 0.8, 0.75, 0.68)])[0].best_epoch == 3


def test_weight_decay_shrinks_every_weight_and_bias() -> None:
    """AdamW's, of a loss that is always nothing: by lr times the decay."""
    classifier = toy()
    before = {name: value.clone() for name, value in classifier.network.state_dict().items()}
    fit(
        classifier,
        Optimization("adamw", 0.1, 0.5, "step", 1),
        1,
        lambda epoch: islice(batches(epoch), 1),
        lambda logits, _: StepLoss({"nothing": 0 * logits.sum()}),
        lambda _: None,
    )
    torch.testing.assert_close(classifier.network.state_dict(), {name: 0.95 * value for name, value in before.items()})
