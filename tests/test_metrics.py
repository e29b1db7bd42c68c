"""Measures, by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam.dataset import LabelSets
from amalgam.metrics import accuracy_interval, agreement, mcnemar, reliability, shared_class_accuracy, split_errors

COVERING = np.array([[True, True, False, False], [False, True, True, False], [False, False, False, True]])


def test_calibration_by_hand() -> None:
    """Two bins: one of confidence .3 and .5, half right; one of .9 and 1, all right."""
    found = reliability(np.array([0.3, 0.5, 0.9, 1.0]), np.array([True, False, True, True]), bins=2)
    np.testing.assert_allclose(found.share, [0.5, 0.5])
    np.testing.assert_allclose(found.confidence, [0.4, 0.95])
    np.testing.assert_allclose(found.accuracy, [0.5, 1.0])
    assert found.expected_calibration_error == pytest.approx(0.5 * 0.1 + 0.5 * 0.05)


@given(st.integers(1, 200), st.integers(0, 100))
@settings(deadline=None)
def test_the_bins_hold_every_image_once(count: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    confidence, right = random.random(count), random.random(count) < 0.5
    found = reliability(confidence, right)
    assert found.share.sum() == pytest.approx(1)
    assert (found.share * found.confidence).sum() == pytest.approx(confidence.mean())
    assert (found.share * found.accuracy).sum() == pytest.approx(right.mean())
    assert 0 <= found.expected_calibration_error <= 1


def test_there_are_fifteen_bins() -> None:
    """Guo et al.'s number."""
    assert len(reliability(np.linspace(0, 1, 1000), np.ones(1000, dtype=bool)).share) == 15


def test_the_interval_is_wilsons() -> None:
    """80 of 100: (p + z²/2n ± z·√(p(1 − p)/n + z²/4n²)) / (1 + z²/n), z = 1.96."""
    z, n, p = 1.959964, 100, 0.8
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    expected = [100 * (p + z**2 / (2 * n) + sign * half) / (1 + z**2 / n) for sign in (-1, 1)]
    assert accuracy_interval(80, 100) == pytest.approx(expected, abs=0.01)


def test_mcnemar_by_hand() -> None:
    """Only the first is right on 1 image, only the second on 5: p = 2 · (C(6,0) + C(6,1)) / 2⁶."""
    first = np.array([True] + [False] * 5 + [True] * 10)
    second = np.array([False] + [True] * 5 + [True] * 10)
    assert mcnemar(first, second) == pytest.approx(2 * (1 + 6) / 64)
    assert mcnemar(first, first) == 1.0


def test_errors_split_by_whether_one_teacher_knows_both_classes() -> None:
    """a–b and b–c have a teacher in common, a–c and anything with d have not."""
    labels, predicted = np.array([0, 1, 0, 3, 2, 2, 1, 0]), np.array([1, 2, 2, 0, 2, 2, 1, 1])
    assert split_errors(labels, predicted, COVERING) == (37.5, 25.0)


def test_accuracy_on_shared_classes() -> None:
    """Only b is shared; two of its three images are right."""
    assert shared_class_accuracy(np.array([1, 1, 1, 0]), np.array([1, 1, 0, 2]), COVERING) == pytest.approx(66.67)
    assert shared_class_accuracy(np.array([0]), np.array([0]), COVERING[:1]) is None


def test_agreement_by_hand() -> None:
    """Of class a's two images student and teacher t agree on one; u does not know a. On b's only image u alone agrees."""
    label_sets = LabelSets(("a", "b", "c"), {"t": ("a", "b"), "u": ("b", "c")})
    logits = np.array([[3, 2, 1], [1, 2, 9], [1, 0, 2]], dtype=np.float32)  # t's classes: a, b, a; u's: b, c, c
    found = agreement(logits, np.array([0, 0, 1]), np.array([[0, 0, 1], [1, 1, 2]]), label_sets)
    np.testing.assert_array_equal(found[:, :2], [[50, 0], [np.nan, 100]])
