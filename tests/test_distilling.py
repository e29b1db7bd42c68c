"""Training on stored targets: the student sees exactly what the teachers saw, and no label that it may not see."""

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.nn import functional

from amalgam import distilling, selection
from amalgam.balancing import fit_balancing
from amalgam.batches import Batch
from amalgam.dataset import LabelSets, PreparedSplit, visible_labels
from amalgam.distilling import Teaching, TrainingSubset, fitted_target, sampled, student_loss, train_student, view_of_epoch
from amalgam.errors import UserError
from amalgam.history import Validation
from amalgam.inference import predict_logits, to_gpu_if_it_fits
from amalgam.losses import LabelBlocks, TargetRules, distillation
from amalgam.models import Classifier
from amalgam.optimization import Optimization
from amalgam.selection import SelectionRules, agreed_classes, scored, teachers_consensus, validate
from amalgam.stacking import fit_stacking
from amalgam.students import Architecture, new_student
from amalgam.target_names import FITTED_TARGETS, Objective, Target
from amalgam.targets import StoredTargets, ViewSettings
from amalgam.trainer import Fit
from conftest import SETS, colour_split
from untrained_teachers import NOISE, VIEWS, Teachers, stored, untrained_teachers

pytestmark = pytest.mark.usefixtures("root")

SHARING = LabelSets(("a", "b", "c", "d", "e"), {"first": ("a", "b"), "second": ("b", "c", "d"), "third": ("a", "d", "e")})
WITHOUT_LABELS = [target for target in get_args(Target) if target != "stacked"]
TEACHING = Teaching(
    alpha=0.5,
    temperature=4.0,
    target="blocks",
    objective="kl",
    standardize_logits=False,
    confidence_temperature=1.0,
    label_fraction=1.0,
    label_smoothing=0.0,
    mixup=0.0,
    batch_size=8,
    seed=1,
)


@pytest.fixture
def split() -> PreparedSplit:
    return colour_split(10, 40, 5)


@pytest.fixture
def teachers() -> Teachers:
    return untrained_teachers()


def batches_of(split: PreparedSplit, targets: StoredTargets, batch_size: int, epoch: int) -> Iterator[Batch]:
    teaching = replace(TEACHING, batch_size=batch_size)
    return view_of_epoch(split.images, targets, TrainingSubset.of(split, SETS.classes, targets, teaching), teaching, epoch)


@pytest.mark.parametrize("views", [VIEWS, replace(VIEWS, zoom=0.5, colour=0.3)], ids=["shifted", "strong"])
def test_stored_logits_are_the_live_teachers_on_the_view_the_student_gets(
    split: PreparedSplit, teachers: Teachers, views: ViewSettings, tmp_path: Path
) -> None:
    targets = stored(split, teachers, tmp_path / "targets", views=views)
    answers = [targets.logits(view).astype(np.float32) for view in range(3)]
    for view in range(3):
        others = np.abs(answers[view] - answers[(view + 1) % 3])
        assert np.median(others) > 5 * NOISE, "the teachers tell views apart, so a wrong view would be noticed"
        assert np.median(np.abs(answers[view] - np.roll(answers[view], 1, axis=0))) > 5 * NOISE, "and images"
    for epoch in range(4):
        seen = 0
        for batch in batches_of(split, targets, 7, epoch):
            with torch.inference_mode():
                live = torch.cat([teacher.logits(batch.images) for teacher, _ in teachers.values()], dim=1)
            assert batch.teacher_logits is not None
            torch.testing.assert_close(batch.teacher_logits.float(), live, atol=NOISE, rtol=NOISE)
            seen += len(batch.labels)
        assert seen == 24


def test_epoch_e_sees_view_e_mod_views_in_an_order_of_its_own(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    epochs = [next(iter(batches_of(split, targets, 24, epoch))) for epoch in range(4)]
    contents = [sorted(image.numpy().tobytes() for image in batch.images) for batch in epochs]
    assert contents[0] == contents[3]
    assert contents[0] != contents[1]
    assert not torch.equal(epochs[0].images, epochs[3].images)


def test_images_that_lie_whole_on_the_device_give_the_same_batches(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    subset = TrainingSubset.of(split, SETS.classes, targets, TEACHING)
    whole = torch.from_numpy(np.array(split.images))
    assert to_gpu_if_it_fits(whole) is whole
    pairs = zip(view_of_epoch(split.images, targets, subset, TEACHING, 1), view_of_epoch(whole, targets, subset, TEACHING, 1), strict=True)
    for mapped, held in pairs:
        assert torch.equal(mapped.images, held.images)
        assert torch.equal(mapped.labels, held.labels)


def test_validation_images_are_never_trained_on(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", views=ViewSettings(1, 0, False, 0))
    trained = {image.numpy().tobytes() for batch in batches_of(split, targets, 5, 0) for image in batch.images}
    assert trained == {image.tobytes() for image in split.images[~split.validation]}


def trained(split: PreparedSplit, targets: StoredTargets, seed: int = 3, epochs: int = 2, **changes: Any) -> tuple[Classifier, Fit]:
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, split, seed)
    how = Optimization("adamw", 0.003, 0.01, "one_cycle", epochs)
    return student, train_student(student, SETS, split, targets, how, replace(TEACHING, seed=seed, **changes))


def test_a_student_repeats_bit_for_bit_and_seeds_differ(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    _, first = trained(split, targets)
    torch.rand(3)
    _, second = trained(split, targets)
    torch.testing.assert_close(first.last, second.last, rtol=0, atol=0)
    assert [r.validation for r in first.history] == [r.validation for r in second.history]
    _, other = trained(split, targets, seed=4)
    assert not torch.equal(first.last["backbone.classifier.3.weight"], other.last["backbone.classifier.3.weight"])


def test_loss_terms_and_teachers_are_logged_by_name(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    record = trained(split, targets)[1].history[0]
    assert record.terms.keys() == {"labels", "distillation"}
    kinds = ("teacher_weight", "teacher_divergence", "teacher_agreement")
    assert record.watched.keys() == {f"{kind}/{name}" for kind in kinds for name in SETS.teachers}
    assert sum(record.watched[f"teacher_weight/{name}"] for name in SETS.teachers) == pytest.approx(1)
    joint = trained(split, targets, target="joint")[1].history[0]
    assert not [name for name in joint.watched if name.startswith("teacher_weight")], "it is no weighted mean"
    alone = trained(split, targets, alpha=0.0)[1].history[0]
    assert alone.terms.keys() == {"labels"}
    assert not alone.watched


@pytest.mark.parametrize("target", get_args(Target))
@pytest.mark.parametrize("objective", get_args(Objective))
def test_every_target_and_objective_trains_with_and_without_labels(
    target: Target, objective: Objective, split: PreparedSplit, teachers: Teachers, tmp_path: Path
) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    for fraction, alpha in ((1.0, 0.5), (0.3, 0.5), (0.0, 1.0)):
        if fraction == 0 and target == "stacked":
            continue
        _, result = trained(split, targets, epochs=1, target=target, objective=objective, label_fraction=fraction, alpha=alpha, mixup=0.2)
        assert math.isfinite(result.history[0].train_loss)


@pytest.mark.parametrize("target", WITHOUT_LABELS)
def test_without_labels_and_validation_images_the_last_epoch_is_kept(
    target: Target, split: PreparedSplit, teachers: Teachers, tmp_path: Path
) -> None:
    every = replace(split, validation=np.zeros_like(split.validation), labels=np.full_like(split.labels, -1))
    targets = stored(every, teachers, tmp_path / "targets")
    _, fit = trained(every, targets, target=target, alpha=1.0, label_fraction=0.0)
    assert (fit.best_epoch, fit.best_record.validation) == (2, None)


def test_labels_alone_need_no_stored_answer(split: PreparedSplit) -> None:
    _, fit = trained(split, StoredTargets(Path("nowhere"), VIEWS, "covering"), alpha=0.0)
    assert fit.best_record.validation is not None


def test_images_without_any_label_need_settings_without(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    bare = replace(split, validation=np.zeros_like(split.validation), labels=np.full_like(split.labels, -1))
    targets = stored(bare, teachers, tmp_path / "targets")
    with pytest.raises(UserError, match="no training image of the task has a label; set label_fraction to 0"):
        TrainingSubset.of(bare, SETS.classes, targets, TEACHING)
    with pytest.raises(UserError, match="with alpha 0 the student learns from labels alone; bring some, or raise alpha"):
        TrainingSubset.of(bare, SETS.classes, targets, replace(TEACHING, alpha=0.0))


def test_without_labels_none_reaches_the_student(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    """Labels permuted before targets are stored and the student is trained: the same weights, the same epoch."""
    labels = np.random.default_rng(1).permutation(split.labels)
    shuffled = PreparedSplit(split.images, labels, split.validation, split.names, "permuted")  # so no answer comes from the store
    ways: list[dict[str, Any]] = [{"target": target, "alpha": 1.0} for target in get_args(Target) if target != "stacked"]
    ways.append({"target": "joint", "alpha": 0.5, "objective": "dkd", "mixup": 0.4, "label_smoothing": 0.1})
    outcomes = []
    for number, images in enumerate((split, shuffled)):
        targets = stored(images, teachers, tmp_path / f"targets{number}")
        outcomes += [trained(images, targets, epochs=3, label_fraction=0.0, **way)[1] for way in ways]
    half = len(outcomes) // 2
    for truth, lie in zip(outcomes[:half], outcomes[half:], strict=True):
        torch.testing.assert_close(truth.best, lie.best, rtol=0, atol=0)
        torch.testing.assert_close(truth.last, lie.last, rtol=0, atol=0)
        assert truth.best_epoch == lie.best_epoch
        assert [r.train_loss for r in truth.history] == [r.train_loss for r in lie.history]
        assert truth.history[0].train_accuracy is None


def test_only_visible_labels_are_handed_on(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    teaching = replace(TEACHING, label_fraction=0.3, batch_size=24)
    subset = TrainingSubset.of(split, SETS.classes, targets, teaching)
    rows = split.training_rows
    np.testing.assert_array_equal(subset.image_rows, rows)
    np.testing.assert_array_equal(subset.labels, visible_labels(split.labels[rows], SETS.classes, 0.3, VIEWS.data_seed))
    batch = next(view_of_epoch(split.images, targets, subset, teaching, 0))
    assert int((batch.labels >= 0).sum()) == 3 * round(0.3 * 8)


def test_a_label_only_student_of_few_labels_sees_no_other_image(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    subset = TrainingSubset.of(split, SETS.classes, targets, replace(TEACHING, alpha=0.0, label_fraction=0.5))
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
    subset = TrainingSubset.of(mixed, SETS.classes, targets, TEACHING)
    np.testing.assert_array_equal(subset.labels, labels[rows])
    assert (TrainingSubset.of(mixed, SETS.classes, targets, replace(TEACHING, alpha=0.0)).labels >= 0).all()
    batch = next(view_of_epoch(mixed.images, targets, subset, replace(TEACHING, batch_size=24), 0))
    watched = student_loss(SETS, TEACHING)(torch.zeros(24, 3), batch).watched
    unlabelled = int((labels[rows] < 0).sum())
    green = int((labels[rows] == 1).sum())
    assert int(watched["teacher_divergence/cold"][1]) == unlabelled + green + int((labels[rows] == 0).sum())


def test_stacking_is_fitted_on_visible_labels_alone(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    """On every stored view of the images whose label may be used."""
    targets = stored(split, teachers, tmp_path / "targets")
    subset = TrainingSubset.of(split, SETS.classes, targets, replace(TEACHING, label_fraction=0.5, target="stacked"))
    visible = np.flatnonzero(subset.labels >= 0)
    logits = np.concatenate([targets.logits(view)[visible] for view in range(3)])
    expected = fit_stacking(logits, np.tile(subset.labels[visible], 3))
    np.testing.assert_allclose(fitted(targets, subset, "stacked"), expected(torch.from_numpy(all_logits(targets))), atol=1e-5)


def test_balancing_is_fitted_on_all_images_and_on_no_label(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    subset = TrainingSubset.of(split, SETS.classes, targets, replace(TEACHING, label_fraction=0.0, target="balanced"))
    expected = fit_balancing(all_logits(targets), LabelBlocks.of(SETS))
    np.testing.assert_allclose(fitted(targets, subset, "balanced"), expected(torch.from_numpy(all_logits(targets))), atol=1e-5)


@pytest.mark.parametrize("target", FITTED_TARGETS)
def test_a_target_is_fitted_to_a_sample_of_many_images(
    target: Target, split: PreparedSplit, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 24 images, at most 12: the same 12 every time, in one view."""
    monkeypatch.setattr(distilling, "MOST_FITTED", 12)
    targets = stored(split, teachers, tmp_path / "targets")
    subset = TrainingSubset.of(split, SETS.classes, targets, TEACHING)
    chosen = sampled(np.arange(24), subset.labels)
    assert len(chosen) == len(set(chosen)) == 12
    logits = targets.logits(0)[chosen]
    stacking, balancing = fit_stacking(logits, subset.labels[chosen]), fit_balancing(logits, LabelBlocks.of(SETS))
    expected = stacking if target == "stacked" else balancing
    np.testing.assert_allclose(fitted(targets, subset, target), expected(torch.from_numpy(all_logits(targets))), atol=1e-5)


def test_a_sample_misses_no_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 images of one class and one of each of five others."""
    monkeypatch.setattr(distilling, "MOST_FITTED", 20)
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
    return fitted_target(SETS, targets, subset, target)(torch.from_numpy(all_logits(targets))).numpy()


def test_an_image_without_label_is_learnt_from_the_teachers_alone(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    """The loss, image by image: (1 − α)·CE + α·KD with a label, KD without."""
    targets = stored(split, teachers, tmp_path / "targets")
    teaching = replace(TEACHING, alpha=0.3, label_fraction=0.5, batch_size=24)
    batch = next(view_of_epoch(split.images, targets, TrainingSubset.of(split, SETS.classes, targets, teaching), teaching, 0))
    logits, total = torch.randn(24, 3), 0.0
    for row in range(24):
        assert batch.teacher_logits is not None
        one = Batch(batch.images[row : row + 1], batch.labels[row : row + 1], batch.teacher_logits[row : row + 1])
        terms = student_loss(SETS, replace(teaching, alpha=1.0))(logits[row : row + 1], one).terms
        if one.labels.item() < 0:
            total += terms["distillation"].item()
        else:
            total += 0.3 * terms["distillation"].item() + 0.7 * functional.cross_entropy(logits[row : row + 1], one.labels).item()
    found = student_loss(SETS, teaching)(logits, batch).terms
    assert sum(value.item() for value in found.values()) == pytest.approx(total / 24, rel=1e-4)


def test_few_labels_and_covering_teachers_are_refused(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    with pytest.raises(UserError, match=r"holds covering teachers only, .* blocks needs all; set stored_teachers to all"):
        TrainingSubset.of(split, SETS.classes, targets, replace(TEACHING, label_fraction=0.5))


def test_a_mixed_batchs_loss_is_the_mean_of_both_images_losses(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    teaching = replace(TEACHING, mixup=1.0, batch_size=24)
    batch = next(view_of_epoch(split.images, targets, TrainingSubset.of(split, SETS.classes, targets, teaching), teaching, 0))
    assert batch.mixture is not None
    partner, share = batch.mixture
    logits, loss = torch.randn(24, 3), student_loss(SETS, teaching)
    assert batch.teacher_logits is not None
    first = loss(logits, Batch(batch.images, batch.labels, batch.teacher_logits))
    second = loss(logits, Batch(batch.images, batch.labels[partner], batch.teacher_logits[partner]))
    whole = loss(logits, batch)
    for name, value in whole.terms.items():
        torch.testing.assert_close(value, share * first.terms[name] + (1 - share) * second.terms[name])
    for name, found in whole.watched.items():
        for value, one, other in zip(found, first.watched[name], second.watched[name], strict=True):
            torch.testing.assert_close(value, share * one + (1 - share) * other)


def test_what_is_mixed_repeats_and_differs_between_epochs_and_seeds(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")

    def mixtures(seed: int, epoch: int) -> list[Any]:
        teaching = replace(TEACHING, mixup=1.0, seed=seed)
        found = view_of_epoch(split.images, targets, TrainingSubset.of(split, SETS.classes, targets, teaching), teaching, epoch)
        return [(batch.mixture.share, batch.mixture.partner.tolist()) for batch in found if batch.mixture is not None]

    first = mixtures(1, 0)
    assert len(first) == 3
    assert mixtures(1, 0) == first
    assert mixtures(1, 1) != first != mixtures(2, 0)
    shares = [share for share, _ in first]
    for stream in ([1, 0], [1], [0], [0, 1]):  # those that shuffle, and that know no epoch or no seed
        random = np.random.default_rng(stream)
        assert shares[0] not in [random.beta(1.0, 1.0) for _ in range(10)]


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


def test_all_of_few_answers_right_are_not_told_from_all_but_one() -> None:
    before, after = (scored(Validation(0.1, 1.0), np.arange(140) >= wrong) for wrong in (0, 1))
    assert after.score is not None
    assert before.score is not None
    assert 0 < before.score - after.score < before.error


def test_an_epoch_without_labels_is_chosen_by_the_target_that_was_fitted(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, split, 0)
    subset = TrainingSubset.of(split, SETS.classes, targets, replace(TEACHING, label_fraction=0.0, target="balanced"))
    balancing = fitted_target(SETS, targets, subset, "balanced")
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


def test_without_views_every_epoch_sees_the_images_as_they_are(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", views=ViewSettings(0, 3, True, 5))
    assert len(list((tmp_path / "targets").glob("view-*.npy"))) == 1
    plain = sorted(image.tobytes() for image in split.images[split.training_rows])
    for epoch in range(2):
        assert sorted(image.numpy().tobytes() for batch in batches_of(split, targets, 7, epoch) for image in batch.images) == plain


def test_without_teachers_every_epoch_sees_a_new_view(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True, views=ViewSettings(1, 2, True, 5))
    teaching = replace(TEACHING, alpha=0.0, batch_size=24)
    subset = TrainingSubset.of(split, SETS.classes, targets, teaching)
    shown = [next(view_of_epoch(split.images, targets, subset, teaching, epoch)) for epoch in range(3)]
    assert all(batch.teacher_logits is None for batch in shown)
    assert len({b"".join(sorted(image.numpy().tobytes() for image in batch.images)) for batch in shown}) == 3
