"""Evaluation: numbers by hand, files in the promised form."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.evaluation import Controls, Predictions, teacher_controls, write_evaluation
from amalgam.models import Classifier, Preprocessing
from amalgam.plots import save_confusion_matrix

LABELS = np.array([0, 0, 1, 1, 2, 2, 2, 2])
GUESSES = np.array([0, 1, 1, 1, 2, 2, 0, 2])
COVERING = np.array([[True, True, False], [False, True, True]])
PREDICTIONS = Predictions(("a", "b", "c"), [f"test/{i}.png" for i in range(8)], LABELS, 3 * np.eye(3, dtype=np.float32)[GUESSES])


def test_accuracies_by_hand() -> None:
    assert PREDICTIONS.accuracy == 75.0
    assert PREDICTIONS.per_class_accuracy == {"a": 50.0, "b": 100.0, "c": 75.0}
    np.testing.assert_array_equal(PREDICTIONS.confusion, [[1, 1, 0], [0, 2, 0], [1, 0, 3]])
    np.testing.assert_allclose(PREDICTIONS.confidence, np.exp(3) / (np.exp(3) + 2), rtol=1e-6)


def test_the_files_hold_what_they_promise(tmp_path: Path) -> None:
    write_evaluation("taskX", Path("outputs/best.safetensors"), PREDICTIONS, Controls({"t": 90.0}, 80.0, 60.0), COVERING, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["task"] == "taskX"
    assert results["model_path"] == "outputs/best.safetensors"
    assert results["overall_accuracy"] == 75.0
    assert results["per_class_accuracy"] == {"a": 50.0, "b": 100.0, "c": 75.0}
    assert results["teacher_accuracy"] == {"t": 90.0}
    assert (results["oracle_routed_teachers"], results["unrouted_teachers"]) == (80.0, 60.0)
    assert results["shared_class_accuracy"] == 100.0
    assert (results["within_teacher_errors"], results["across_teacher_errors"]) == (12.5, 12.5)
    low, high = results["interval_95"]
    assert low < 75 < high
    confidence = math.exp(3) / (math.exp(3) + 2)
    assert results["expected_calibration_error"] == pytest.approx(100 * (confidence - 0.75), abs=0.01)
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[1]["image"], rows[1]["actual"], rows[1]["predicted"]) == ("test/1.png", "a", "b")
    assert (tmp_path / "out" / "confusion_matrix.csv").read_text().splitlines()[1] == "a,1,1,0"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["taskX"]["test_accuracy"] == 75.0
    for name in ("confusion_matrix.png", "reliability.png"):
        with Image.open(tmp_path / "out" / name) as picture:
            assert min(picture.size) > 300


class Brightness(nn.Module):
    """Says 1 for bright images, else 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - bright, bright - 0.5], dim=1)


def test_controls_by_hand() -> None:
    """Teacher t knows b (dark) and d (bright), teacher u knows a and c, and is less sure of the same.

    On their own classes t is right on 3 of 4 images, u on 2 of 2. Routed by an oracle, they are right on 5 of 6 together; with
    nobody to route, t is always the surer one, and right on its own 3 of 6.
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
    assert controls.unrouted == 50.0


@pytest.mark.parametrize("classes", [2, 15, 100])
def test_a_confusion_matrix_is_drawn_for_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 5, (classes, classes)) + 80 * np.eye(classes, dtype=np.int64)
    save_confusion_matrix(counts, [f"class {i}" for i in range(classes)], "title", tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.size[0] < 3000
