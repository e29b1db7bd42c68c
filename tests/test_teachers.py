"""Teachers: their own classes, their own statistics, trained once."""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stages import teachers as teacher_stage

from amalgam.batches import Batch, mixed_images
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.history import Fit
from amalgam.models import Classifier
from amalgam.optimization import Optimization
from amalgam.preprocessing import channel_statistics
from amalgam.teacher_training import Recipe, label_shares, provide_teacher, teacher_key, train_teacher
from amalgam.teachers import OwnImages, load_teachers
from amalgam.trainer import fit
from amalgam.views import Selected, View, draw_view
from conftest import SETS, colour_split

RECIPE = Recipe(
    resolution=None,
    lr=0.003,
    batch_size=8,
    num_epochs=2,
    weight_decay=0.05,
    label_smoothing=0.0,
    mixup=0.0,
    seed=0,
    crop=1,
    flip=True,
)


@pytest.fixture
def split() -> PreparedSplit:
    return colour_split(12, 20, 4)


def test_a_teacher_gets_its_own_classes_images_and_statistics(split: PreparedSplit) -> None:
    own = OwnImages.of("bright", SETS, split)
    np.testing.assert_array_equal(own.images, split.images[12:])
    np.testing.assert_array_equal(own.labels, np.repeat([0, 1], 12))
    np.testing.assert_array_equal(own.validation, split.validation[12:])
    teacher, _ = train_teacher(own, RECIPE)
    assert teacher.classes == ("green", "red")
    assert teacher.preprocessing.size == (8, 8)
    mean, std = channel_statistics(own.images, np.flatnonzero(~own.validation))
    assert (teacher.preprocessing.mean, teacher.preprocessing.std) == (mean, std)


def test_a_teacher_learns_and_repeats_bit_for_bit(split: PreparedSplit) -> None:
    own = OwnImages.of("cold", SETS, split)
    first, result = train_teacher(own, RECIPE)
    torch.rand(5)
    second, _ = train_teacher(own, RECIPE)
    torch.testing.assert_close(first.network.state_dict(), second.network.state_dict(), rtol=0, atol=0)
    assert result.best_record.validation is not None
    assert result.best_record.validation.accuracy == 1.0


def test_replacing_a_teacher_trains_only_that_one(split: PreparedSplit, root: Path) -> None:
    trained: list[tuple[str, ...]] = []

    def provide(sets: LabelSets, target: str, recipe: Recipe = RECIPE) -> None:
        for name in sets.teachers:
            own = OwnImages.of(name, sets, split)

            def train(own: OwnImages = own) -> tuple[Classifier, Fit]:
                trained.append(own.classes)
                return train_teacher(own, recipe)

            provide_teacher(own, recipe, root / target / name, train)

    provide(SETS, "first")
    assert trained == [("blue", "green"), ("green", "red")]
    provide(LabelSets(SETS.classes, {"cold": ("blue", "green"), "other": ("blue", "red")}), "second")
    assert trained[2:] == [("blue", "red")]
    provide(SETS, "third")
    assert len(trained) == 3
    for file in ("weights.safetensors", "manifest.json"):
        assert (root / "first" / "bright" / file).read_bytes() == (root / "third" / "bright" / file).read_bytes()
    provide(LabelSets(SETS.classes, {"cold": ("blue", "green")}), "fourth", replace(RECIPE, lr=0.004))
    assert trained[3:] == [("blue", "green")]


def test_every_setting_of_the_recipe_changes_the_weights(split: PreparedSplit) -> None:
    changes: dict[str, Any] = {
        "resolution": 12,
        "lr": 0.002,
        "batch_size": 4,
        "num_epochs": 1,
        "weight_decay": 0.5,
        "label_smoothing": 0.1,
        "mixup": 0.4,
        "seed": 1,
        "crop": 0,
        "flip": False,
    }
    assert [field.name for field in fields(Recipe)] == list(changes)
    own = OwnImages.of("cold", SETS, split)

    def weights(recipe: Recipe) -> torch.Tensor:
        return next(iter(train_teacher(own, recipe)[1].last.values()))

    before = weights(RECIPE)
    for name, value in changes.items():
        assert not torch.equal(before, weights(replace(RECIPE, **{name: value}))), name


def test_the_manifest_says_what_a_teacher_is(split: PreparedSplit, root: Path) -> None:
    own = OwnImages.of("cold", SETS, split)
    provide_teacher(own, RECIPE, root / "models" / "cold", lambda: train_teacher(own, RECIPE))
    manifest = json.loads((root / "models" / "cold" / "manifest.json").read_text())
    assert manifest["classes"] == ["blue", "green"]
    assert manifest["architecture"] == "ReferenceCNN"
    assert manifest["origin"] == "trained"
    assert manifest["validation_accuracy"] == 100.0
    assert {"preprocessing", "weights_sha256", "recipe", "execution"} <= manifest.keys()
    assert manifest["execution"]["threads"] == 1


def test_a_teacher_that_diverges_is_named_with_its_own_remedy(split: PreparedSplit, root: Path) -> None:
    own = OwnImages.of("cold", SETS, split)
    with pytest.raises(UserError, match=r"teacher taskX cold: the loss is no longer finite in epoch \d, .*; lower teacher\.lr"):
        teacher_stage.provide_trained(replace(RECIPE, lr=1e30), own, "taskX cold", root / "cold")


def test_a_teacher_whose_logits_cannot_be_stored_is_told_at_once_with_its_own_remedy(root: Path) -> None:
    """Before the others are trained, by whose name: in the next stage it is one of several."""
    own = OwnImages.of("cold", SETS, colour_split(20, 40, 5))
    with pytest.raises(UserError, match=r"^teacher taskX cold: .* 1024 is the largest that is stored precisely enough; lower teacher\.lr"):
        teacher_stage.provide_trained(replace(RECIPE, lr=10.0, num_epochs=3, weight_decay=0.0), own, "taskX cold", root / "cold")


def test_a_teacher_without_images_is_named(split: PreparedSplit, root: Path) -> None:
    own = OwnImages.of("cold", SETS, replace(split, labels=np.full_like(split.labels, -1)))
    with pytest.raises(UserError, match=r"^teacher taskX cold: no training image of blue, green has a label; bring the teacher"):
        teacher_stage.provide_trained(RECIPE, own, "taskX cold", root / "cold")


def test_a_teacher_of_other_classes_is_refused(split: PreparedSplit, root: Path) -> None:
    own = OwnImages.of("cold", SETS, split)
    provide_teacher(own, RECIPE, root / "cold", lambda: train_teacher(own, RECIPE))
    with pytest.raises(UserError, match="knows blue, green, but the task says blue, red"):
        load_teachers(root, LabelSets(("blue", "red"), {"cold": ("blue", "red")}))


def test_mixing_keeps_the_share_of_image_and_label() -> None:
    images = torch.tensor([0, 200], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 2, 2, 3)
    rows = np.array([0, 1])
    for seed in range(20):
        shown, mixture = mixed_images(lambda rows: images[rows], rows, 0.4, np.random.default_rng(seed), slice(0, 2))
        result = Batch(shown, torch.tensor([0, 1]), mixture=mixture)
        shares = label_shares(result, 2)
        torch.testing.assert_close(result.images[:, 0, 0, 0].float() / 200, shares[:, 1], atol=0.005, rtol=0)
        torch.testing.assert_close(shares.sum(dim=1), torch.ones(2))
        assert torch.equal(result.dominant_labels(), shares.argmax(1))
    plain, nothing = mixed_images(lambda rows: images[rows], rows, 0.0, np.random.default_rng(0), slice(0, 2))
    assert nothing is None
    assert torch.equal(plain, images)


def test_a_validation_image_chooses_the_epoch_and_teaches_nothing(split: PreparedSplit) -> None:
    """With wrong validation labels the weights of each epoch are the same, and another one is kept, and stands in the teacher."""
    own = OwnImages.of("cold", SETS, split)
    lies = replace(own, labels=np.where(own.validation, 1 - own.labels, own.labels))
    (_, honest), (teacher, misled) = train_teacher(own, RECIPE), train_teacher(lies, RECIPE)
    torch.testing.assert_close(honest.last, misled.last, rtol=0, atol=0)
    for one, other in zip(honest.history, misled.history, strict=True):
        assert one.validation is not None
        assert other.validation is not None
        assert one.validation.accuracy + other.validation.accuracy == pytest.approx(1)
    assert [honest.best_epoch, misled.best_epoch] == [2, 1]
    torch.testing.assert_close(teacher.network.state_dict(), misled.best, rtol=0, atol=0)


def test_each_epoch_sees_a_view_of_its_own_as_the_recipe_has_it(split: PreparedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[Any, ...]] = []

    def watched(*how: Any) -> View:
        drawn.append(how)
        return draw_view(*how)

    monkeypatch.setattr("amalgam.teacher_training.draw_view", watched)
    train_teacher(OwnImages.of("cold", SETS, split), RECIPE)
    assert drawn == [(24, 0, 0, 1, True), (24, 1, 0, 1, True)]


def test_a_teacher_is_optimised_as_the_recipe_has_it(split: PreparedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[Optimization] = []

    def watched(classifier: Classifier, how: Optimization, *rest: Any) -> Fit:
        used.append(how)
        return fit(classifier, how, *rest)

    monkeypatch.setattr("amalgam.teacher_training.fit", watched)
    train_teacher(OwnImages.of("cold", SETS, split), RECIPE)
    assert used == [Optimization("adamw", 0.003, 0.05, "one_cycle", 2)]


def test_whatever_determines_a_teacher_is_in_its_key(split: PreparedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    own = OwnImages.of("cold", SETS, split)
    others = (
        own,
        replace(own, images=Selected(255 - own.images[np.arange(len(own.labels))], np.arange(len(own.labels)))),
        replace(own, validation=np.roll(own.validation, 1)),
        replace(own, labels=1 - own.labels),
        replace(own, classes=("green", "blue")),
    )
    keys = [teacher_key(images, RECIPE) for images in others] + [teacher_key(own, replace(RECIPE, seed=7))]
    for name in ("execution_record", "code_hash"):
        with monkeypatch.context() as changed:
            changed.setattr(f"amalgam.teacher_training.{name}", lambda *_: {"another": 1})
            keys.append(teacher_key(own, RECIPE))
    assert len(set(keys)) == len(keys)
    assert teacher_key(OwnImages.of("cold", SETS, split), RECIPE) == keys[0]
