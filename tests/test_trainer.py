"""The training loop: batches, schedules, choice of the best epoch, determinism."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from amalgam.errors import UserError
from amalgam.models import PRECISION, Classifier, Preprocessing
from amalgam.trainer import Batch, Epoch, Fit, Optimization, Validation, fit, score, shuffled_batches, steps_per_epoch


@given(st.integers(1, 300), st.integers(2, 64), st.integers(0, 100), st.integers(0, 20))
@settings(deadline=None)
def test_an_epoch_sees_every_image_once_in_batches_of_nearly_one_size(count: int, size: int, seed: int, epoch: int) -> None:
    rows = np.arange(count) * 3
    batches = shuffled_batches(rows, size, seed, epoch)
    assert len(batches) == steps_per_epoch(count, size)
    np.testing.assert_array_equal(np.sort(np.concatenate(batches)), rows)
    sizes = [len(batch) for batch in batches]
    assert max(sizes) <= max(size, 3)
    assert min(sizes) >= min(count, 2)
    assert max(sizes) - min(sizes) <= 1


def test_epochs_and_seeds_differ_in_order_and_repeat_exactly() -> None:
    orders = {np.concatenate(shuffled_batches(np.arange(50), 8, seed, epoch)).tobytes() for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9
    again = np.concatenate(shuffled_batches(np.arange(50), 8, 1, 1))
    assert again.tobytes() in orders


def learning_rates(optimization: Optimization, steps: int) -> list[float]:
    """The rate at each step."""
    optimizer, scheduler = optimization.build(nn.Linear(1, 1), steps)
    rates = []
    for _ in range(optimization.epochs * steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_step_schedule_drops_after_whole_epochs() -> None:
    rates = learning_rates(Optimization("adam", 0.1, 0, "step", 5, scheduler_step=2, scheduler_gamma=0.5), 3)
    np.testing.assert_allclose(rates, [0.1] * 6 + [0.05] * 6 + [0.025] * 3)


def test_one_cycle_rises_to_lr_and_falls_to_almost_nothing() -> None:
    rates = learning_rates(Optimization("adamw", 0.1, 0, "one_cycle", 10), 10)
    peak = int(np.argmax(rates))
    assert rates[peak] == pytest.approx(0.1, rel=1e-3)
    assert all(np.diff(rates[: peak + 1]) > 0)
    assert all(np.diff(rates[peak:]) < 0)
    assert rates[-1] < 1e-5


class Linear(nn.Module):
    """Logits from the mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(x.mean(dim=(2, 3)))
        return logits


def toy() -> Classifier:
    torch.manual_seed(0)
    return Classifier("MobileNetV3", Linear(), ("dark", "light"), Preprocessing((4, 4), (0.5,) * 3, (0.25,) * 3))


def batches(epoch: int) -> Iterator[Batch]:
    random = np.random.default_rng(epoch)
    for _ in range(5):
        labels = random.integers(0, 2, 8)
        pixels = (random.normal(80 + 100 * labels[:, None, None, None], 30, (8, 4, 4, 3))).clip(0, 255).astype(np.uint8)
        yield Batch(torch.from_numpy(pixels), torch.from_numpy(labels))


def cross_entropy(logits: torch.Tensor, batch: Batch) -> dict[str, torch.Tensor]:
    return {"labels": functional.cross_entropy(logits, batch.labels)}


HOW = Optimization("adamw", 0.05, 0.0, "one_cycle", 4)


def run(validations: list[Validation] | None = None, classifier: Classifier | None = None) -> tuple[Fit, list[Epoch]]:
    remaining, seen = list(validations or []), list[Epoch]()
    result = fit(classifier or toy(), HOW, 5, batches, cross_entropy, lambda: remaining.pop(0) if remaining else None, on_epoch=seen.append)
    return result, seen


def test_training_learns_and_reports_each_epoch() -> None:
    result, seen = run()
    assert [record.epoch for record in seen] == [1, 2, 3, 4]
    assert seen[-1].train_accuracy > 0.9
    assert seen[-1].train_loss < seen[0].train_loss
    assert seen[-1].terms == {"labels": seen[-1].train_loss}
    assert result.history == seen


def test_the_best_validation_accuracy_chooses_and_loss_breaks_ties() -> None:
    values = [Validation(0.9, 0.5), Validation(0.8, 0.7), Validation(0.5, 0.7), Validation(0.1, 0.6)]
    result, _ = run(values)
    assert result.best_epoch == 3
    assert result.best_record.validation == values[2]
    assert not torch.equal(result.best["head.weight"], result.last["head.weight"])


def test_without_validation_the_last_epoch_is_taken() -> None:
    result, _ = run()
    assert result.best_epoch == 4
    torch.testing.assert_close(result.best, result.last, rtol=0, atol=0)


def test_training_repeats_bit_for_bit_whatever_ran_before() -> None:
    first, _ = run()
    torch.rand(17), np.random.rand(3)  # noqa: NPY002
    second, _ = run()
    torch.testing.assert_close(first.last, second.last, rtol=0, atol=0)


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    classifier = toy()
    classifier.network.head.weight.data.fill_(math.nan)  # type: ignore[union-attr,operator]
    with pytest.raises(UserError, match=r"no longer finite in epoch 1 .*lower lr"):
        run(classifier=classifier)


def test_score_by_hand() -> None:
    found = score(np.log(np.array([[0.5, 0.5], [0.75, 0.25]], dtype=np.float32)), np.array([0, 1]))
    assert found.loss == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)
    assert found.accuracy == 0.5


def test_every_architecture_has_a_precision_on_every_device() -> None:
    assert set(PRECISION["cpu"]) == set(PRECISION["cuda"])
