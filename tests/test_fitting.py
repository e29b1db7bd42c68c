"""Targets that are fitted: to which images, and by which labels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from amalgam import fitting
from amalgam.balancing import fit_balancing
from amalgam.blocks import LabelBlocks
from amalgam.combination import read_fitted, write_fitted
from amalgam.dataset import PreparedSplit
from amalgam.fitting import fitted_target, sampled
from amalgam.stacking import fit_stacking
from amalgam.target_names import FITTED_TARGETS, Target
from amalgam.targets import StoredTargets
from amalgam.teaching import TrainingSubset
from conftest import SETS
from untrained_teachers import TEACHING, Teachers, stored, untrained_teachers

pytestmark = pytest.mark.usefixtures("root")


@pytest.fixture
def teachers() -> Teachers:
    return untrained_teachers()


def test_stacking_is_fitted_on_visible_labels_alone(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    """On every stored view of the images whose label may be used."""
    targets = stored(split, teachers, tmp_path / "targets")
    subset = TrainingSubset.of(split, SETS, targets, replace(TEACHING, label_fraction=0.5, target="stacked"))
    visible = np.flatnonzero(subset.labels >= 0)
    logits = np.concatenate([targets.logits(view)[visible] for view in range(3)])
    expected = fit_stacking(logits, np.tile(subset.labels[visible], 3), views=3)
    np.testing.assert_allclose(fitted(targets, subset, "stacked"), expected(torch.from_numpy(all_logits(targets))), atol=1e-5)


@pytest.mark.parametrize("label_fraction", [0.0, 0.5])
def test_balancing_is_fitted_on_all_images_and_on_no_label(
    label_fraction: float, split: PreparedSplit, teachers: Teachers, tmp_path: Path
) -> None:
    """Also where some have one."""
    targets = stored(split, teachers, tmp_path / "targets")
    subset = TrainingSubset.of(split, SETS, targets, replace(TEACHING, label_fraction=label_fraction, target="balanced"))
    expected = fit_balancing(all_logits(targets), LabelBlocks.of(SETS), TEACHING.temperature)
    np.testing.assert_allclose(fitted(targets, subset, "balanced"), expected(torch.from_numpy(all_logits(targets))), atol=1e-5)


def test_stacking_takes_as_many_views_as_the_labelled_images_leave_room_for(
    split: PreparedSplit, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 images in all, twelve with a label are two views of them."""
    monkeypatch.setattr(fitting, "MOST_FITTED", 24)
    targets = stored(split, teachers, tmp_path / "targets")
    subset = TrainingSubset.of(split, SETS, targets, replace(TEACHING, label_fraction=0.5, target="stacked"))
    visible = np.flatnonzero(subset.labels >= 0)
    assert len(visible) == 12
    logits = np.concatenate([targets.logits(view)[visible] for view in (0, 1)])
    expected = fit_stacking(logits, np.tile(subset.labels[visible], 2), views=2)
    np.testing.assert_allclose(fitted(targets, subset, "stacked"), expected(torch.from_numpy(all_logits(targets))), atol=1e-5)


@pytest.mark.parametrize("target", FITTED_TARGETS)
def test_a_target_is_fitted_to_a_sample_of_many_images(
    target: Target, split: PreparedSplit, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 images, at most 12: the same 12 every time, in one view."""
    monkeypatch.setattr(fitting, "MOST_FITTED", 12)
    targets = stored(split, teachers, tmp_path / "targets")
    subset = TrainingSubset.of(split, SETS, targets, TEACHING)
    chosen = sampled(np.arange(24), subset.labels)
    assert len(chosen) == len(set(chosen)) == 12
    logits = targets.logits(0)[chosen]
    stacking, balancing = fit_stacking(logits, subset.labels[chosen]), fit_balancing(logits, LabelBlocks.of(SETS), TEACHING.temperature)
    expected = stacking if target == "stacked" else balancing
    np.testing.assert_allclose(fitted(targets, subset, target), expected(torch.from_numpy(all_logits(targets))), atol=1e-5)


@pytest.mark.parametrize("target", FITTED_TARGETS)
def test_what_a_student_was_taught_by_is_kept(target: Target, split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    assert read_fitted(tmp_path, SETS) is None
    targets = stored(split, teachers, tmp_path / "targets")
    found = fitted_target(SETS, targets, TrainingSubset.of(split, SETS, targets, TEACHING), replace(TEACHING, target=target))
    write_fitted(found, tmp_path)
    kept = read_fitted(tmp_path, SETS)
    assert type(kept) is type(found)
    logits = torch.from_numpy(all_logits(targets))
    assert kept is not None
    assert torch.equal(kept(logits), found(logits))


def test_a_sample_misses_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 images of one class and one of each of five others."""
    monkeypatch.setattr(fitting, "MOST_FITTED", 20)
    labels = np.append(np.zeros(1000, dtype=np.int64), np.arange(6))
    chosen = sampled(np.flatnonzero(labels >= 0), labels)
    assert set(labels[chosen]) == set(range(6))
    assert len(chosen) == len(set(chosen)) == 20
    assert (np.diff(chosen) > 0).all()
    np.testing.assert_array_equal(chosen, sampled(np.flatnonzero(labels >= 0), labels))


def all_logits(targets: StoredTargets) -> np.ndarray:
    return np.concatenate([targets.logits(view) for view in range(3)])


def fitted(targets: StoredTargets, subset: TrainingSubset, target: Target) -> np.ndarray:
    """What a fitted target makes of every stored answer."""
    return fitted_target(SETS, targets, subset, replace(TEACHING, target=target))(torch.from_numpy(all_logits(targets))).numpy()
