"""What teachers reach without a student, by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from amalgam.controls import teacher_controls
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.models import Classifier
from amalgam.preprocessing import Preprocessing
from amalgam.stacking import Stacking


class Brightness(nn.Module):
    """Says 1 for bright images, else 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - bright, bright - 0.5], dim=1)


def test_controls_by_hand() -> None:
    """Teacher t knows b (dark) and d (bright), teacher u knows a and c, and is less sure of the same.

    On their own classes t is right on 3 of 4 images, u on 2 of 2. Routed by an oracle, they are right on 5 of 6 together; with
    nobody to route, t is always the surer one, and right on its own 3 of 6. A stacking that believes u alone has its own 2 right.
    """
    label_sets = LabelSets(("a", "b", "c", "d"), {"t": ("b", "d"), "u": ("a", "c")})
    labels = np.array([0, 1, 1, 2, 3, 3])
    brightness = np.array([0, 0, 255, 255, 255, 255])
    images = np.broadcast_to(brightness[:, None, None, None], (6, 4, 4, 3)).astype(np.uint8)
    split = PreparedSplit(images, labels, np.zeros(6, bool), [""] * 6, "x")
    sure, unsure = (Preprocessing((4, 4), (0.5 - 0.5 * s,) * 3, (s,) * 3) for s in (1.0, 2.0))
    teachers = {
        "t": Classifier("MobileNetV3", Brightness(), ("b", "d"), sure),
        "u": Classifier("MobileNetV3", Brightness(), ("a", "c"), unsure),
    }
    controls = teacher_controls(teachers, label_sets, split)
    assert controls.own == {"t": 75.0, "u": 100.0}
    assert controls.oracle_routed == pytest.approx(100 * 5 / 6, abs=0.01)
    assert controls.unrouted == controls.unrouted_joint == 50.0
    np.testing.assert_array_equal(controls.choices, [[1, 1, 3, 3, 3, 3], [0, 0, 2, 2, 2, 2]])
    assert controls.unrouted_fitted is None
    believes_u = Stacking(torch.eye(4)[[1, 3, 0, 2]], torch.tensor([9.0, 0.0, 9.0, 0.0]))
    assert teacher_controls(teachers, label_sets, split, believes_u).unrouted_fitted == pytest.approx(100 * 2 / 6, abs=0.01)


class Says(nn.Module):
    """The same probabilities of every image."""

    def __init__(self, *probabilities: float) -> None:
        super().__init__()
        self.logits = torch.tensor(probabilities).log()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.logits.expand(len(x), -1)


def test_unrouted_teachers_that_share_a_class_are_also_asked_for_their_joint_estimate() -> None:
    """The images show c and b. By their mean b has (0.9 + 0.2) / 2 and c 0.8 / 2; but b is 9 times as likely as a, and c 4 times as b.

    Both teachers know b: the oracle asks both, for their mean.
    """
    label_sets = LabelSets(("a", "b", "c"), {"t": ("a", "b"), "u": ("b", "c")})
    plain = Preprocessing((4, 4), (0, 0, 0), (1, 1, 1))
    teachers = {
        "t": Classifier("MobileNetV3", Says(0.1, 0.9), ("a", "b"), plain),
        "u": Classifier("MobileNetV3", Says(0.2, 0.8), ("b", "c"), plain),
    }
    split = PreparedSplit(np.zeros((2, 4, 4, 3), np.uint8), np.array([2, 1]), np.zeros(2, bool), ["", ""], "x")
    controls = teacher_controls(teachers, label_sets, split)
    assert controls.oracle_right.tolist() == [True, True]
    assert controls.unrouted_right.tolist() == [False, True]
    assert controls.unrouted_joint_right.tolist() == [True, False]


def test_of_two_sure_teachers_the_surer_one_is_believed() -> None:
    """Wherever its classes stand: in single precision both have given their class a probability of one."""
    plain = Preprocessing((4, 4), (0, 0, 0), (1, 1, 1))
    split = PreparedSplit(np.zeros((2, 4, 4, 3), np.uint8), np.array([2, 0]), np.zeros(2, bool), ["", ""], "x")
    said = {"t": Classifier("MobileNetV3", Says(1, np.exp(-18)), ("a", "b"), plain)}
    said["u"] = Classifier("MobileNetV3", Says(1, np.exp(-25)), ("c", "d"), plain)
    controls = teacher_controls(said, LabelSets(("a", "b", "c", "d"), {"t": ("a", "b"), "u": ("c", "d")}), split)
    assert controls.unrouted_right.tolist() == controls.unrouted_joint_right.tolist() == [True, False]
