"""What is said before a training whose target is known to teach less than another."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from amalgam.advice import advice
from untrained_teachers import TEACHING

APART, CONNECTED = {"a": ["1", "2"], "b": ["3", "4"]}, {"a": ["1", "2"], "b": ["2", "3"]}
NONE, FEW, HALF = [-1] * 5, [0, 3, -1, -1, -1], [0, 3, -1, -1]


@pytest.mark.parametrize(
    ("changes", "labels", "said"),
    [
        ({}, FEW, "2 of 5 training images have a label that may be used; target stacked"),
        ({"target": "mean"}, FEW, "target stacked"),
        ({"target": "joint"}, NONE, "b share no class with the other teachers"),
        ({"target": "confidence"}, NONE, "target balanced"),
    ],
)
def test_a_better_target_is_named(changes: dict[str, Any], labels: list[int], said: str) -> None:
    assert said in str(advice(replace(TEACHING, **changes), APART, np.array(labels)))


@pytest.mark.parametrize(
    ("changes", "teachers", "labels"),
    [
        ({}, APART, HALF),
        ({"alpha": 0.0}, APART, FEW),
        ({"target": "stacked"}, APART, FEW),
        ({"target": "balanced"}, APART, NONE),
        ({"target": "joint"}, CONNECTED, NONE),
        ({}, CONNECTED, NONE),
    ],
)
def test_nothing_is_said_of_what_is_not_known_to_lose(changes: dict[str, Any], teachers: dict[str, list[str]], labels: list[int]) -> None:
    assert advice(replace(TEACHING, **changes), teachers, np.array(labels)) is None
