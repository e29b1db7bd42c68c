"""Preparing: label sets, the validation split, sizes."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from stages.preprocess import left_out

from amalgam import preparing
from amalgam.dataset import LabelSets, PreparedSplit, validation_mask, visible_labels
from amalgam.errors import UserError
from amalgam.preparing import Plan, plan_split, stored_size, write_split
from amalgam.sources import folder
from amalgam.sources.raw import RawSplit, read_classes, read_split, read_unlabeled
from amalgam.whole import whole_folder
from conftest import COLOURS, write_images

CIFAR_A = {"trees": ["willow_tree", "maple_tree"], "flowers": ["rose", "orchid"], "fruit": ["pear", "apple"]}
AVAILABLE = ["apple", "bear", "maple_tree", "orchid", "pear", "rose", "willow_tree"]


def prepare(plan: Plan, size: tuple[int, int], folder: Path) -> None:
    """As stage preprocess does."""
    with whole_folder(folder) as work:
        write_split(plan, size, work)


def test_the_union_follows_the_datas_order() -> None:
    sets = LabelSets.of_task(CIFAR_A, AVAILABLE, "folder", "taskA")
    assert sets.classes == ("apple", "maple_tree", "orchid", "pear", "rose", "willow_tree")
    assert sets.teachers == {"trees": ("maple_tree", "willow_tree"), "flowers": ("orchid", "rose"), "fruit": ("apple", "pear")}
    assert [sets.columns(name) for name in sets.teachers] == [[1, 5], [2, 4], [0, 3]]


def test_who_covers_a_class() -> None:
    sets = LabelSets.of_task({"x": ["a", "b"], "y": ["b", "c"]}, ["a", "b", "c"], "folder", "taskB")
    np.testing.assert_array_equal(sets.covering(), [[True, True, False], [False, True, True]])


def test_a_class_that_the_data_lacks_is_named() -> None:
    with pytest.raises(UserError, match=r"folder\.tasks\.taskA\.trees: the data has no class 'maple_tre'; did you mean 'maple_tree'\?"):
        LabelSets.of_task({"trees": ["maple_tre", "willow_tree"]}, AVAILABLE, "folder", "taskA")


def test_label_sets_are_read_back_as_written(tmp_path: Path) -> None:
    sets = LabelSets.of_task(CIFAR_A, AVAILABLE, "folder", "taskA")
    sets.write(tmp_path)
    assert LabelSets.read(tmp_path) == sets


@given(st.lists(st.integers(2, 30), min_size=1, max_size=5), st.floats(0.01, 0.95), st.integers(0, 100))
@settings(deadline=None)
def test_validation_is_stratified(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    mask = validation_mask(labels, [f"class {i}" for i in range(len(counts))], fraction, seed)
    for label, count in enumerate(counts):
        held = int(mask[labels == label].sum())
        assert 1 <= held <= count - 1
        assert abs(held - fraction * count) <= 1


@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.floats(0, 1), st.floats(0, 1), st.integers(0, 100))
@settings(deadline=None)
def test_visible_labels_are_stratified_and_nested(counts: list[int], small: float, large: float, seed: int) -> None:
    labels = np.append(np.repeat(np.arange(len(counts)), counts), [-1, -1])
    names = [f"class {i}" for i in range(len(counts))]
    few, many = (visible_labels(labels, names, fraction, seed) for fraction in sorted((small, large)))
    for shown, fraction in ((few, min(small, large)), (many, max(small, large))):
        assert set(shown[shown >= 0]) <= set(labels)
        np.testing.assert_array_equal(shown[shown >= 0], labels[shown >= 0])
        for label, count in enumerate(counts):
            visible = int((shown == label).sum())
            assert abs(visible - fraction * count) <= 1
            assert (visible >= 1) == (fraction > 0)
    assert (many[few >= 0] >= 0).all()
    assert (visible_labels(labels, names, 1.0, seed) == labels).all()
    assert (visible_labels(labels, names, 0.0, seed) == -1).all()


def test_unlabelled_images_follow_the_labelled_and_are_never_held_out(raw: tuple[RawSplit, list[str], Path]) -> None:
    _, available, tmp_path = raw
    (tmp_path / "images" / "unlabeled" / "deep").mkdir(parents=True)
    for number, place in enumerate(("a.png", "deep/b.png")):
        Image.new("RGB", (12, 12), (number, 0, 0)).save(tmp_path / "images" / "unlabeled" / place)
    split = fetched(tmp_path)
    (unlabelled,) = read_unlabeled(max(tmp_path.glob("raw*")))
    prepare(plan_split([split, unlabelled], available, ["blue", "red"], 0.4, 0), (12, 12), tmp_path / "out")
    prepared = PreparedSplit.read(tmp_path / "out")
    np.testing.assert_array_equal(prepared.labels, [*np.repeat([0, 1], 5), -1, -1])
    assert prepared.names[-2:] == ["unlabeled/a.png", "unlabeled/b.png"]
    assert prepared.images[-2:, 0, 0].tolist() == [[0, 0, 0], [1, 0, 0]]
    assert not prepared.validation[-2:].any()


def test_images_without_any_label_are_prepared_and_all_trained_on(raw: tuple[RawSplit, list[str], Path]) -> None:
    _, available, tmp_path = raw
    (tmp_path / "images" / "train").rename(tmp_path / "images" / "unlabeled")
    split = fetched(tmp_path)
    assert (len(split.labels), read_classes(max(tmp_path.glob("raw*")))) == (0, available)
    unlabelled = read_unlabeled(max(tmp_path.glob("raw*")))
    size = stored_size([split, *unlabelled], available, ["blue", "red"], None)
    prepare(plan_split([split, *unlabelled], available, ["blue", "red"], 0.4, 0), size, tmp_path / "out")
    prepared = PreparedSplit.read(tmp_path / "out")
    assert len(prepared.labels) == len(unlabelled[0].labels) > 0
    assert (prepared.labels == -1).all()
    assert not prepared.validation.any()


def killed(*arguments: object) -> None:
    """In a process of the pool's: what the system does where memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_the_system_ends_is_told_and_leaves_nothing(
    raw: tuple[RawSplit, list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    split, available, tmp_path = raw
    for name, value in {"FEW": 1, "available_cores": lambda: 2, "_decode": killed}.items():
        monkeypatch.setattr(preparing, name, value)
    with pytest.raises(UserError, match=r"a process that decodes images was ended from outside, .*: taskset -c 0 dvc repro"):
        prepare(plan_split([split], available, ["blue", "red"], 0.4, 0), (12, 12), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_labels_of_some_classes_only_are_refused(raw: tuple[RawSplit, list[str], Path]) -> None:
    _, available, tmp_path = raw
    (tmp_path / "images" / "train" / "red").rename(tmp_path / "images" / "unlabeled")
    splits = [fetched(tmp_path), *read_unlabeled(max(tmp_path.glob("raw*")))]
    with pytest.raises(UserError, match="no labelled image of red, but of blue and others: give some of every class"):
        prepare(plan_split(splits, available, ["blue", "red"], 0.4, 0), (12, 12), tmp_path / "out")


def test_a_change_of_one_class_moves_no_image_of_another() -> None:
    two = validation_mask(np.repeat([0, 1], 20), ["a", "b"], 0.2, 3)
    three = validation_mask(np.repeat([0, 1, 2], 20), ["a", "new", "b"], 0.2, 3)
    np.testing.assert_array_equal(two[:20], three[:20])
    np.testing.assert_array_equal(two[20:], three[40:])
    assert not np.array_equal(two[:20], two[20:])


def test_nothing_is_held_out_at_fraction_zero() -> None:
    assert not validation_mask(np.array([0, 1]), ["a", "b"], 0, 0).any()


def test_a_class_of_one_image_cannot_be_split() -> None:
    with pytest.raises(UserError, match="class 'b' has 1 training image"):
        validation_mask(np.array([0, 0, 1]), ["a", "b"], 0.5, 0)


@pytest.fixture
def raw(tmp_path: Path) -> tuple[RawSplit, list[str], Path]:
    write_images(tmp_path / "images", {"train": 5, "test": 2})
    return fetched(tmp_path), sorted(COLOURS), tmp_path


def fetched(tmp_path: Path) -> RawSplit:
    target = tmp_path / f"raw{len(list(tmp_path.glob('raw*')))}"
    target.mkdir()
    folder.fetch(target, tmp_path, "images", None, 10**9)
    assert read_classes(target) == sorted(COLOURS)
    return read_split(target, "train")


def test_a_prepared_split_holds_the_unions_images_at_native_size(raw: tuple[RawSplit, list[str], Path]) -> None:
    split, available, tmp_path = raw
    size = stored_size([split], available, ["blue", "red"], None)
    assert size == (12, 12)
    prepare(plan_split([split], available, ["blue", "red"], 0.4, 0), size, tmp_path / "out")
    prepared = PreparedSplit.read(tmp_path / "out")
    assert prepared.images.shape == (10, 12, 12, 3)
    np.testing.assert_array_equal(prepared.labels, np.repeat([0, 1], 5))
    assert prepared.validation.sum() == 4
    for image, name in zip(prepared.images, prepared.names, strict=True):
        np.testing.assert_array_equal(image, np.asarray(Image.open(tmp_path / "images" / name)))


def test_the_disk_sets_all_space_aside_before_the_first_image_is_written(
    raw: tuple[RawSplit, list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    split, available, tmp_path = raw
    decode, claimed = RawSplit.decode, []

    def watched(self: RawSplit, row: int) -> npt.NDArray[np.uint8]:
        (file,) = tmp_path.glob(".out.*.part/images.npy")
        claimed.append(file.stat().st_blocks * 512 >= file.stat().st_size > 10 * 64 * 64 * 3)
        return decode(self, row)

    monkeypatch.setattr(RawSplit, "decode", watched)
    prepare(plan_split([split], available, ["blue", "red"], 0, 0), (64, 64), tmp_path / "out")
    assert len(claimed) == 10
    assert all(claimed)


def test_several_processes_prepare_the_same(raw: tuple[RawSplit, list[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    split, available, tmp_path = raw
    monkeypatch.setattr(preparing, "CHUNK", 3)
    for few, name in ((100, "alone"), (1, "together")):
        monkeypatch.setattr(preparing, "FEW", few)
        monkeypatch.setattr(preparing, "available_cores", lambda: 2)
        assert stored_size([split], available, available, None) == (12, 12)
        prepare(plan_split([split], available, available, 0.4, 0), (12, 12), tmp_path / name)
    for file in (tmp_path / "alone").iterdir():
        assert file.read_bytes() == (tmp_path / "together" / file.name).read_bytes(), file.name


def test_another_process_names_the_image_that_it_cannot_read(
    raw: tuple[RawSplit, list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    split, available, tmp_path = raw
    with (split.folder / "images.bin").open("r+b") as blob:
        blob.seek(int(split.offsets[7]))
        blob.write(b"nothing of an image")
    monkeypatch.setattr(preparing, "FEW", 1)
    monkeypatch.setattr(preparing, "available_cores", lambda: 2)
    with pytest.raises(UserError, match=r"train/\w+/\d+\.png: not a readable image .*; remove or replace it"):
        prepare(plan_split([split], available, available, 0.4, 0), (12, 12), tmp_path / "out")
    assert not list(tmp_path.glob("*out*")), "nothing half-written is left"


def test_mixed_sizes_are_brought_to_one(raw: tuple[RawSplit, list[str], Path]) -> None:
    _, available, tmp_path = raw
    Image.new("L", (200, 90), 128).save(tmp_path / "images" / "train" / "red" / "wide.jpg")
    split = fetched(tmp_path)
    assert stored_size([split], available, available, 20) == (20, 20)
    for size in ((64, 64), (20, 20)):
        prepare(plan_split([split], available, available, 0, 0), size, tmp_path / "out")
        assert PreparedSplit.read(tmp_path / "out").images.shape == (26, *size, 3)


def test_one_size_is_chosen_for_both_splits_and_only_the_unions_images_count(raw: tuple[RawSplit, list[str], Path]) -> None:
    split, available, tmp_path = raw
    Image.new("L", (200, 90), 128).save(tmp_path / "images" / "test" / "red" / "wide.jpg")
    fetched(tmp_path)
    test = read_split(max(tmp_path.glob("raw*")), "test")
    assert stored_size([split, test], available, ["blue", "red"], None) == (64, 64)
    assert stored_size([split, test], available, ["blue", "green"], None) == (12, 12)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((40, 3), "the images are 3 × 40 pixels, fewer than 4 a side; set the source's resolution, to 32 say"),
        ((1500, 900), "the images are 900 × 1500 pixels, more than 1024 a side; set the source's resolution"),
    ],
)
def test_images_of_a_side_that_cannot_be_stored_natively_are_refused(
    size: tuple[int, int], message: str, raw: tuple[RawSplit, list[str], Path]
) -> None:
    _, available, tmp_path = raw
    for split in ("train", "test"):
        for file in (tmp_path / "images" / split / "red").iterdir():
            Image.new("L", size, 128).save(file)
    with pytest.raises(UserError, match=message):
        stored_size([fetched(tmp_path)], available, ["red"], None)


def test_labels_are_checked_before_an_image_is_decoded(raw: tuple[RawSplit, list[str], Path]) -> None:
    split, available, _ = raw
    undecodable = replace(split, blob=np.zeros_like(split.blob))
    plan = plan_split([undecodable], available, ["blue", "red"], 0.4, 0)
    assert len(plan.labels) == len(plan.validation) == sum(len(rows) for _, rows in plan.chosen)
    first_blue = int(np.flatnonzero(split.labels == available.index("blue"))[0])
    one = replace(
        undecodable, labels=np.where(np.arange(len(split.labels)) <= first_blue, split.labels, available.index("red")).astype(np.int32)
    )
    with pytest.raises(UserError, match="class 'blue' has 1 training image"):
        plan_split([one], available, ["blue", "red"], 0.4, 0)


def test_every_mistyped_class_is_named_and_not_all_that_there_are() -> None:
    available = [f"class {number}" for number in range(100)]
    with pytest.raises(UserError) as error:
        LabelSets.of_task({"one": ["clas 7", "zebra"], "two": ["class 1", "ape"]}, available, "folder", "taskA")
    first, second, third = str(error.value).splitlines()
    assert first == "folder.tasks.taskA.one: the data has no class 'clas 7'; did you mean 'class 7'?"
    assert second.startswith("folder.tasks.taskA.one: the data has no class 'zebra'; it has class 0, ")
    assert second.endswith(", class 29 and 70 more")
    assert "'ape'" in third


def test_the_content_hash_sees_pixels_labels_and_split(raw: tuple[RawSplit, list[str], Path]) -> None:
    split, available, tmp_path = raw
    plan = plan_split([split], available, ["blue", "red"], 0.4, 0)
    others = (replace(plan, labels=1 - plan.labels), replace(plan, validation=~plan.validation))
    plans, hashes = (plan, *others, plan_split([split], available, ["blue", "grey"], 0.4, 0)), set()
    for number, changed in enumerate(plans):
        prepare(changed, (12, 12), tmp_path / f"out{number}")
        hashes.add(PreparedSplit.read(tmp_path / f"out{number}").content)
    assert len(hashes) == len(plans)


@pytest.mark.parametrize(
    ("available", "said"),
    [
        ("ab", ""),
        ("abc", "images of c are left out, which no teacher of this task knows"),
        ("abcdefghij", "images of c, d, e, f, g and 3 more are left out, which no teacher of this task knows"),
    ],
)
def test_classes_that_a_task_does_without_are_named(available: str, said: str) -> None:
    assert left_out(LabelSets(("a", "b"), {"one": ("a", "b")}), list(available)) == said


def test_which_labels_may_be_used_is_drawn_by_the_seed_and_not_as_the_validation_images_are() -> None:
    labels = np.repeat(np.arange(2), 40)
    shown = [np.flatnonzero(visible_labels(labels, ("a", "b"), 0.25, seed) >= 0).tolist() for seed in (0, 1)]
    held_out = [np.flatnonzero(validation_mask(labels, ("a", "b"), 0.25, seed)).tolist() for seed in (0, 1)]
    assert shown[0] != shown[1]
    assert not {tuple(rows) for rows in shown} & {tuple(rows) for rows in held_out}
