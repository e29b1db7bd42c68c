"""Balancing: what the images tell together of classes that are equally frequent."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from amalgam.balancing import REGULARISATION, Balancing, consensus_log_probs, fit_balancing
from amalgam.blocks import Knowledge, LabelBlocks
from amalgam.soft_targets import joint_log_probs
from random_teachers import Sets, every_class_known, label_sets

HALVES = LabelBlocks([[0, 1], [2, 3]], 4)


def shy_teacher(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two teachers of two classes each; the second says everything a third as loud, so that the first is believed of its images too."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 4
    logits = random.normal(0, 0.5, (count, 4))
    logits[np.arange(count), labels] += 3
    foreign = random.normal(0, 1.5, (count, 2))  # what a teacher makes of classes that it does not know
    logits[:, :2] += np.where(labels[:, None] >= 2, foreign, 0)
    logits[:, 2:] /= 3
    return logits.astype(np.float32), labels


def frequencies(balancing: Balancing, logits: np.ndarray) -> np.ndarray:
    return torch.softmax(balancing(torch.from_numpy(logits)), 1).mean(0).numpy()


def test_the_classes_are_equally_frequent_then_and_more_images_right() -> None:
    logits, labels = shy_teacher(400, 0)
    balancing = fit_balancing(logits, HALVES)
    np.testing.assert_allclose(frequencies(balancing, logits), 0.25, rtol=1e-5)
    before = consensus_log_probs(torch.from_numpy(logits), HALVES).argmax(1).numpy() == labels
    after = balancing(torch.from_numpy(logits)).argmax(1).numpy() == labels
    assert before.mean() < 0.85
    assert after.mean() > before.mean() + 0.05


@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.0, 20.0])
def test_the_classes_are_equally_frequent_at_the_temperature_that_the_student_learns_with(temperature: float) -> None:
    logits, _ = shy_teacher(400, 0)
    learnt = torch.softmax(fit_balancing(logits, HALVES, temperature)(torch.from_numpy(logits)) / temperature, 1)
    np.testing.assert_allclose(learnt.mean(0), 0.25, rtol=1e-4)
    other = torch.softmax(fit_balancing(logits, HALVES)(torch.from_numpy(logits)) / temperature, 1)
    assert not np.allclose(other.mean(0), 0.25, rtol=1e-2)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2, 5, 200]), st.sampled_from([0.0, 0.1, 10.0, 1e3, 1e5]), st.booleans())
def test_the_fit_converges_whatever_the_teachers_say(seed: int, images: int, loudness: float, silent: bool) -> None:
    """Few images, answers as sure as 10⁵, a class that no teacher ever names."""
    logits = np.random.default_rng(seed).normal(0, 1, (images, 6)) * loudness - np.array([1e4 * silent, 0, 0, 0, 0, 0])
    for blocks in (LabelBlocks([[0, 1, 2], [3, 4, 5]], 6), LabelBlocks([[0, 1, 2], [2, 3, 4]], 5)):
        balancing = fit_balancing(logits.astype(np.float32), blocks)
        np.testing.assert_allclose(frequencies(balancing, logits.astype(np.float32)), 1 / blocks.classes, rtol=1e-4)


@pytest.mark.parametrize("loudness", [1, 10, 50])
def test_what_a_teacher_says_of_its_own_classes_stays_however_loud_another_one_is(loudness: float) -> None:
    """The log of two classes' ratio, their weights aside."""
    logits, _ = shy_teacher(200, 1)
    logits[:, :2] *= loudness
    balancing = fit_balancing(logits, HALVES)
    plain = REGULARISATION * balancing(torch.from_numpy(logits)) - balancing.weight
    np.testing.assert_allclose(plain[:, 3] - plain[:, 2], logits[:, 3] - logits[:, 2], atol=1e-3)


def test_nothing_changes_where_they_were_equally_frequent_before() -> None:
    logits = np.array([[2.0, 0, 1, 1], [0, 2, 1, 1], [1, 1, 2, 0], [1, 1, 0, 2]], dtype=np.float32)
    torch.testing.assert_close(fit_balancing(logits, HALVES).weight, torch.zeros(4).double(), atol=1e-6, rtol=0)


def test_weights_by_hand() -> None:
    """One teacher of two classes, one kind of image: only the weights that undo its preference give each class one half."""
    logits = np.tile(np.array([[1.0, -1.0]], dtype=np.float32), (6, 1))
    torch.testing.assert_close(
        fit_balancing(logits, LabelBlocks([[0, 1]], 2)).weight, torch.tensor([-1.0, 1.0]).double(), atol=1e-3, rtol=0
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), label_sets())
@example(0, (4, [[0, 1], [2, 3]]))
@example(1, (4, [[0, 1], [1, 2], [0, 3]]))
def test_it_is_the_plan_of_alternating_scaling(seed: int, sets: Sets) -> None:
    """Sinkhorn's two scalings of the kernel P^(1/ε), by NumPy in double precision: the same share of each class in each image."""
    random = np.random.default_rng(seed)
    classes, columns = every_class_known(sets)
    blocks = LabelBlocks(columns, classes)
    logits = random.normal(0, 2, (40, sum(map(len, columns)))).astype(np.float32)
    tensor = torch.from_numpy(logits)
    common = joint_log_probs(Knowledge.of_every_teacher(blocks, tensor)).exp().double().numpy()
    kernel, columns_scale = common ** (1 / REGULARISATION), np.ones(classes)
    for _ in range(5000):
        rows_scale = 1 / (kernel @ columns_scale)
        columns_scale = 40 / classes / (kernel.T @ rows_scale)
    plan = rows_scale[:, None] * kernel * columns_scale
    found = torch.softmax(fit_balancing(logits, blocks)(tensor), 1)
    np.testing.assert_allclose(found.numpy(), plan / plan.sum(1, keepdims=True), atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_the_images_says_nothing_and_neither_does_a_teachers_constant(seed: int) -> None:
    logits, _ = shy_teacher(60, seed)
    changed = np.random.default_rng(seed).permutation(logits) + np.array([7, 7, -3, -3], dtype=np.float32)
    expected, found = fit_balancing(logits, HALVES).weight, fit_balancing(changed, HALVES).weight
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_the_fit_is_drawn_to_no_weights_as_strongly_as_is_said() -> None:
    """Two images that mirror each other, 0.8 to 0.2: without a penalty their weights would grow without end; by hand, with 0.25, the
    fourth power of the odds."""
    logits = torch.tensor([[0.8, 0.2], [0.2, 0.8]]).log()
    found = torch.softmax(fit_balancing(logits.numpy(), LabelBlocks([[0, 1]], 2))(logits), 1)
    sure = 0.8**4 / (0.8**4 + 0.2**4)
    torch.testing.assert_close(found, torch.tensor([[sure, 1 - sure], [1 - sure, sure]]), atol=1e-5, rtol=0)


def test_a_sure_teachers_logits_are_fitted_in_double_precision() -> None:
    loudness = np.array([1e5] * 3 + [1] * 3)
    logits = (np.random.default_rng(0).normal(0, 1, (40, 6)) * loudness).astype(np.float32)
    blocks = LabelBlocks([[0, 1, 2], [3, 4, 5]], 6)
    single, double = (fit_balancing(values, blocks).weight for values in (logits, logits.astype(np.float64)))
    torch.testing.assert_close(single, double, rtol=0, atol=1e-6)
