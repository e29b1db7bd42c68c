"""What a student learns from: which images, and which of their labels."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amalgam.dataset import PreparedSplit, visible_labels
from amalgam.distilling import epoch_batches, student_loss
from amalgam.errors import UserError
from amalgam.optimization import Optimization
from amalgam.params_file import load_params
from amalgam.teaching import Teaching, TrainingSubset
from conftest import ROOT, SETS
from untrained_teachers import TEACHING, VIEWS, Teachers, stored, untrained_teachers

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def teachers() -> Teachers:
    return untrained_teachers()


def test_optimization_and_teaching_are_the_settings_of_their_names() -> None:
    """But for the number of epochs, whose setting has a longer one."""
    changes = {"lr": 0.5, "scheduler_step": 3, "num_epochs": 7, "clip_norm": 2.0, "mixup": 0.3, "batch_size": 9, "target": "joint"}
    settings = load_params(ROOT / "params.yaml").student("taskA").model_copy(update=changes)
    values = settings.model_dump() | {"epochs": 7}
    for found in (Optimization.of(settings), Teaching.of(settings)):
        assert asdict(found) == {name: values[name] for name in asdict(found)}


def test_images_without_any_label_need_settings_without(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    bare = replace(split, validation=np.zeros_like(split.validation), labels=np.full_like(split.labels, -1))
    targets = stored(bare, teachers, tmp_path / "targets")
    with pytest.raises(UserError, match="no training image of the task has a label; set label_fraction to 0"):
        TrainingSubset.of(bare, SETS, targets, TEACHING)
    with pytest.raises(UserError, match="with alpha 0 the student learns from labels alone; bring some, or raise alpha"):
        TrainingSubset.of(bare, SETS, targets, replace(TEACHING, alpha=0.0))


def test_a_single_training_image_is_refused(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    alone = replace(split, validation=np.arange(len(split.labels)) > 0, labels=np.full_like(split.labels, -1))
    targets = stored(alone, teachers, tmp_path / "targets")
    with pytest.raises(UserError, match="there is one training image, and a network's normalisation compares two or more; bring more"):
        TrainingSubset.of(alone, SETS, targets, replace(TEACHING, label_fraction=0.0))


def test_only_visible_labels_are_handed_on(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    teaching = replace(TEACHING, label_fraction=0.3, batch_size=24)
    subset = TrainingSubset.of(split, SETS, targets, teaching)
    rows = split.training_rows
    np.testing.assert_array_equal(subset.image_rows, rows)
    np.testing.assert_array_equal(subset.labels, visible_labels(split.labels[rows], SETS.classes, 0.3, VIEWS.data_seed))
    batch = next(epoch_batches(split.images, targets, subset, teaching, 0))
    assert int((batch.labels >= 0).sum()) == 3 * round(0.3 * 8)


def test_a_label_only_student_of_few_labels_sees_no_other_image(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    subset = TrainingSubset.of(split, SETS, targets, replace(TEACHING, alpha=0.0, label_fraction=0.5))
    assert len(subset.image_rows) == 12
    np.testing.assert_array_equal(subset.labels, split.labels[subset.image_rows])
    np.testing.assert_array_equal(split.training_rows[subset.target_rows], subset.image_rows)


def test_images_without_label_are_learnt_from_every_teacher(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    """Also where only covering teachers are stored for the others; a label-only student leaves them out."""
    labels = np.where(np.arange(30) % 5 == 1, -1, split.labels)
    mixed = PreparedSplit(split.images, labels, split.validation, split.names, split.content)
    targets = stored(mixed, teachers, tmp_path / "targets", covering=True)
    rows = mixed.training_rows
    assert np.isfinite(targets.logits(0)[labels[rows] < 0]).all()
    subset = TrainingSubset.of(mixed, SETS, targets, TEACHING)
    np.testing.assert_array_equal(subset.labels, labels[rows])
    assert (TrainingSubset.of(mixed, SETS, targets, replace(TEACHING, alpha=0.0)).labels >= 0).all()
    batch = next(epoch_batches(mixed.images, targets, subset, replace(TEACHING, batch_size=24), 0))
    watched = student_loss(SETS, TEACHING)(torch.zeros(24, 3), batch).watched
    unlabelled = int((labels[rows] < 0).sum())
    green = int((labels[rows] == 1).sum())
    assert int(watched["teacher_divergence/cold"][1]) == unlabelled + green + int((labels[rows] == 0).sum())


def test_few_labels_and_covering_teachers_are_refused(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    with pytest.raises(UserError, match=r"holds covering teachers only, .* blocks needs all; set stored_teachers to all"):
        TrainingSubset.of(split, SETS, targets, replace(TEACHING, label_fraction=0.5))
    with pytest.raises(UserError, match=r"holds covering teachers only, .* stacked needs all; set stored_teachers to all"):
        TrainingSubset.of(split, SETS, targets, replace(TEACHING, target="stacked"))


def test_a_share_that_hides_no_label_leaves_blocks_alone_as_little_to_compare_as_every_label(
    split: PreparedSplit, teachers: Teachers, tmp_path: Path
) -> None:
    targets, alone = stored(split, teachers, tmp_path / "targets"), replace(TEACHING, alpha=1.0, target="blocks")
    with pytest.raises(UserError, match=r"with label_fraction 0.99 every training image has its label; target blocks with alpha 1 asks"):
        TrainingSubset.of(split, SETS, targets, replace(alone, label_fraction=0.99))
    assert (TrainingSubset.of(split, SETS, targets, replace(alone, label_fraction=0.5)).labels < 0).any()
