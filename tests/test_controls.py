"""What teachers reach without a student, by hand."""

import numpy as np
import pytest
import torch

from amalgam.controls import teacher_controls
from amalgam.dataset import LabelSets
from amalgam.stacking import Stacking


def test_controls_by_hand() -> None:
    """Teacher t knows b (dark) and d (bright), teacher u knows a and c, and is less sure of the same.

    On their own classes t is right on 3 of 4 images, u on 2 of 2. Routed by an oracle, they are right on 5 of 6 together; with
    nobody to route, t is always the surer one, and right on its own 3 of 6. A stacking that believes u alone has its own 2 right.
    """
    label_sets = LabelSets(("a", "b", "c", "d"), {"t": ("b", "d"), "u": ("a", "c")})
    labels = np.array([0, 1, 1, 2, 3, 3])
    bright = np.array([-1, -1, 1, 1, 1, 1])
    sure = (np.stack([-bright, bright], axis=1) / 2).astype(np.float32)
    said = {"t": sure, "u": (sure / 2).astype(np.float32)}
    controls = teacher_controls(said, label_sets, labels)
    assert controls.own == {"t": 75.0, "u": 100.0}
    assert controls.oracle_routed == pytest.approx(100 * 5 / 6, abs=0.01)
    assert controls.unrouted == controls.unrouted_joint == 50.0
    np.testing.assert_array_equal(controls.choices, [[1, 1, 3, 3, 3, 3], [0, 0, 2, 2, 2, 2]])
    assert controls.unrouted_fitted is None
    believes_u = Stacking(torch.eye(4)[[1, 3, 0, 2]], torch.tensor([9.0, 0.0, 9.0, 0.0]))
    assert teacher_controls(said, label_sets, labels, believes_u).unrouted_fitted == pytest.approx(100 * 2 / 6, abs=0.01)


def always(count: int, *probabilities: float) -> np.typing.NDArray[np.float32]:
    """Logits of these probabilities of each of ``count`` images."""
    return np.tile(np.log(probabilities), (count, 1)).astype(np.float32)


def test_unrouted_teachers_that_share_a_class_are_also_asked_for_their_joint_estimate() -> None:
    """The images show c and b. By their mean b has (0.9 + 0.2) / 2 and c 0.8 / 2; but b is 9 times as likely as a, and c 4 times as b.

    Both teachers know b: the oracle asks both, for their mean.
    """
    label_sets = LabelSets(("a", "b", "c"), {"t": ("a", "b"), "u": ("b", "c")})
    said = {"t": always(2, 0.1, 0.9), "u": always(2, 0.2, 0.8)}
    controls = teacher_controls(said, label_sets, np.array([2, 1]))
    assert controls.oracle_right.tolist() == [True, True]
    assert controls.unrouted_right.tolist() == [False, True]
    assert controls.unrouted_joint_right.tolist() == [True, False]


def test_of_two_sure_teachers_the_surer_one_is_believed() -> None:
    """Wherever its classes stand: in single precision both have given their class a probability of one."""
    said = {"t": always(2, 1, np.exp(-18)), "u": always(2, 1, np.exp(-25))}
    controls = teacher_controls(said, LabelSets(("a", "b", "c", "d"), {"t": ("a", "b"), "u": ("c", "d")}), np.array([2, 0]))
    assert controls.unrouted_right.tolist() == controls.unrouted_joint_right.tolist() == [True, False]
