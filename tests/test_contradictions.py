"""Settings that cannot go together, and teachers whose answers cannot be compared."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from amalgam.contradictions import incomparable, separate, too_few_classes, untold
from amalgam.dataset import LabelSets
from amalgam.errors import UserError
from amalgam.feasibility import check_labels
from amalgam.params_file import load_params
from amalgam.teaching import Teaching, unlearnable
from conftest import ROOT
from shipped import SHIPPED, edited, load


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"student_weights: null": "student_weights: a.pth"}, r"student_weights a\.pth is of no use with pretrained false"),
        (
            {"target: blocks": "target: stacked"},
            "target stacked learns from labels how all teachers belong together, but stored_teachers is covering",
        ),
        (
            {"target: blocks": "target: balanced"},
            "target balanced compares what all teachers say, but stored_teachers is covering; set it to all",
        ),
        (
            {"label_fraction: 1.0": "label_fraction: 0.5"},
            "label_fraction 0.5 learns unlabelled images from all teachers, but stored_teachers is",
        ),
        (
            {"label_fraction: 1.0": "label_fraction: 0", "alpha: 0.5": "alpha: 0"},
            "label_fraction 0 with alpha 0 leaves nothing to learn from",
        ),
        (
            {"alpha: 0.5": "alpha: 1"},
            "target blocks says nothing of one teacher's classes beside another's; middle, high share no class .* and with alpha 1",
        ),
        (
            {"warmup_epochs: 0": "warmup_epochs: 30", "scheduler: one_cycle": "scheduler: cosine"},
            "with warmup_epochs 30 of num_epochs 30 lr never reaches its value",
        ),
        (
            {"warmup_epochs: 0": "warmup_epochs: 10", "scheduler: one_cycle": "scheduler: step"},
            "with warmup_epochs 10 and scheduler_step 10 lr would drop before it has reached its value",
        ),
        (
            {"warmup_epochs: 0": "warmup_epochs: 3"},
            "warmup_epochs 3 has no effect under scheduler one_cycle, which has a warm-up",
        ),
        ({"views: 15": "views: 0", "view_zoom: 1.0": "view_zoom: 0.5"}, "view_zoom 0.5 has no effect with views 0"),
        ({"views: 15": "views: 0", "view_colour: 0.0": "view_colour: 0.4"}, "view_colour 0.4 has no effect with views 0"),
        (
            {"standardize_logits: false": "standardize_logits: true", "target: blocks": "target: mean"},
            "standardize_logits brings logits inside each teacher's classes to one spread, and target mean is one distribution over",
        ),
        (
            {
                "standardize_logits: false": "standardize_logits: true",
                "target: blocks": "target: balanced",
                "stored_teachers: covering": "stored_teachers: all",
            },
            "standardize_logits changes how frequent the classes are that target balanced has made equally frequent; set it to false",
        ),
        (
            {"label_fraction: 1.0": "label_fraction: 0", "stored_teachers: covering": "stored_teachers: all"},
            "target blocks says nothing .* and with label_fraction 0",
        ),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    text = SHIPPED
    for old, new in changes.items():
        text = text.replace(f"\n{old}", f"\n{new}")
    with pytest.raises(UserError, match=f"taskA: {message}"):
        load(text, tmp_path)


def test_few_labels_are_fine_without_teachers_or_with_all_of_them(tmp_path: Path) -> None:
    few = edited("label_fraction: 1.0", "label_fraction: 0.1")
    assert load(few.replace("\nalpha: 0.5", "\nalpha: 0"), tmp_path).label_fraction == 0.1
    assert load(few.replace("\nstored_teachers: covering", "\nstored_teachers: all"), tmp_path).label_fraction == 0.1


def test_teachers_are_separate_unless_shared_classes_connect_them() -> None:
    assert separate({"a": ["1"]}) is None
    assert separate({"a": ["1", "2"], "b": ["3", "4"], "c": ["2", "3"]}) is None
    assert separate({"a": ["1", "2"], "b": ["3", "4"], "c": ["4", "5"], "d": ["2"]}) == "b, c"


def test_teachers_may_have_to_share_more_than_one_class() -> None:
    sets = {"a": ["1", "2", "3"], "b": ["3", "4", "5"], "c": ["2", "3", "4", "5"]}
    assert separate({name: sets[name] for name in ("a", "b")}, 2) == "b"
    assert separate(sets, 2) is None


NO_LABEL = "label_fraction: 0\n  stored_teachers: all"


@pytest.mark.parametrize("setting", ["objective: dist", "standardize_logits: true"])
def test_where_scales_are_free_one_shared_class_does_not_connect(setting: str, tmp_path: Path) -> None:
    """Digits: low and middle share two classes, middle and high two; photographs: every pair shares one."""
    text = edited("taskB:\n", f"taskB:\n  {NO_LABEL}\n  {setting}\n")
    assert load(text, tmp_path).student("taskB").label_fraction == 0
    with pytest.raises(UserError, match=r"taskB: target blocks says nothing .*; savanna, forest share fewer than two classes"):
        load(text.replace("source: digits", "source: folder"), tmp_path)


def test_logits_of_one_teacher_may_be_standardized_under_any_target() -> None:
    """Its classes are all there are."""
    settings = load_params(ROOT / "params.yaml").student("taskA").model_copy(update={"standardize_logits": True, "target": "joint"})
    assert incomparable({"only": ["a", "b", "c"]}, settings) is None
    assert incomparable({"one": ["a", "b", "c"], "two": ["a", "b", "c"]}, settings) is not None


TWO = ("      high: [7, 8, 9]", "      high: [8, 9]")


def test_two_classes_cannot_be_standardized(tmp_path: Path) -> None:
    text = edited(*TWO).replace("\nstandardize_logits: false", "\nstandardize_logits: true")
    with pytest.raises(UserError, match="taskA: standardize_logits makes the same numbers of any two logits, and high has two"):
        load(text, tmp_path)
    fitted = text.replace("\ntarget: blocks", "\ntarget: stacked").replace("\nstored_teachers: covering", "\nstored_teachers: all")
    assert load(fitted, tmp_path).standardize_logits  # over all classes, of which there are nine


def test_two_classes_cannot_be_correlated_where_no_label_says_which_is_which() -> None:
    settings = load_params(ROOT / "params.yaml").student("taskA").model_copy(update={"objective": "dist", "alpha": 1})
    teachers = {"first": ["a", "b"], "second": ["a", "b", "c"]}
    assert too_few_classes(teachers, settings.model_copy(update={"alpha": 0.5})) is None
    message = "objective dist makes the same numbers of any two logits, and {} has two classes; choose kl or dkd, or use labels too"
    assert too_few_classes(teachers, settings) == message.format("first")
    joint = settings.model_copy(update={"target": "joint"})
    assert too_few_classes(teachers, joint) is None
    assert too_few_classes({"first": ["a", "b"]}, joint) == message.format("the task")


def test_blocks_need_no_label_where_shared_classes_connect_the_teachers(tmp_path: Path) -> None:
    text = edited("taskB:\n", f"taskB:\n  {NO_LABEL}\n")
    assert load(text, tmp_path).student("taskB").label_fraction == 0


def test_blocks_alone_with_labels_need_teachers_that_know_what_an_image_is_not(tmp_path: Path) -> None:
    """The labels say which teachers are asked: of an image of 0 never those that know 9. Of one without a label all are."""
    text = edited("taskB:\n", "taskB:\n  alpha: 1\n")
    params = load(text, tmp_path)
    label_sets, alone = (
        LabelSets.of_task(params.digits.tasks["taskB"], [str(digit) for digit in range(10)], "digits", "taskB"),
        params.student("taskB"),
    )
    every = np.arange(10)
    with pytest.raises(
        UserError, match=r"taskB: with label_fraction 1 every .* target blocks with alpha 1 asks of an image of 0 .* none of them knows 5"
    ):
        check_labels("taskB", alone, label_sets, every)
    check_labels("taskB", alone, label_sets, np.append(every, -1))
    check_labels("taskB", alone.model_copy(update={"target": "joint"}), label_sets, every)
    half = alone.model_copy(update={"label_fraction": 0.5})
    check_labels("taskB", half, label_sets, np.repeat(every, 2))
    with pytest.raises(UserError, match=r"with label_fraction 0\.5 every training image has its label"):
        check_labels("taskB", half, label_sets, every)  # one at least of each class is shown


def test_blocks_alone_need_every_class_beside_every_other_one() -> None:
    assert untold({"a": ["1", "2"]}, 1) is None
    assert untold({"a": ["1", "2"], "b": ["2", "1", "3"]}, 1) is None
    assert untold({"a": ["1", "2"], "b": ["2", "3"], "c": ["3", "1"]}, 1) is None
    assert "an image of 1 the teachers alone that know it, and none of them knows 3;" in str(untold({"a": ["1", "2"], "b": ["2", "3"]}, 1))


@pytest.mark.parametrize("changed", [{"standardize_logits": True}, {"objective": "dist"}])
def test_blocks_of_free_scale_need_two_shared_classes_among_the_teachers_of_each_image(changed: dict[str, Any]) -> None:
    """The third one connects the first two, but is not asked about an image of class 1."""
    label_sets = LabelSets.of_task(
        {"a": ["1", "2", "3"], "b": ["1", "4", "5"], "c": ["2", "3", "4", "5"]}, list("12345"), "digits", "taskA"
    )
    plain = load_params(ROOT / "params.yaml").student("taskA").model_copy(update={"alpha": 1.0})
    assert unlearnable(label_sets, Teaching.of(plain), np.arange(5)) is None
    problem = str(unlearnable(label_sets, Teaching.of(plain.model_copy(update=changed)), np.arange(5)))
    assert "an image of 1 the teachers alone that know it, and of these b share fewer than two classes" in problem
