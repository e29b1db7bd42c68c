"""Stored targets and students: the student sees exactly what the teachers saw."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.models import Classifier, Preprocessing, build_network
from amalgam.students import Architecture, load_student, new_student, train_student, view_of_epoch, write_history, write_student
from amalgam.targets import StoredTargets, ViewSettings, write_targets
from amalgam.trainer import Epoch, Fit, Optimization
from conftest import SETS, colour_split

VIEWS = ViewSettings(views=3, crop=2, flip=True, data_seed=5)
Teachers = dict[str, tuple[Classifier, str]]


@pytest.fixture(autouse=True)
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))


@pytest.fixture
def split() -> PreparedSplit:
    return colour_split(10, 40, 5)


@pytest.fixture
def teachers() -> Teachers:
    torch.manual_seed(0)
    made = {}
    for name, classes in SETS.teachers.items():
        how = Preprocessing((8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
        made[name] = (Classifier("ReferenceCNN", build_network("ReferenceCNN", len(classes)), classes, how), f"sha-{name}")
    return made


def stored(split: PreparedSplit, teachers: Teachers, folder: Path, covering: bool = False, views: ViewSettings = VIEWS) -> StoredTargets:
    write_targets(folder, split, SETS, teachers, views, covering)
    return StoredTargets.read(folder, split, SETS)


def test_stored_logits_are_the_live_teachers_on_the_view_the_student_gets(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    for epoch in range(4):
        seen = 0
        for batch in view_of_epoch(split, targets, 7, 1, epoch):
            with torch.inference_mode():
                live = torch.cat([teacher.logits(batch.images) for teacher, _ in teachers.values()], dim=1)
            assert batch.teacher_logits is not None
            torch.testing.assert_close(batch.teacher_logits.float(), live, atol=0.03, rtol=0.03)  # bfloat16 in batches of another size
            seen += len(batch.labels)
        assert seen == 24


def test_epoch_e_sees_view_e_mod_views_in_an_order_of_its_own(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    epochs = [next(iter(view_of_epoch(split, targets, 24, 1, epoch))) for epoch in range(4)]
    contents = [sorted(image.numpy().tobytes() for image in batch.images) for batch in epochs]
    assert contents[0] == contents[3]
    assert contents[0] != contents[1]
    assert not torch.equal(epochs[0].images, epochs[3].images)


def test_validation_images_are_never_trained_on(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", views=ViewSettings(1, 0, False, 0))
    trained = {image.numpy().tobytes() for batch in view_of_epoch(split, targets, 5, 1, 0) for image in batch.images}
    assert trained == {image.tobytes() for image in split.images[~split.validation]}


def test_covering_stores_only_the_teachers_that_know_the_class(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    everyone = stored(split, teachers, tmp_path / "all")
    covering = stored(split, teachers, tmp_path / "covering", covering=True)
    labels = split.labels[split.training_rows]
    for view in range(3):
        known = np.repeat(SETS.covering().T, 2, axis=1)[labels]
        assert np.isfinite(everyone.logits(view)).all()
        np.testing.assert_array_equal(np.isfinite(covering.logits(view)), known)
        np.testing.assert_allclose(covering.logits(view)[known], everyone.logits(view)[known], atol=0.03, rtol=0.03)


def test_more_views_cost_only_the_new_ones(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    stored(split, teachers, tmp_path / "three")
    before = {file.parent.name: file.stat().st_mtime_ns for file in (tmp_path / ".amalgam" / "views").rglob("logits.npy")}
    assert len(before) == 6
    stored(split, teachers, tmp_path / "five", views=ViewSettings(5, 2, True, 5))
    after = {file.parent.name: file.stat().st_mtime_ns for file in (tmp_path / ".amalgam" / "views").rglob("logits.npy")}
    assert len(after) == 10
    assert {key: after[key] for key in before} == before


def test_whatever_determines_a_views_logits_is_in_its_key(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    (cold, sha256), bright = teachers["cold"], teachers["bright"]
    other_input = Classifier(cold.architecture, cold.network, cold.classes, Preprocessing((8, 8), (0.4,) * 3, (0.2,) * 3))
    other_images = PreparedSplit(split.images, split.labels, split.validation, split.names, "other content")

    def entries() -> int:
        return len(list((tmp_path / ".amalgam" / "views").glob("*/logits.npy")))

    stored(split, teachers, tmp_path / "targets", views=ViewSettings(1, 2, True, 5))
    for number, (images, changed, views) in enumerate(
        (
            (split, {"cold": (cold, "other weights"), "bright": bright}, ViewSettings(1, 2, True, 5)),
            (split, {"cold": (other_input, sha256), "bright": bright}, ViewSettings(1, 2, True, 5)),
            (other_images, teachers, ViewSettings(1, 2, True, 5)),
            (split, teachers, ViewSettings(1, 1, True, 5)),
            (split, teachers, ViewSettings(1, 2, False, 5)),
            (split, teachers, ViewSettings(1, 2, True, 6)),
        )
    ):
        before = entries()
        write_targets(tmp_path / f"targets{number}", images, SETS, changed, views, False)
        assert entries() > before, f"change {number} went unnoticed"


def test_targets_of_other_images_or_teachers_are_refused(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    stored(split, teachers, tmp_path / "targets")
    other = PreparedSplit(split.images, split.labels, split.validation, split.names, "other content")
    with pytest.raises(UserError, match="other images or another split"):
        StoredTargets.read(tmp_path / "targets", other, SETS)
    with pytest.raises(UserError, match="other teachers or classes"):
        StoredTargets.read(tmp_path / "targets", split, LabelSets(SETS.classes, {"cold": ("blue", "green")}))


def trained(split: PreparedSplit, targets: StoredTargets, alpha: float = 0.5, seed: int = 3) -> tuple[Classifier, Fit]:
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, split, seed)
    how = Optimization("adamw", 0.003, 0.01, "one_cycle", 2)
    return student, train_student(student, SETS, split, targets, how, 8, alpha, 4.0, seed)


def test_a_student_repeats_bit_for_bit_and_seeds_differ(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    _, first = trained(split, targets)
    torch.rand(3)
    _, second = trained(split, targets)
    torch.testing.assert_close(first.last, second.last, rtol=0, atol=0)
    assert [r.validation for r in first.history] == [r.validation for r in second.history]
    _, other = trained(split, targets, seed=4)
    assert not torch.equal(first.last["backbone.classifier.3.weight"], other.last["backbone.classifier.3.weight"])


def test_the_loss_terms_are_logged_by_name(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    assert trained(split, targets, 0.5)[1].history[0].terms.keys() == {"labels", "distillation"}
    assert trained(split, targets, 0.0)[1].history[0].terms.keys() == {"labels"}


def test_a_history_without_validation_keeps_the_columns_that_plots_name(tmp_path: Path) -> None:
    write_history([Epoch(1, 0.1, 0.5, 0.75, {"labels": 0.5})], tmp_path / "history.csv")
    header, row = (tmp_path / "history.csv").read_text().splitlines()
    assert header == "epoch,train_loss,train_accuracy,lr,train_loss_labels,val_loss,val_accuracy"
    assert row == "1,0.5,75.0,0.1,0.5,,"


def test_a_students_folder_holds_best_last_and_history(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    student, result = trained(split, targets)
    write_student(student, result, "taskX", {"settings": {"alpha": 0.5}}, tmp_path / "student")
    again = load_student(tmp_path / "student", SETS)
    torch.testing.assert_close(again.network.state_dict(), result.best, rtol=0, atol=0)
    with pytest.raises(UserError, match="knows blue, green, red, but the task says blue, red"):
        load_student(tmp_path / "student", LabelSets(("blue", "red"), {}))
    with (tmp_path / "student" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["train_loss"]) == pytest.approx(float(rows[1]["train_loss_labels"]) + float(rows[1]["train_loss_distillation"]))
    metrics = json.loads((tmp_path / "student" / "metrics.json").read_text())["taskX"]
    assert metrics["val_accuracy"] == round(float(rows[metrics["best_epoch"] - 1]["val_accuracy"]), 2)
