"""Training on stored targets: the student sees exactly what the teachers saw, and no label that it may not see."""

import itertools
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch.nn import functional

from amalgam import selection
from amalgam.batches import Batch
from amalgam.dataset import PreparedSplit, visible_labels
from amalgam.distilling import epoch_batches, student_loss, train_student
from amalgam.history import Fit
from amalgam.inference import to_gpu_if_it_fits
from amalgam.models import Classifier
from amalgam.optimization import Optimization
from amalgam.preprocessing import Preprocessing
from amalgam.students import Architecture, new_student
from amalgam.target_names import FITTED_TARGETS, Objective, Target
from amalgam.targets import StoredTargets, ViewSettings
from amalgam.teaching import Teaching, TrainingSubset
from amalgam.transfer_set import TransferSet
from conftest import SETS
from foreign_teachers import MEAN, STD, NearestColour
from untrained_teachers import NOISE, TEACHING, VIEWS, Teachers, stored, untrained_teachers

pytestmark = pytest.mark.usefixtures("root")

WITHOUT_LABELS = [target for target in get_args(Target) if target != "stacked"]


@pytest.fixture
def teachers() -> Teachers:
    return untrained_teachers()


def batches_of(split: PreparedSplit, targets: StoredTargets, batch_size: int, epoch: int) -> Iterator[Batch]:
    teaching = replace(TEACHING, batch_size=batch_size)
    return epoch_batches(split.images, targets, TrainingSubset.of(split, SETS, targets, teaching), teaching, epoch)


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
                live = torch.cat([teacher.logits(batch.images) for teacher in teachers.values()], dim=1)
            assert batch.teacher_logits is not None
            torch.testing.assert_close(batch.teacher_logits.float(), live, atol=NOISE, rtol=NOISE)
            seen += len(batch.labels)
        assert seen == 24


def test_epoch_e_sees_view_e_mod_views_in_an_order_of_its_own(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    epochs = [next(iter(batches_of(split, targets, 24, epoch))) for epoch in range(4)]
    contents = [sorted(image.numpy().tobytes() for image in batch.images) for batch in epochs]
    for epoch, content in enumerate(contents):
        shown = VIEWS.view(epoch % 3, len(split.labels)).apply(torch.from_numpy(split.images[split.training_rows]), split.training_rows)
        assert content == sorted(image.numpy().tobytes() for image in shown)
    assert contents[0] != contents[1]
    assert not torch.equal(epochs[0].images, epochs[3].images)


def test_images_that_lie_whole_on_the_device_give_the_same_batches(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets")
    subset = TrainingSubset.of(split, SETS, targets, TEACHING)
    whole = torch.from_numpy(np.array(split.images))
    assert to_gpu_if_it_fits(whole) is whole
    pairs = zip(epoch_batches(split.images, targets, subset, TEACHING, 1), epoch_batches(whole, targets, subset, TEACHING, 1), strict=True)
    for mapped, held in pairs:
        assert torch.equal(mapped.images, held.images)
        assert torch.equal(mapped.labels, held.labels)


def test_validation_images_are_never_trained_on(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", views=ViewSettings(1, 0, False, 0))
    trained = {image.numpy().tobytes() for batch in batches_of(split, targets, 5, 0) for image in batch.images}
    assert trained == {image.tobytes() for image in split.images[~split.validation]}


def trained(split: PreparedSplit, targets: StoredTargets, seed: int = 3, epochs: int = 2, **changes: Any) -> tuple[Classifier, Fit]:
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, split, seed)
    how, teaching = Optimization("adamw", 0.003, 0.01, "one_cycle", epochs), replace(TEACHING, seed=seed, **changes)
    return student, train_student(student, TransferSet.of(SETS, split, targets, teaching), how)


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
        assert result.history[0].terms["distillation"] > 0


@pytest.mark.parametrize("target", WITHOUT_LABELS)
def test_without_labels_and_validation_images_the_last_epoch_is_kept(
    target: Target, split: PreparedSplit, teachers: Teachers, tmp_path: Path
) -> None:
    every = replace(split, validation=np.zeros_like(split.validation), labels=np.full_like(split.labels, -1))
    targets = stored(every, teachers, tmp_path / "targets")
    _, fit = trained(every, targets, target=target, alpha=1.0, label_fraction=0.0)
    assert (fit.best_epoch, fit.best_record.validation) == (2, None)


def test_the_labels_that_choose_are_those_of_the_data_seed(
    split: PreparedSplit, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that teach are, whatever the student's seed."""
    made: list[selection.SelectionRules] = []

    def watched(*arguments: Any) -> selection.SelectionRules:
        made.append(selection.SelectionRules(*arguments))
        return made[-1]

    monkeypatch.setattr("amalgam.distilling.SelectionRules", watched)
    trained(split, stored(split, teachers, tmp_path / "targets"), epochs=1, label_fraction=0.5)
    assert [rules.data_seed for rules in made] == [VIEWS.data_seed]
    assert TEACHING.seed != VIEWS.data_seed


def test_labels_alone_need_no_stored_answer(split: PreparedSplit) -> None:
    _, fit = trained(split, StoredTargets(Path("nowhere"), VIEWS, "covering"), alpha=0.0)
    assert fit.best_record.validation is not None


def test_without_labels_none_reaches_the_student(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    """Labels permuted before targets are stored and the student is trained: the same weights, the same epoch."""
    labels = np.random.default_rng(1).permutation(split.labels)
    shuffled = PreparedSplit(split.images, labels, split.validation, split.names, "permuted")  # so no answer comes from the store
    every = itertools.product(WITHOUT_LABELS, get_args(Objective))
    ways: list[dict[str, Any]] = [{"target": target, "alpha": 1.0, "objective": objective} for target, objective in every]
    ways.append({"target": "blocks", "alpha": 1.0, "standardize_logits": True})
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


def divergences(student: np.ndarray, said: np.ndarray, label: int, temperature: float) -> dict[str, float]:
    """KL of what each active teacher of ``SETS`` says to what the student says of its classes, in double precision."""
    found = {}
    for name, columns, own in (("cold", [0, 1], said[:2]), ("bright", [1, 2], said[2:])):
        if label < 0 or label in columns:
            p, q = (np.exp(logits.astype(np.float64) / temperature) for logits in (own, student[columns]))
            p, q = p / p.sum(), q / q.sum()
            found[name] = float((p * np.log(p / q)).sum())
    return found


@pytest.mark.parametrize("changes", [{}, {"label_fraction": 0.5}, {"label_fraction": 0.5, "mixup": 1.0}], ids=str)
def test_the_parts_of_an_objective_are_logged_and_make_up_its_term(
    changes: dict[str, Any], split: PreparedSplit, teachers: Teachers, tmp_path: Path
) -> None:
    """An image counts in them as in the loss: in full where it has no label."""
    record = trained(split, stored(split, teachers, tmp_path / "targets"), objective="dkd", **changes)[1].history[0]
    parts = {name.removeprefix("distillation/"): value for name, value in record.watched.items() if name.startswith("distillation/")}
    assert parts.keys() == {"target_class", "non_target_classes"}
    assert sum(parts.values()) == pytest.approx(record.terms["distillation"], rel=1e-5)


def test_an_image_without_label_is_learnt_from_the_teachers_alone(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    """The loss, image by image: (1 − α)·CE + α·T²·KL with a label, T²·KL without."""
    targets = stored(split, teachers, tmp_path / "targets")
    teaching = replace(TEACHING, alpha=0.3, label_fraction=0.5, batch_size=24)
    batch = next(epoch_batches(split.images, targets, TrainingSubset.of(split, SETS, targets, teaching), teaching, 0))
    assert batch.teacher_logits is not None
    logits, said, total = torch.randn(24, 3), batch.teacher_logits.numpy(), 0.0
    for row, label in enumerate(batch.labels.tolist()):
        divergence = 16 * float(np.mean(list(divergences(logits[row].numpy(), said[row], label, 4.0).values())))
        if label < 0:
            total += divergence
        else:
            total += 0.3 * divergence + 0.7 * functional.cross_entropy(logits[row], batch.labels[row]).item()
    found = student_loss(SETS, teaching)(logits, batch).terms
    assert sum(value.item() for value in found.values()) == pytest.approx(total / 24, rel=1e-4)


def test_each_teachers_record_is_its_own(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    """Three blue images, which teacher cold knows, and a red one, which bright does."""
    targets = stored(split, teachers, tmp_path / "targets")
    labels = split.labels[split.training_rows]
    chosen = np.concatenate([np.flatnonzero(labels == 0)[:3], np.flatnonzero(labels == 2)[:1]])
    said, logits = targets.logits(0)[chosen], torch.randn(4, 3)
    batch = Batch(torch.zeros(4, 8, 8, 3, dtype=torch.uint8), torch.from_numpy(labels[chosen]), torch.from_numpy(said))
    watched = {name: (float(total), int(count)) for name, (total, count) in student_loss(SETS, TEACHING)(logits, batch).watched.items()}
    by_hand = [divergences(logits[row].numpy(), said[row], int(label), 4.0) for row, label in enumerate(labels[chosen])]
    same_cold = (said[:3, :2].argmax(1) == logits[:3, :2].argmax(1).numpy()).sum()
    same_bright = said[3, 2:].argmax() == logits[3, 1:].argmax().item()
    assert watched == {
        "teacher_weight/cold": (3, 4),
        "teacher_weight/bright": (1, 4),
        "teacher_divergence/cold": (pytest.approx(16 * sum(found["cold"] for found in by_hand[:3]), rel=1e-4), 3),
        "teacher_divergence/bright": (pytest.approx(16 * by_hand[3]["bright"], rel=1e-4), 1),
        "teacher_agreement/cold": (same_cold, 3),
        "teacher_agreement/bright": (same_bright, 1),
    }


@pytest.mark.parametrize("target", FITTED_TARGETS)
def test_a_fitted_target_is_what_the_loss_is_made_of(target: Target, split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets, teaching = stored(split, teachers, tmp_path / "targets"), replace(TEACHING, target=target, batch_size=24)
    transfer_set = TransferSet.of(SETS, split, targets, teaching)
    subset, combine = transfer_set.subset, transfer_set.fitted
    batch, logits = next(epoch_batches(split.images, targets, subset, teaching, 0)), torch.randn(24, 3)
    assert batch.teacher_logits is not None
    assert combine is not None
    p, q = (torch.softmax(values.double() / 4, 1) for values in (combine(batch.teacher_logits), logits))
    expected = 0.5 * 16 * (p * (p / q).log()).sum(1).mean().item()
    assert student_loss(SETS, teaching, combine)(logits, batch).terms["distillation"].item() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(AssertionError, match=f"target {target} is no distribution"):
        student_loss(SETS, teaching)(logits, batch)


def test_every_setting_of_the_teaching_changes_the_weights(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "alpha": 0.3,
        "temperature": 2.0,
        "target": "mean",
        "objective": "dist",
        "standardize_logits": True,
        "confidence_temperature": 0.1,
        "label_fraction": 0.5,
        "label_smoothing": 0.1,
        "mixup": 0.4,
        "batch_size": 6,
        "seed": 2,
    }
    assert [field.name for field in fields(Teaching)] == list(changes)
    targets, base = stored(split, teachers, tmp_path / "targets"), replace(TEACHING, target="confidence")

    def weights(teaching: Teaching) -> torch.Tensor:
        student = new_student(Architecture("MobileNetV3", 32, False), SETS, split, 3)
        result = train_student(student, TransferSet.of(SETS, split, targets, teaching), Optimization("sgd", 0.01, 0.0, "step", 1))
        return result.last["backbone.classifier.3.weight"]

    before = weights(base)
    for name, value in changes.items():
        assert not torch.equal(before, weights(replace(base, **{name: value}))), name


@pytest.mark.parametrize("target", ["joint", "balanced"])
def test_teachers_alone_teach_what_no_label_says(target: Target, split: PreparedSplit, tmp_path: Path) -> None:
    """Each tells two of the three colours apart; the student learns all three, of images that nobody has named."""
    knowing: Teachers = {
        name: Classifier("ReferenceCNN", NearestColour(classes), classes, Preprocessing((8, 8), MEAN, STD), weights_sha256=f"sha-{name}")
        for name, classes in SETS.teachers.items()
    }
    nameless = replace(split, labels=np.where(split.validation, split.labels, -1))
    targets = stored(nameless, knowing, tmp_path / "targets")
    student = new_student(Architecture("ResNet18", 32, False), SETS, split, 3)
    teaching = replace(TEACHING, target=target, alpha=1.0, temperature=1.0, label_fraction=0.0)
    how = Optimization("adamw", 0.001, 0.01, "one_cycle", 12)
    fit = train_student(student, TransferSet.of(SETS, nameless, targets, teaching), how)
    assert fit.best_record.validation is not None
    assert fit.best_record.validation.accuracy == 1.0


@pytest.mark.parametrize("target", ["blocks", "joint", "stacked"])
def test_a_hidden_label_reaches_nothing(
    target: Target, split: PreparedSplit, teachers: Teachers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the labels are visible; the others, of training and validation images, are permuted among themselves."""
    visible = {}  # the same images' whatever the hidden labels are, which would else change who is drawn
    for rows in (split.training_rows, split.validation_rows):
        visible[len(rows)] = visible_labels(split.labels[rows], SETS.classes, 0.5, VIEWS.data_seed)

    def the_same(labels: np.ndarray, classes: tuple[str, ...], fraction: float, seed: int) -> np.ndarray:
        assert fraction == 0.5
        return visible[len(labels)]

    monkeypatch.setattr("amalgam.teaching.visible_labels", the_same)
    monkeypatch.setattr(selection, "visible_labels", the_same)
    lies = split.labels.copy()
    for rows in (split.training_rows, split.validation_rows):
        hidden = rows[visible[len(rows)] < 0]
        lies[hidden] = np.roll(lies[hidden], len(hidden) // 2)
    assert (lies != split.labels).sum() > 10
    outcomes = []
    for number, labels in enumerate((split.labels, lies)):
        images = replace(split, labels=labels, content=f"labels {number}")  # so no answer comes from the store
        targets = stored(images, teachers, tmp_path / f"targets{number}")
        outcomes.append(trained(images, targets, epochs=3, target=target, label_fraction=0.5)[1])
    truth, lie = outcomes
    torch.testing.assert_close(truth.best, lie.best, rtol=0, atol=0)
    torch.testing.assert_close(truth.last, lie.last, rtol=0, atol=0)
    assert truth.best_epoch == lie.best_epoch
    assert [(r.train_loss, r.train_accuracy) for r in truth.history] == [(r.train_loss, r.train_accuracy) for r in lie.history]


def test_a_mixed_batchs_loss_is_the_mean_of_both_images_losses(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True)
    teaching = replace(TEACHING, mixup=1.0, batch_size=24)
    batch = next(epoch_batches(split.images, targets, TrainingSubset.of(split, SETS, targets, teaching), teaching, 0))
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
        found = epoch_batches(split.images, targets, TrainingSubset.of(split, SETS, targets, teaching), teaching, epoch)
        return [(batch.mixture.share, batch.mixture.partner.tolist()) for batch in found if batch.mixture is not None]

    first = mixtures(1, 0)
    assert len(first) == 3
    assert mixtures(1, 0) == first
    assert mixtures(1, 1) != first != mixtures(2, 0)
    shares = [share for share, _ in first]
    for stream in ([1, 0], [1], [0], [0, 1]):  # those that shuffle, and that know no epoch or no seed
        random = np.random.default_rng(stream)
        assert shares[0] not in [random.beta(1.0, 1.0) for _ in range(10)]


def test_without_views_every_epoch_sees_the_images_as_they_are(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", views=ViewSettings(0, 3, True, 5))
    assert len(list((tmp_path / "targets").glob("view-*.npy"))) == 1
    plain = sorted(image.tobytes() for image in split.images[split.training_rows])
    for epoch in range(2):
        assert sorted(image.numpy().tobytes() for batch in batches_of(split, targets, 7, epoch) for image in batch.images) == plain


def test_without_teachers_every_epoch_sees_a_new_view(split: PreparedSplit, teachers: Teachers, tmp_path: Path) -> None:
    targets = stored(split, teachers, tmp_path / "targets", covering=True, views=ViewSettings(1, 2, True, 5))
    teaching = replace(TEACHING, alpha=0.0, batch_size=24)
    subset = TrainingSubset.of(split, SETS, targets, teaching)
    shown = [next(epoch_batches(split.images, targets, subset, teaching, epoch)) for epoch in range(3)]
    assert all(batch.teacher_logits is None for batch in shown)
    assert len({b"".join(sorted(image.numpy().tobytes() for image in batch.images)) for batch in shown}) == 3
