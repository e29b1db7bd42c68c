"""What a network reaches on the validation images."""

import math

import numpy as np
import pytest

from amalgam.validation import validated


def test_score_by_hand() -> None:
    found = validated(np.log(np.array([[0.5, 0.5], [0.75, 0.25]], dtype=np.float32)), np.array([0, 1]))
    assert found.loss == pytest.approx(-(math.log(0.5) + math.log(0.25)) / 2)
    assert found.accuracy == 0.5
