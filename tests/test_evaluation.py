"""Evaluation: numbers by hand, files in the promised form."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.evaluation import Predictions, teacher_accuracies, write_evaluation
from amalgam.models import Classifier, Preprocessing
from amalgam.plots import save_confusion_matrix

LABELS = np.array([0, 0, 1, 1, 2, 2, 2, 2])
GUESSES = np.array([0, 1, 1, 1, 2, 2, 0, 2])
PREDICTIONS = Predictions(("a", "b", "c"), [f"test/{i}.png" for i in range(8)], LABELS, 3 * np.eye(3, dtype=np.float32)[GUESSES])


def test_accuracies_by_hand() -> None:
    assert PREDICTIONS.accuracy == 75.0
    assert PREDICTIONS.per_class_accuracy == {"a": 50.0, "b": 100.0, "c": 75.0}
    np.testing.assert_array_equal(PREDICTIONS.confusion, [[1, 1, 0], [0, 2, 0], [1, 0, 3]])
    np.testing.assert_allclose(PREDICTIONS.confidence, np.exp(3) / (np.exp(3) + 2), rtol=1e-6)


def test_the_files_hold_what_they_promise(tmp_path: Path) -> None:
    write_evaluation("taskX", Path("outputs/best.safetensors"), PREDICTIONS, {"t": 90.0}, tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["task"] == "taskX"
    assert results["model_path"] == "outputs/best.safetensors"
    assert results["overall_accuracy"] == 75.0
    assert results["per_class_accuracy"] == {"a": 50.0, "b": 100.0, "c": 75.0}
    assert results["teacher_accuracy"] == {"t": 90.0}
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[1]["image"], rows[1]["actual"], rows[1]["predicted"]) == ("test/1.png", "a", "b")
    assert (tmp_path / "out" / "confusion_matrix.csv").read_text().splitlines()[1] == "a,1,1,0"
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["taskX"]["test_accuracy"] == 75.0
    with Image.open(tmp_path / "out" / "confusion_matrix.png") as picture:
        assert min(picture.size) > 300


class Brightness(nn.Module):
    """Says 1 for bright images, else 0."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bright = x.mean(dim=(1, 2, 3))
        return torch.stack([0.5 - bright, bright - 0.5], dim=1)


def test_a_teacher_is_tested_on_its_own_classes_only() -> None:
    """Of b (dark) and d (bright), one of four images is on the wrong side; a and c do not count."""
    label_sets = LabelSets(("a", "b", "c", "d"), {"t": ("b", "d")})
    labels = np.array([0, 1, 1, 2, 3, 3])
    brightness = np.array([255, 0, 255, 0, 255, 255])
    images = np.broadcast_to(brightness[:, None, None, None], (6, 4, 4, 3)).astype(np.uint8)
    split = PreparedSplit(images, labels, np.zeros(6, bool), [""] * 6, "x")
    teacher = Classifier("MobileNetV3", Brightness(), ("b", "d"), Preprocessing((4, 4), (0.0,) * 3, (1.0,) * 3))
    assert teacher_accuracies({"t": teacher}, label_sets, split) == {"t": 75.0}


@pytest.mark.parametrize("classes", [2, 15, 100])
def test_a_confusion_matrix_is_drawn_for_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 5, (classes, classes)) + 80 * np.eye(classes, dtype=np.int64)
    save_confusion_matrix(counts, [f"class {i}" for i in range(classes)], "title", tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.size[0] < 3000
