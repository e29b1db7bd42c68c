"""Stored targets: what the teachers say of each view, kept once and never mistaken for another's."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.inference import predict_logits
from amalgam.params import TeacherSettings
from amalgam.params_file import load_params
from amalgam.preprocessing import Preprocessing
from amalgam.source_settings import Augmentation
from amalgam.storable import storable
from amalgam.targets import NOT_THE_TEACHERS, StoredTargets, ViewSettings, write_targets
from amalgam.views import draw_view
from conftest import ROOT, SETS
from untrained_teachers import NOISE, VIEWS, Teachers, stored, untrained_teachers

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def teachers() -> Teachers:
    return untrained_teachers()


def test_covering_stores_only_the_teachers_that_know_the_class(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    everyone = stored(split, teachers, tmp_path / "all")
    covering = stored(split, teachers, tmp_path / "covering", covering=True)
    labels = split.labels[split.training_rows]
    for view in range(3):
        known = np.repeat(SETS.covering().T, 2, axis=1)[labels]
        assert np.isfinite(everyone.logits(view)).all()
        np.testing.assert_array_equal(np.isfinite(covering.logits(view)), known)
        np.testing.assert_allclose(covering.logits(view)[known], everyone.logits(view)[known], atol=NOISE, rtol=NOISE)


@pytest.mark.parametrize("covering", [True, False])
def test_logits_are_written_a_few_rows_at_a_time(
    split: PreparedSplit, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, covering: bool
) -> None:
    at_once = stored(split, teachers, tmp_path / "once" / "targets", covering=covering)
    expected = [at_once.logits(0), at_once.validation_logits()]
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "few"))
    monkeypatch.setattr("amalgam.targets.ROWS_AT_A_TIME", 5)
    few = stored(split, teachers, tmp_path / "few" / "targets", covering=covering)
    for found, whole in zip([few.logits(0), few.validation_logits()], expected, strict=True):
        np.testing.assert_allclose(found, whole, atol=NOISE, rtol=NOISE)


def test_more_views_cost_only_the_new_ones(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    stored(split, teachers, tmp_path / "three")
    before = {file.parent.name: file.stat().st_mtime_ns for file in (tmp_path / ".amalgam" / "views").rglob("logits.npy")}
    assert len(before) == 6 + 2, "two teachers on three views and on the validation images"
    stored(split, teachers, tmp_path / "five", views=ViewSettings(5, 2, True, 5))
    after = {file.parent.name: file.stat().st_mtime_ns for file in (tmp_path / ".amalgam" / "views").rglob("logits.npy")}
    assert len(after) == 10 + 2
    assert {key: after[key] for key in before} == before


def test_whatever_determines_a_views_logits_is_in_its_key(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    cold, bright = teachers["cold"], teachers["bright"]
    other_input = Preprocessing((8, 8), (0.4,) * 3, (0.2,) * 3)
    other_images = PreparedSplit(split.images, split.labels, split.validation, split.names, "other content")

    def entries() -> int:
        return len(list((tmp_path / ".amalgam" / "views").glob("*/logits.npy")))

    stored(split, teachers, tmp_path / "targets", views=ViewSettings(1, 2, True, 5))
    for number, (images, changed, views) in enumerate(
        (
            (split, {"cold": replace(cold, weights_sha256="other weights"), "bright": bright}, ViewSettings(1, 2, True, 5)),
            (split, {"cold": replace(cold, preprocessing=other_input), "bright": bright}, ViewSettings(1, 2, True, 5)),
            (split, {"cold": replace(cold, exact=True), "bright": bright}, ViewSettings(1, 2, True, 5)),
            (other_images, teachers, ViewSettings(1, 2, True, 5)),
            (split, teachers, ViewSettings(1, 1, True, 5)),
            (split, teachers, ViewSettings(1, 2, False, 5)),
            (split, teachers, ViewSettings(1, 2, True, 6)),
            (split, teachers, ViewSettings(1, 2, True, 5, zoom=0.5)),
            (split, teachers, ViewSettings(1, 2, True, 5, colour=0.1)),
        )
    ):
        before = entries()
        write_targets(tmp_path / f"targets{number}", images, SETS, changed, views, "all")
        assert entries() > before, f"change {number} went unnoticed"


@pytest.mark.parametrize("changed", ["execution_record", "code_hash"])
def test_logits_of_another_execution_or_code_are_not_taken(
    changed: str, split: PreparedSplit, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def entries() -> int:
        return len(list((tmp_path / ".amalgam" / "views").glob("*/logits.npy")))

    stored(split, teachers, tmp_path / "targets")
    before = entries()
    monkeypatch.setattr(f"amalgam.targets.{changed}", lambda *_: "another")
    stored(split, teachers, tmp_path / "again")
    assert entries() == 2 * before


def test_the_targets_say_how_each_teacher_saw_the_images(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    """A training's checkpoint is told apart by what they say: the same weights, seen otherwise, are another teacher."""
    cold = teachers["cold"]
    otherwise = replace(cold.preprocessing, std=(0.5, 0.5, 0.5))
    changed = {"as it was": cold, "seen otherwise": replace(cold, preprocessing=otherwise), "other outputs": replace(cold, order=(1, 0))}
    said = set()
    for name, teacher in changed.items():
        stored(split, teachers | {"cold": teacher}, tmp_path / name)
        said.add((tmp_path / name / "targets.json").read_text())
    assert len(said) == 3


def test_targets_of_other_images_or_teachers_are_refused(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    stored(split, teachers, tmp_path / "targets")
    other = PreparedSplit(split.images, split.labels, split.validation, split.names, "other content")
    with pytest.raises(UserError, match="other images or another split"):
        StoredTargets.read(tmp_path / "targets", other, SETS)
    with pytest.raises(UserError, match="other teachers or classes"):
        StoredTargets.read(tmp_path / "targets", split, LabelSets(SETS.classes, {"cold": ("blue", "green")}))
    with pytest.raises(UserError, match="or of these in another order"):
        StoredTargets.read(tmp_path / "targets", split, LabelSets(SETS.classes, dict(reversed(SETS.teachers.items()))))


def test_targets_of_other_views_than_a_training_asks_for_are_refused(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    """A training that was told so alone (dvc repro --single-item) would note settings under which it did not learn."""
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    targets.check_made_with(VIEWS, "covering")
    with pytest.raises(UserError, match=r"targets was made with views 3, the settings say 9; run dvc repro"):
        targets.check_made_with(replace(VIEWS, views=9), "covering")
    with pytest.raises(UserError, match=r"made with stored_teachers covering, the settings say all"):
        targets.check_made_with(VIEWS, "all")


def test_targets_of_another_teacher_than_the_one_at_hand_are_refused(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    targets.check_made_by(tmp_path / "models")
    for name, teacher in teachers.items():
        (tmp_path / "models" / name).mkdir(parents=True)
        own = teacher.identity() | {"origin": "trained"}
        (tmp_path / "models" / name / "manifest.json").write_text(json.dumps(own))
    targets.check_made_by(tmp_path / "models")
    for changed in ({"weights_sha256": "another"}, {"preprocessing": own["preprocessing"] | {"mean": [0.1, 0.2, 0.3]}}):
        (tmp_path / "models" / name / "manifest.json").write_text(json.dumps(own | changed))
        with pytest.raises(UserError, match=f"targets holds what another {name} said than the teacher in .*models/{name}; run dvc repro"):
            targets.check_made_by(tmp_path / "models")


def test_the_student_is_shown_no_view_on_which_a_teacher_of_the_same_seed_was_trained() -> None:
    """Teachers draw theirs by the same seed, for epochs from 0."""
    theirs = [draw_view(60, epoch, VIEWS.data_seed, VIEWS.crop, VIEWS.flip) for epoch in range(3)]
    mine = VIEWS.view(0, 60)
    assert not any(np.array_equal(mine.shift_x, view.shift_x) for view in theirs)
    (most,) = (rule.le for rule in TeacherSettings.model_fields["num_epochs"].metadata if hasattr(rule, "le"))
    assert most < NOT_THE_TEACHERS, "however long it was trained"


def test_views_are_those_of_the_settings() -> None:
    settings = load_params(ROOT / "params.yaml").student("taskA").model_copy(update={"views": 3, "view_zoom": 0.5, "view_colour": 0.2})
    found = ViewSettings.of(settings, Augmentation(crop=2, flip=True), 7)
    assert asdict(found) == {"views": 3, "crop": 2, "flip": True, "data_seed": 7, "zoom": 0.5, "colour": 0.2}


def test_a_logit_that_cannot_be_stored_is_named(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    with torch.no_grad():
        for parameter in list(teachers["cold"].network.parameters())[-2:]:
            parameter.mul_(1e8)
    with pytest.raises(UserError, match=r"the teacher of blue, green gives a logit of \S+ \(ReferenceCNN\), and 1024 is the largest"):
        stored(split, teachers, tmp_path / "targets")


@pytest.mark.parametrize("logit", [np.nan, np.inf])
def test_a_logit_that_is_no_number_is_refused_as_such(logit: float, teachers: Teachers) -> None:
    with pytest.raises(UserError, match="the teacher of blue, green gives logits that are not finite"):
        storable(np.array([[0, logit]], dtype=np.float32), teachers["cold"])


@pytest.mark.parametrize(
    ("logits", "precise"), [([1000.24, 1000.0], False), ([30.2, 30.0], True), ([900.0, 100.0], True), ([100.03, 100.0], True)]
)
def test_what_a_store_would_make_of_probabilities_is_what_counts(logits: list[float], precise: bool, teachers: Teachers) -> None:
    """Between 512 and 1024 half precision knows no quarters: it would make 0.50 of 0.56."""
    answers = np.array([logits], dtype=np.float32)
    if precise:
        np.testing.assert_allclose(storable(answers, teachers["cold"]).astype(np.float32), answers, rtol=1e-3)
    else:
        with pytest.raises(UserError, match=r"the teacher of blue, green gives logits .* by which a probability would be off by 0\.06"):
            storable(answers, teachers["cold"])


def test_a_program_of_sigmoids_is_refused(teachers: Teachers) -> None:
    """A student of it would learn 0.39 where the same teacher's logits say 0.98. Another network's may be logits that say little."""
    classifier, answers = teachers["cold"], np.array([[0.99, 0.01], [0.2, 1.0]], dtype=np.float32)
    storable(answers, classifier)
    program = replace(classifier, architecture="program")
    with pytest.raises(
        UserError, match=r"blue, green gives values from 0 to 1 alone, as after a sigmoid .*; export it without, or torch\.logit"
    ):
        storable(answers, program)
    for other in ([[0.99, -0.01]], [[1.01, 0.0]], np.zeros((0, 2))):
        storable(np.array(other, dtype=np.float32), program)


def test_stored_validation_logits_are_every_teachers_on_the_images_as_they_are(
    split: PreparedSplit, teachers: Teachers, tmp_path: Path
) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    rows = split.validation_rows
    live = np.concatenate([predict_logits(teacher, split.images, rows) for teacher in teachers.values()], axis=1)
    np.testing.assert_allclose(targets.validation_logits(), live, atol=NOISE, rtol=NOISE)
