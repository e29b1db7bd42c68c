"""Losses: values by hand, independent computations in double precision, properties over random label sets."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam.losses import distillation, mean_target, student_loss


@st.composite
def label_sets(draw: st.DrawFn) -> tuple[int, list[list[int]]]:
    """A number of classes, and for each of one to six teachers at least one of them: nested, identical, disjoint, any."""
    classes = draw(st.integers(2, 9))
    sets = st.lists(st.integers(0, classes - 1), min_size=1, max_size=classes, unique=True).map(sorted)
    return classes, draw(st.lists(sets, min_size=1, max_size=6))


def example(classes: int, columns: list[list[int]], seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random teacher logits (7, Σ|Lᵢ|), and who is active, at least one a row; the logits of the others are NaN."""
    random = np.random.default_rng(seed)
    active = random.random((7, len(columns))) < 0.5
    active[np.arange(7), random.integers(0, len(columns), 7)] = True
    blocks = [np.where(active[:, i, None], random.normal(0, 3, (7, len(own))), np.nan) for i, own in enumerate(columns)]
    return torch.from_numpy(np.concatenate(blocks, axis=1)).float(), torch.from_numpy(active)


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def test_the_mean_of_two_teachers_by_hand() -> None:
    """Teacher 1 knows {a, b} and says (.8, .2); teacher 2 knows {b, c} and says (.5, .5)."""
    logits = torch.log(torch.tensor([[0.8, 0.2, 0.5, 0.5]]))
    both, first = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    torch.testing.assert_close(mean_target(logits, both, [[0, 1], [1, 2]], 3, 1.0), torch.tensor([[0.4, 0.35, 0.25]]))
    torch.testing.assert_close(mean_target(logits, first, [[0, 1], [1, 2]], 3, 1.0), torch.tensor([[0.8, 0.2, 0.0]]))


def test_a_shared_class_keeps_its_probability() -> None:
    """Two teachers that are 80 % sure of the one class they share: the target says 80 %, not less."""
    logits = torch.log(torch.tensor([[0.8, 0.2, 0.8, 0.2]]))
    target = mean_target(logits, torch.tensor([[True, True]]), [[0, 1], [0, 2]], 3, 1.0)
    torch.testing.assert_close(target, torch.tensor([[0.8, 0.1, 0.1]]))


@given(label_sets(), st.floats(0.5, 10), st.integers(0, 1000))
@settings(deadline=None)
def test_the_target_is_the_mean_of_zero_padded_distributions(sets: tuple[int, list[list[int]]], temperature: float, seed: int) -> None:
    classes, columns = sets
    logits, active = example(classes, columns, seed)
    target = mean_target(logits, active, columns, classes, temperature)
    starts = np.cumsum([0] + [len(own) for own in columns])
    for row in range(7):
        padded = []
        for teacher, own in enumerate(columns):
            if active[row, teacher]:
                whole = np.zeros(classes)
                whole[own] = softmax(logits[row, starts[teacher] : starts[teacher + 1]].double().numpy() / temperature)
                padded.append(whole)
        np.testing.assert_allclose(target[row].numpy(), np.mean(padded, axis=0), atol=1e-6)
    torch.testing.assert_close(target.sum(dim=1), torch.ones(7))


def test_distillation_agrees_with_double_precision_by_hand() -> None:
    random = np.random.default_rng(0)
    student = random.normal(0, 2, (5, 4))
    target = np.stack([softmax(row) for row in random.normal(0, 2, (5, 4))])
    temperature = 3.0
    by_hand = 0.0
    for row, wanted in zip(student, target, strict=True):
        q = softmax(row / temperature)
        by_hand += temperature**2 * sum(t * math.log(t / p) for t, p in zip(wanted, q, strict=True)) / 5
    found = distillation(torch.from_numpy(student).float(), torch.from_numpy(target).float(), temperature)
    assert found.item() == pytest.approx(by_hand, abs=1e-5)


@given(st.floats(0.5, 10), st.integers(0, 1000))
@settings(deadline=None)
def test_a_student_that_says_what_its_teacher_says_has_no_loss(temperature: float, seed: int) -> None:
    logits = torch.from_numpy(np.random.default_rng(seed).normal(0, 3, (6, 5))).float()
    target = mean_target(logits, torch.ones(6, 1, dtype=torch.bool), [list(range(5))], 5, temperature)
    assert distillation(logits, target, temperature).item() == pytest.approx(0, abs=1e-5 * temperature**2)


@given(label_sets(), st.floats(0.5, 10), st.integers(0, 1000))
@settings(deadline=None)
def test_the_kl_to_the_mean_has_the_gradient_of_the_mean_of_kls(sets: tuple[int, list[list[int]]], temperature: float, seed: int) -> None:
    classes, columns = sets
    logits, active = example(classes, columns, seed)
    student = torch.from_numpy(np.random.default_rng(seed + 1).normal(0, 2, (7, classes))).float().requires_grad_()
    distillation(student, mean_target(logits, active, columns, classes, temperature), temperature).backward()  # type: ignore[no-untyped-call]
    whole = student.grad
    student.grad = None
    total = torch.zeros(())
    for row in range(7):
        shares = []
        for teacher in torch.nonzero(active[row]).flatten().tolist():
            alone = torch.zeros(1, len(columns), dtype=torch.bool)
            alone[0, teacher] = True
            target = mean_target(logits[row : row + 1], alone, columns, classes, temperature)
            shares.append(distillation(student[row : row + 1], target, temperature))
        total = total + torch.stack(shares).mean() / 7
    total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(whole, student.grad, atol=1e-5, rtol=1e-4)


def test_alpha_weighs_the_terms_and_drops_the_weightless() -> None:
    logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
    target = torch.tensor([[0.5, 0.5]])
    cross_entropy = math.log(1 + math.exp(-2))
    kl = distillation(logits, target, 2.0).item()
    assert student_loss(logits, labels, target, 0.0, 2.0).keys() == {"labels"}
    assert student_loss(logits, labels, target, 1.0, 2.0).keys() == {"distillation"}
    terms = student_loss(logits, labels, target, 0.25, 2.0)
    assert terms["labels"].item() == pytest.approx(0.75 * cross_entropy, abs=1e-6)
    assert terms["distillation"].item() == pytest.approx(0.25 * kl, abs=1e-6)
