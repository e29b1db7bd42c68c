"""Evaluation: numbers by hand, files in the promised form."""

import csv
import hashlib
import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from amalgam.controls import Controls
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.evaluation import Evaluation, Judged, Predictions, predict, write_evaluation
from amalgam.history import Epoch, write_history
from amalgam.lettering import drawable
from amalgam.models import Classifier
from amalgam.networks import build_network
from amalgam.plots import save_confusion_matrix, save_matrix, save_samples
from amalgam.preprocessing import Preprocessing
from amalgam.validation import Validation

LABELS = np.array([0, 0, 1, 1, 2, 2, 2, 2])
GUESSES = np.array([0, 1, 1, 1, 2, 2, 1, 2])
SETS = LabelSets(("a", "b", "c"), {"t": ("a", "b"), "u": ("b", "c")})
CHOICES = np.array([[0, 0, 1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 2, 2, 2, 1]])
CONTROLS = Controls({"t": 90.0}, np.arange(10) < 8, np.arange(10) < 6, np.arange(10) < 7, CHOICES)
SPLIT = PreparedSplit(np.zeros((8, 4, 4, 3), np.uint8), LABELS, np.zeros(8, bool), [""] * 8, "x")
PREDICTIONS = Predictions(("a", "b", "c"), [f"test/{i}.png" for i in range(8)], LABELS, 3 * np.eye(3, dtype=np.float32)[GUESSES])


def test_accuracies_by_hand() -> None:
    assert PREDICTIONS.accuracy == 75.0
    assert PREDICTIONS.per_class_accuracy == {"a": 50.0, "b": 100.0, "c": 75.0}
    np.testing.assert_array_equal(PREDICTIONS.confusion, [[1, 1, 0], [0, 2, 0], [0, 1, 3]])
    np.testing.assert_allclose(PREDICTIONS.confidence, np.exp(3) / (np.exp(3) + 2), rtol=1e-6)


def test_a_student_whose_logits_are_not_finite_is_refused() -> None:
    """As one may be that no validation image has judged."""
    network = build_network("ReferenceCNN", 3)
    with torch.no_grad():
        next(network.parameters()).fill_(math.inf)
    student = Classifier("ReferenceCNN", network, SETS.classes, Preprocessing((4, 4), (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(UserError, match=r"^the student \(ReferenceCNN\) gives logits that are not finite for test images; .* lower lr"):
        predict(student, SPLIT)


def test_a_fitted_target_is_a_control_too(tmp_path: Path) -> None:
    (tmp_path / "best.safetensors").write_bytes(b"weights")
    controls = replace(CONTROLS, unrouted_fitted_right=np.arange(10) < 9)
    for known, expected in ((controls, 90.0), (CONTROLS, None)):
        write_evaluation(Evaluation("taskX", Judged(tmp_path / "best.safetensors"), PREDICTIONS, known, SETS, SPLIT, {}), tmp_path / "out")
        assert json.loads((tmp_path / "out" / "results.json").read_text())["unrouted_teachers_fitted"] == expected
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["taskX"].get("unrouted_teachers_fitted") == expected


def test_the_files_hold_what_they_promise(tmp_path: Path) -> None:
    history = [Epoch(1, 0.1, 2.0, 0.5, {}, {}, Validation(1.0, 0.5)), Epoch(2, 0.1, 1.0, None, {}, {}, None)]
    write_history(history, tmp_path / "history.csv")
    (tmp_path / "best.safetensors").write_bytes(b"weights")
    own = {"best_epoch": 1, "weights_sha256": hashlib.sha256(b"weights").hexdigest()}
    (tmp_path / "student.json").write_text(json.dumps(own))
    student = Judged(tmp_path / "best.safetensors")
    write_evaluation(Evaluation("taskX", student, PREDICTIONS, CONTROLS, SETS, SPLIT, {"t": "doubtful"}), tmp_path / "out")
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["task"] == "taskX"
    assert results["model_path"] == "best.safetensors", "of a file outside the repository, the name alone"
    assert results["weights_sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert results["test_content"] == SPLIT.content
    assert results["overall_accuracy"] == 75.0
    assert results["per_class_accuracy"] == {"a": 50.0, "b": 100.0, "c": 75.0}
    assert results["teacher_accuracy"] == {"t": 90.0}
    assert results["teacher_doubts"] == {"t": "doubtful"}
    assert [results[name] for name in ("oracle_routed_teachers", "unrouted_teachers", "unrouted_teachers_joint")] == [80, 60, 70]
    assert results["shared_class_accuracy"] == 100.0
    assert (results["within_teacher_errors"], results["across_teacher_errors"]) == (25.0, 0.0)
    assert results["interval_95"] == [40.93, 92.85], "Wilson's, of 6 in 8"
    confidence = math.exp(3) / (math.exp(3) + 2)
    assert results["expected_calibration_error"] == pytest.approx(100 * (confidence - 0.75), abs=0.01)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["taskX"] == {
        "test_accuracy": 75.0,
        "test_loss": pytest.approx(math.log(math.exp(3) + 2) - 3 * 6 / 8, abs=1e-6),
        "test_ece": pytest.approx(100 * (confidence - 0.75), abs=0.01),
        "oracle_routed_teachers": 80.0,
        "unrouted_teachers": 60.0,
        "unrouted_teachers_joint": 70.0,
    }
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (rows[1]["image"], rows[1]["actual"], rows[1]["predicted"]) == ("test/1.png", "a", "b")
    assert (tmp_path / "out" / "confusion_matrix.csv").read_text().splitlines()[1] == "a,1,1,0"
    per_class = (tmp_path / "out" / "per_class.csv").read_text().splitlines()
    assert per_class == ["class,accuracy,images,teachers", "a,50.0,2,t", "c,75.0,4,u", 'b,100.0,2,"t, u"']
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["taskX"]["test_accuracy"] == 75.0
    pictures = sorted(file.stem for file in (tmp_path / "out").glob("*.png"))
    matrices = ["confusion_matrix", "confusion_matrix_normalized"]
    names = ["agreement", *matrices, "learning_curve", "reliability", "responsibility", "sample_predictions"]
    assert pictures == names
    for name in names:
        with Image.open(tmp_path / "out" / f"{name}.png") as picture:
            assert min(picture.size) > 150


@pytest.mark.parametrize("classes", [2, 15, 100, 400])
def test_a_confusion_matrix_is_drawn_for_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    counts = np.random.default_rng(0).integers(0, 5, (classes, classes)) + 80 * np.eye(classes, dtype=np.int64)
    save_confusion_matrix(counts, [f"class {i}" for i in range(classes)], "title", tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.size[0] < 3000


@pytest.mark.parametrize(("teachers", "classes"), [(1, 2), (3, 15), (20, 100), (200, 400)])
def test_teachers_and_classes_are_drawn_whatever_their_number(teachers: int, classes: int, tmp_path: Path) -> None:
    values = np.where(np.random.default_rng(0).random((teachers, classes)) < 0.5, np.nan, 50.0)
    values[0, 0] = 100
    save_matrix(values, [f"teacher {i}" for i in range(teachers)], [f"class {i}" for i in range(classes)], "title", tmp_path / "m.png")
    with Image.open(tmp_path / "m.png") as picture:
        assert picture.size[0] < 3000


@pytest.mark.parametrize("teachers", [1, 3])
@pytest.mark.parametrize("classes", [2, 27, 100])
@pytest.mark.parametrize("letters", [24, 45, 100])
def test_long_names_have_room(letters: int, classes: int, teachers: int, tmp_path: Path) -> None:
    """Matplotlib warns, which is an error here, where the names leave none to the cells."""
    names, wide = [f"{number} {'W' * letters}" for number in range(classes)], tmp_path / "wide.png"
    counts = 80 * np.eye(classes, dtype=np.int64)
    save_confusion_matrix(counts, names, "title", wide)
    save_confusion_matrix(counts, [str(number) for number in range(classes)], "title", tmp_path / "short.png")
    save_matrix(np.full((teachers, classes), 50.0), ["T" * letters] * teachers, names, "title", tmp_path / "matrix.png")
    with Image.open(wide) as long, Image.open(tmp_path / "short.png") as short:
        assert 0 < long.size[0] - short.size[0] < 700


def test_names_whose_letters_no_font_has_are_shown_by_their_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once is said which; matplotlib would warn of each letter in each picture, which is an error here."""
    unknown = "\N{LINEAR B SYLLABLE B008 A}"
    names = ["oak", f"{unknown}b", "fir", unknown]
    assert drawable(names) == ["oak", "(2)", "fir", "(4)"]
    for picture in ("one", "two"):
        save_confusion_matrix(np.eye(4, dtype=np.int64), names, "title", tmp_path / f"{picture}.png")
    save_confusion_matrix(np.eye(200, dtype=np.int64), [f"{unknown}{number}" for number in range(200)], "title", tmp_path / "unnamed.png")
    assert capsys.readouterr().err.splitlines() == [
        f"no font here has all letters of {unknown}b and 1 more: pictures show their places among the names, the tables have them; "
        "install a font with these letters, Noto Sans CJK say"
    ]


def test_a_long_name_is_shown_without_its_middle() -> None:
    shown = drawable(["x" * 40, f"Chevrolet {'y' * 40} Cab 2012"])
    assert shown == ["x" * 40, f"Chevrolet {'y' * 16}…yyyy Cab 2012"]
    assert len(shown[1]) == 40


def test_a_scale_says_what_cells_too_small_for_it_do_not(tmp_path: Path) -> None:
    """And a colour means the same share in every picture."""
    for name, classes, values in (("few", 30, 40.0), ("many", 31, 40.0), ("more", 31, 100.0)):
        save_matrix(np.full((2, classes), values), ["a", "b"], [str(n) for n in range(classes)], "t", tmp_path / f"{name}.png")
    found = {name: np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB")) for name in ("few", "many", "more")}
    middle = {name: tuple(map(int, pixels[len(pixels) // 3, pixels.shape[1] // 3])) for name, pixels in found.items()}
    assert middle["few"] == middle["many"] != middle["more"]
    at_the_right = {name: Counter(map(tuple, pixels[:, -150:].reshape(-1, 3).tolist())) for name, pixels in found.items()}
    colours = {name: sum(times >= 10 for times in shown.values()) for name, shown in at_the_right.items()}  # letters' edges aside
    assert colours["few"] < 20, "the cells say it"
    assert colours["many"] > 100, "the scale's"


def test_long_titles_of_samples_are_broken_and_whole(tmp_path: Path) -> None:
    """No letter touches the picture's edge."""
    long = "True: African_elephant\n(Teacher 2, 3, 7, 11: African_animals, canids, of_the_zoo, herbivores)\nPred: wolf"
    save_samples(np.zeros((7, 8, 8, 3), np.uint8), [long] * 7, np.full(7, False), tmp_path / "s.png")
    pixels = np.asarray(Image.open(tmp_path / "s.png").convert("RGB")).astype(int)
    reddish = pixels[..., 0] - pixels[..., 1] > 20
    assert reddish.any()
    assert not reddish[:4].any()
    columns = reddish.any(0)
    assert not columns[:3].any() and not columns[-3:].any()
    assert (np.diff(np.flatnonzero(~columns)) > 1).sum() >= 5, "each column of images has its own titles"


def test_class_names_are_no_formulas(tmp_path: Path) -> None:
    save_confusion_matrix(np.eye(2, dtype=np.int64), ["a$x_$", "$\\frac$"], "$^$", tmp_path / "matrix.png")
    assert (tmp_path / "matrix.png").stat().st_size > 0


def test_samples_are_drawn_for_few_images_too(tmp_path: Path) -> None:
    save_samples(np.zeros((2, 8, 8, 3), np.uint8), ["one", "two"], np.array([True, False]), tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        colours = set(map(tuple, np.asarray(picture.convert("RGB")).reshape(-1, 3).tolist()))
    assert (44, 160, 44) in colours, "green: right"
    assert (214, 39, 40) in colours, "red: wrong"
