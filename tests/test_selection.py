"""Which epoch is kept: by the labels that may be used, or by what the teachers say together."""

import math
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from amalgam import selection
from amalgam.blocks import LabelBlocks
from amalgam.dataset import LabelSets, PreparedSplit, visible_labels
from amalgam.fitting import fitted_target
from amalgam.inference import predict_logits
from amalgam.losses import distillation
from amalgam.models import Classifier
from amalgam.preprocessing import Preprocessing
from amalgam.selection import SelectionRules, agreed_classes, scored, teachers_consensus, validate
from amalgam.soft_targets import TargetRules
from amalgam.students import Architecture, new_student
from amalgam.target_names import Target
from amalgam.teaching import TrainingSubset
from amalgam.validation import Validation
from conftest import SETS
from foreign_teachers import MEAN, STD
from untrained_teachers import TEACHING, VIEWS, Teachers, stored, untrained_teachers

pytestmark = pytest.mark.usefixtures("root")

SHARING = LabelSets(("a", "b", "c", "d", "e"), {"first": ("a", "b"), "second": ("b", "c", "d"), "third": ("a", "d", "e")})


@pytest.fixture
def teachers() -> Teachers:
    return untrained_teachers()


def test_the_epoch_is_chosen_by_the_labels_that_may_be_seen(
    split: PreparedSplit, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All: their accuracy. Some, or few: the accuracy on these. None: agreement with the teachers' mean over the union."""
    targets = stored(split, teachers, tmp_path / "targets")
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, split, 0)
    rows = split.validation_rows
    logits, labels = predict_logits(student, split.images, rows), split.labels[rows]

    def found(fraction: float, latest_of_few: bool = True) -> Validation:
        rules = SelectionRules(fraction, TargetRules("mean", 1.0, False, 1.0), VIEWS.data_seed, latest_of_few)
        result = validate(student, split.images, split, SETS, rules, agreed_classes(targets, SETS, rules))
        assert result is not None
        assert result.accuracy == pytest.approx((logits.argmax(1) == labels).mean())
        return result

    few = found(1.0)
    assert few.score == pytest.approx(few.accuracy)
    assert found(1.0, latest_of_few=False).score is None
    monkeypatch.setattr(selection, "FEW", len(rows) - 1)
    assert found(1.0).score is None
    visible = visible_labels(labels, SETS.classes, 0.5, VIEWS.data_seed) >= 0
    some, right = found(0.5), (logits.argmax(1) == labels)[visible]
    assert some.score == pytest.approx(right.mean())
    likely = (right.sum() + 2) / (len(right) + 4)
    assert some.error == pytest.approx(math.sqrt(likely * (1 - likely) / (len(right) + 4)))
    theirs = targets.validation_logits().astype(np.float64)
    padded = np.zeros((len(rows), 3))
    for columns, block in (([0, 1], theirs[:, :2]), ([1, 2], theirs[:, 2:])):
        shares = np.exp(block) / np.exp(block).sum(1, keepdims=True)
        padded[:, columns] += shares / 2
    for at_a_time in (4096, 5):
        monkeypatch.setattr(selection, "ROWS_AT_A_TIME", at_a_time)
        assert found(0.0).score == pytest.approx((logits.argmax(1) == padded.argmax(1)).mean())


@pytest.mark.parametrize(("count", "few"), [(500, True), (501, False)])
def test_few_labels_are_at_most_five_hundred(count: int, few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.arange(count) % 3
    split = PreparedSplit(np.zeros((count, 1, 1, 3), np.uint8), labels, np.ones(count, bool), [""] * count, "x")
    monkeypatch.setattr(selection, "predict_logits", lambda *_, **__: np.eye(3, dtype=np.float32)[labels])
    student = Classifier("ReferenceCNN", torch.nn.Identity(), SETS.classes, Preprocessing((1, 1), MEAN, STD))
    found = validate(student, split.images, split, SETS, SelectionRules(1.0, TargetRules("mean", 1.0, False, 1.0), 0))
    assert found is not None
    assert (found.score is not None) == few


def test_all_of_few_answers_right_are_not_told_from_all_but_one() -> None:
    before, after = (scored(Validation(0.1, 1.0), np.arange(140) >= wrong) for wrong in (0, 1))
    assert after.score is not None
    assert before.score is not None
    assert 0 < before.score - after.score < before.error


def test_an_epoch_without_labels_is_chosen_by_the_target_that_was_fitted(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, split, 0)
    teaching = replace(TEACHING, label_fraction=0.0, target="balanced")
    balancing = fitted_target(SETS, targets, TrainingSubset.of(split, SETS, targets, teaching), teaching)
    rules = SelectionRules(0.0, TargetRules("balanced", 1.0, False, 1.0), VIEWS.data_seed)
    found = validate(student, split.images, split, SETS, rules, agreed_classes(targets, SETS, rules, balancing))
    theirs = balancing(torch.from_numpy(targets.validation_logits())).argmax(1).numpy()
    assert found is not None
    assert found.score == pytest.approx((predict_logits(student, split.images, split.validation_rows).argmax(1) == theirs).mean())


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(
    ("target", "standardize"), [("blocks", False), *product(("mean", "joint", "confidence"), (False, True))]
)  # of standardised blocks no estimate says what minimises them
def test_an_epoch_without_labels_agrees_with_teachers_whose_target_the_student_has_learnt(
    target: Target, standardize: bool, temperature: float
) -> None:
    """A student that cannot do better agrees everywhere."""
    logits, blocks = 3 * torch.randn(40, 8, generator=torch.Generator().manual_seed(3)), LabelBlocks.of(SHARING)
    student = torch.zeros(40, len(SHARING.classes), requires_grad=True)
    search = torch.optim.LBFGS([student], max_iter=500, tolerance_grad=1e-9, tolerance_change=0, line_search_fn="strong_wolfe")
    every, unknown = torch.ones(40, 3, dtype=torch.bool), torch.full((40,), -1)
    rules = TargetRules(target, temperature, standardize, confidence_temperature=1.0)

    def loss() -> torch.Tensor:
        search.zero_grad()
        value = distillation(student, logits, every, unknown, blocks, rules, "kl").losses.sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    search.step(loss)  # type: ignore[no-untyped-call]
    agreed = teachers_consensus(logits, SHARING, SelectionRules(0.0, rules, 0))
    assert torch.equal(agreed.argmax(1), student.argmax(1))


@pytest.mark.parametrize("target", ["mean", "joint", "confidence"])
def test_of_two_sure_teachers_an_epoch_without_labels_agrees_with_the_surer_one(target: Target) -> None:
    sets = LabelSets(("a", "b", "c", "d"), {"t": ("a", "b"), "u": ("c", "d")})
    rules = SelectionRules(0.0, TargetRules(target, 1.0, False, 1.0), 0)
    logits = torch.tensor([[18.0, 0.0, 0.0, 25.0], [25.0, 0.0, 18.0, 0.0]])
    assert teachers_consensus(logits, sets, rules).argmax(1).tolist() == [3, 0]


def test_a_part_of_the_labels_chooses_and_agreement_without_any_has_a_margin(
    split: PreparedSplit, teachers: Teachers, tmp_path: Path
) -> None:
    """The best epoch by the visible labels, the latest in no question; without labels Agresti and Coull's error of the agreement."""
    targets, rows = stored(split, teachers, tmp_path / "targets"), split.validation_rows
    student, labels = new_student(Architecture("MobileNetV3", 32, False), SETS, split, 0), split.labels[rows]
    predicted = predict_logits(student, split.images, rows).argmax(1)

    def found(fraction: float, latest: bool) -> Validation:
        rules = SelectionRules(fraction, TargetRules("mean", 1.0, False, 1.0), VIEWS.data_seed, latest)
        result = validate(student, split.images, split, SETS, rules, agreed_classes(targets, SETS, rules))
        assert result is not None
        return result

    visible = visible_labels(labels, SETS.classes, 0.5, VIEWS.data_seed) >= 0
    assert found(0.5, latest=False).score == pytest.approx((predicted == labels)[visible].mean())
    none = found(0.0, latest=True)
    assert none.score is not None
    likely = (round(none.score * len(rows)) + 2) / (len(rows) + 4)
    assert none.error == pytest.approx(math.sqrt(likely * (1 - likely) / (len(rows) + 4)))
