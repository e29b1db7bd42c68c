"""What several teachers teach together: values by hand, and properties over random label sets."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from amalgam.blocks import Knowledge, LabelBlocks
from amalgam.soft_targets import confidence_weights, equal_weights, union_log_probs
from amalgam.target_names import Target
from by_hand import pairs_by_hand, softmax
from random_teachers import (
    B,
    Sets,
    distilled,
    example,
    label_sets,
    student_logits,
)

DISTRIBUTIONS: tuple[Target, ...] = ("mean", "joint", "confidence")


def target_of(
    logits: Tensor, active: Tensor, columns: list[list[int]], classes: int, target: Target, temperature: float = 1.0, tau: float = 1.0
) -> Tensor:
    blocks = LabelBlocks(columns, classes)
    knowledge = Knowledge(blocks, blocks.of_teachers(logits, active) / temperature, active, torch.full((len(logits),), -1))
    weight = confidence_weights(knowledge, tau) if target == "confidence" else equal_weights(knowledge)
    return union_log_probs(knowledge, target, weight).exp()


def test_the_mean_of_two_teachers_by_hand() -> None:
    """Teacher 1 knows {a, b} and says (.8, .2); teacher 2 knows {b, c} and says (.5, .5)."""
    logits, columns = torch.log(torch.tensor([[0.8, 0.2, 0.5, 0.5]])), [[0, 1], [1, 2]]
    both, first = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    torch.testing.assert_close(target_of(logits, both, columns, 3, "mean"), torch.tensor([[0.4, 0.35, 0.25]]))
    torch.testing.assert_close(target_of(logits, first, columns, 3, "mean"), torch.tensor([[0.8, 0.2, 0.0]]))


def test_a_shared_class_keeps_its_probability() -> None:
    """Two teachers that are 80 % sure of the one class they share: the target says 80 %, not less."""
    logits = torch.log(torch.tensor([[0.8, 0.2, 0.8, 0.2]]))
    target = target_of(logits, torch.tensor([[True, True]]), [[0, 1], [0, 2]], 3, "mean")
    torch.testing.assert_close(target, torch.tensor([[0.8, 0.1, 0.1]]))


def test_confidence_weights_by_hand() -> None:
    """Teacher 1 is sure (.9, .1), teacher 2 knows nothing (.5, .5): s = (1 − H(.9)/log 2, 0)."""
    logits, active = torch.log(torch.tensor([[0.9, 0.1, 0.5, 0.5]])), torch.tensor([[True, True]])
    confidence = 1 + (0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    first = math.exp(confidence / 0.5) / (math.exp(confidence / 0.5) + 1)
    found = target_of(logits, active, [[0, 1], [1, 2]], 3, "confidence", tau=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.9 * first, 0.1 * first + 0.5 * (1 - first), 0.5 * (1 - first)]]))


@given(label_sets(), st.floats(0.5, 10), st.integers(0, 1000))
@settings(deadline=None)
def test_the_mean_is_that_of_zero_padded_distributions(sets: Sets, temperature: float, seed: int) -> None:
    classes, columns = sets
    logits, active = example(columns, seed)
    target = target_of(logits, active, columns, classes, "mean", temperature)
    starts = np.cumsum([0] + [len(own) for own in columns])
    for row in range(B):
        padded = []
        for teacher in np.flatnonzero(active[row]):
            whole = np.zeros(classes)
            whole[columns[teacher]] = softmax(logits[row, starts[teacher] : starts[teacher + 1]].double().numpy() / temperature)
            padded.append(whole)
        np.testing.assert_allclose(target[row].numpy(), np.mean(padded, axis=0), atol=1e-6)


@pytest.mark.parametrize("target", DISTRIBUTIONS)
@given(sets=label_sets(), temperature=st.floats(0.5, 10), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_a_target_over_the_union_is_a_distribution(target: Target, sets: Sets, temperature: float, seed: int) -> None:
    classes, columns = sets
    logits, active = example(columns, seed)
    found = target_of(logits, active, columns, classes, target, temperature)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(B))


@pytest.mark.parametrize("target", DISTRIBUTIONS)
def test_one_teacher_of_all_classes_is_its_own_target(target: Target) -> None:
    logits = student_logits(5, 3)
    found = target_of(logits, torch.ones(B, 1, dtype=torch.bool), [list(range(5))], 5, target)
    torch.testing.assert_close(found, torch.softmax(logits, 1))


@given(sets=label_sets(), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_confidence_agrees_with_double_precision_by_hand(sets: Sets, seed: int) -> None:
    """At T 3, in label sets of different sizes, over the active teachers alone."""
    classes, columns = sets
    logits, active = example(columns, seed)
    student = student_logits(classes, seed)
    found = distilled(student, logits, active, sets, "confidence", temperature=3.0).weight
    assert found is not None
    pairs = pairs_by_hand(student.double().numpy(), logits.double().numpy(), active.numpy(), columns, 3.0, False)
    sure = np.full((B, len(columns)), -np.inf)
    for (row, i), (p, _) in pairs.items():
        sure[row, i] = 1 + float(np.sum(p * np.log(p))) / math.log(len(p))
    np.testing.assert_allclose(found.numpy(), np.stack([softmax(row) for row in sure]), atol=1e-5)


def test_confidence_is_that_of_the_logits_before_they_are_standardized() -> None:
    """Standardised, (10, 0, 1) and (.1, 0, .01) are equally sure."""
    logits, active = torch.tensor([[10.0, 0.0, 1.0, 0.1, 0.0, 0.01]]), torch.tensor([[True, True]])
    sets = (5, [[0, 1, 2], [2, 3, 4]])
    before, after = (distilled(torch.zeros(1, 5), logits, active, sets, "confidence", standardize=on).weight for on in (False, True))
    torch.testing.assert_close(before, after)
    assert before is not None
    assert before[0, 0] > 0.7
