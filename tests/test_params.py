"""The parameters: one definition, one reader, messages that say what to do."""

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from amalgam.contradictions import incomparable, separate, too_few_classes, untold
from amalgam.dataset import LabelSets
from amalgam.errors import UserError
from amalgam.feasibility import check_labels
from amalgam.params import Params
from amalgam.params_file import load_params, read_yaml
from amalgam.student_settings import StudentSettings
from amalgam.teaching import Teaching, unlearnable
from conftest import ROOT, Repository, make_repository

SHIPPED = (ROOT / "params.yaml").read_text()


def load(text: str, tmp_path: Path) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return load_params(path)


def edited(old: str, new: str) -> str:
    assert SHIPPED.count(f"\n{old}") == 1
    return str(SHIPPED.replace(f"\n{old}", f"\n{new}"))


def every_field(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every parameter by its dotted name, but the tasks' overrides."""
    for name, field in model.model_fields.items():
        if name in ("tasks", "overrides") and model is Params:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from every_field(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def test_every_parameter_is_documented_in_place_by_its_own_description() -> None:
    prose = " ".join(line.strip().removeprefix("#").strip() for line in SHIPPED.splitlines() if line.strip().startswith("#"))

    for name, field in every_field(Params):
        assert field.description, name
        assert field.description in prose, f"params.yaml does not carry the description of {name}"


def test_a_task_overrides_what_it_names_and_nothing_else(tmp_path: Path) -> None:
    params = load(edited("taskA:\n", "taskA:\n  alpha: 0.9\n"), tmp_path)
    assert params.student("taskA").alpha == 0.9
    assert params.student("taskB").alpha == params.alpha
    assert params.student("taskA").model_dump(exclude={"alpha"}) == params.student("taskB").model_dump(exclude={"alpha"})


def test_every_student_setting_can_be_overridden_for_each_task() -> None:
    values, _ = read_yaml(SHIPPED, "params.yaml")
    for task in ("taskA", "taskB"):
        assert values[task] == dict.fromkeys(StudentSettings.model_fields)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("alpha: 0.5", "alhpa: 0.5", ": alhpa: unknown key; did you mean 'alpha'?"),
        ("alpha: 0.5", "alpha: 1.5", ": alpha: '1.5' is refused: input should be less than or equal to 1"),
        ("alpha: 0.5", "alpha: .nan", ": alpha: '.nan' is refused"),
        ("alpha: 0.5", "alpha:", ": alpha: None is refused"),
        ("alpha: 0.5", "", "alpha: missing; every key must stand in the file"),
        ("alpha: 0.5", "alpha: 0.5\nalpha: 0.6", "the key 'alpha' stands twice"),
        ("alpha: 0.5", "alpha: &alpha [*alpha]", ": an alias here names the block that it stands in; correct it"),
        ("alpha: 0.5", "alpha: &alpha {beta: {<<: *alpha}}", ": an alias here names the block that it stands in; correct it"),
        ("num_epochs: 30", "num_epochs: 2.5", ": num_epochs: '2.5' is refused: input should be a valid integer"),
        ("student_model: MobileNetV3", "student_model: VGG", "MobileNetV3, EfficientNet, ResNet18 or timm/"),
        ("source: digits", "source: mnist", "'digits', 'cifar100', 'folder' or 'gdrive'"),
        ("source: digits", "source: [", "is not valid YAML"),
        ("taskB:", "taskC:", "digits.tasks.taskB has no block 'taskB:'"),
        ("taskB:", "tasks:", "unknown key 'tasks'"),
        (
            "  tasks:\n    taskA:\n      low: [0,",
            "  tasks:\n    birds:\n      low: [0,",
            "'birds' is refused: a task is named task and a capital",
        ),
        ("teacher:", "teechers:", ": teechers: unknown key; did you mean 'teacher'?"),
    ],
)
def test_what_is_wrong_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(edited(old, new), tmp_path)
    assert message in str(error.value)
    assert str(tmp_path / "params.yaml") in str(error.value)


RESPELLED = {"True": "true", "FALSE": "false", "+1": "1", "-0": "0", "1e400": ".inf", ".NaN": ".nan", "1__0": "1_0"}


@pytest.mark.parametrize(("name", "written"), RESPELLED.items())
def test_a_name_that_dvc_would_respell_must_be_quoted(name: str, written: str, tmp_path: Path) -> None:
    """Of a class or of a teacher."""
    refusal = re.escape(f": quote the name {name}, as '{name}': dvc exp run would write {written}")
    for plain, quoted in ((f"low: [{name},", f"low: ['{name}',"), (f"{name}: [0,", f"'{name}': [0,")):
        with pytest.raises(UserError, match=rf"params\.yaml:\d+{refusal}$"):
            load(SHIPPED.replace("low: [0,", plain, 1), tmp_path)
        read, _ = read_yaml(SHIPPED.replace("low: [0,", quoted, 1), "x")
        teachers = read["digits"]["tasks"]["taskA"]
        assert name in (next(iter(teachers)), next(iter(teachers.values()))[0])


@pytest.mark.parametrize("name", ["1", "true", "1.5", "null"])
def test_a_teachers_name_that_is_no_text_to_dvc_stands_beside_none_that_is(name: str, tmp_path: Path) -> None:
    """DVC sorts a block's keys, and gives up, with a TypeError alone, where they are of several kinds."""
    with pytest.raises(UserError, match=rf"params\.yaml:\d+: quote the name {re.escape(name)}, as '{re.escape(name)}': DVC takes it"):
        load(SHIPPED.replace("      low: [0,", f"      {name}: [0,", 1), tmp_path)
    quoted = load(SHIPPED.replace("      low: [0,", f"      '{name}': [0,", 1), tmp_path)
    assert name in quoted.digits.tasks["taskA"]


def test_numbers_may_name_every_teacher(tmp_path: Path) -> None:
    text = SHIPPED
    for number, name in enumerate(("low", "middle", "high")):
        text = text.replace(f"      {name}: [", f"      {number}: [")
    assert list(load(text, tmp_path).digits.tasks["taskA"]) == ["0", "1", "2"]


def test_a_class_that_yaml_takes_for_nothing_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"digits\.tasks\.taskA\.low\.0: null is nothing in YAML; a class of that name is written 'null'"):
        load(SHIPPED.replace("low: [0,", "low: [null,", 1), tmp_path)


def test_truth_values_are_no_names(tmp_path: Path) -> None:
    assert load(edited("pretrained: false", "pretrained: TRUE"), tmp_path).pretrained is True


def test_a_name_that_dvc_reads_as_a_date_must_be_quoted(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"params\.yaml:\d+: quote the name 2026-01-31, as '2026-01-31': DVC reads no dates"):
        load(SHIPPED.replace("low: [0,", "low: [2026-01-31,", 1), tmp_path)


@pytest.mark.parametrize("name", ["0", "10", "-1", "010", "1.50", "1e3", "0x1F", "1_000", "1.2.3", "3-4", "-x", "2" + 30 * " long"])
def test_other_names_need_no_quotes(name: str, tmp_path: Path) -> None:
    read, _ = read_yaml(SHIPPED.replace("low: [0,", f"low: [{name},", 1), "x")
    assert read["digits"]["tasks"]["taskA"]["low"][0] == name


def test_names_that_some_disks_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="low and Low differ in upper and lower case alone; rename one"):
        load(SHIPPED.replace("low: [0, 1, 2, 3]", "low: [0, 1, 2, 3]\n      Low: [4, 5]", 1), tmp_path)


def test_a_misspelt_key_is_one_message_not_two(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        load(edited("alpha: 0.5", "alhpa: 0.5"), tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_a_misspelt_key_of_a_task_is_found(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"taskA\.alhpa: unknown key; did you mean 'alpha'\?"):
        load(SHIPPED.replace("  alpha: null", "  alhpa: 0.9", 1), tmp_path)


def test_everything_wrong_is_said_at_once_with_its_line(tmp_path: Path) -> None:
    text = edited("alpha: 0.5", "alpha: 7").replace("\ntemperature: 4.0", "\ntemperature: -1")
    with pytest.raises(UserError) as error:
        load(text, tmp_path)
    lines = text.splitlines()
    for key in ("alpha: 7", "temperature: -1"):
        assert f"params.yaml:{lines.index(key) + 1}: {key.partition(':')[0]}: " in str(error.value)


def test_the_line_of_a_tasks_own_value_is_named_though_the_shared_keys_stand_below_it(tmp_path: Path) -> None:
    text = edited("taskA:\n  <<: *overrides", "taskA:\n  alpha: 7\n  <<: *overrides")
    with pytest.raises(UserError, match=rf"params\.yaml:{text.splitlines().index('  alpha: 7') + 1}: taskA\.alpha: "):
        load(text, tmp_path)


def test_a_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(SHIPPED.encode() + "# für\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"params\.yaml is not UTF-8 \(.*\); save it so"):
        load_params(tmp_path / "params.yaml")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml not found"):
        load_params(tmp_path / "absent.yaml")


def test_class_names_are_text_and_numbers_numbers_however_they_are_spelt(tmp_path: Path) -> None:
    text = edited("lr: 0.003", "lr: 5e-05").replace("low: [0, 1, 2, 3]", "low: [no, on, 010, 1e3, ~, 'null', '2026-01-01', 0x1F]")
    with pytest.raises(UserError, match=r"low\.4: null is nothing in YAML"):
        load(text, tmp_path)
    params = load(text.replace(" ~,", ""), tmp_path)
    assert params.lr == 5e-05
    assert params.digits.tasks["taskA"]["low"] == ["no", "on", "010", "1e3", "null", "2026-01-01", "0x1F"]


@given(st.floats(min_value=1e-300, max_value=10, exclude_min=True))
@settings(max_examples=50, deadline=None)
def test_a_float_is_read_back_in_any_spelling(value: float) -> None:
    for spelling in (repr(value), f"{value:.17e}", f"'{value!r}'"):
        values, _ = read_yaml(f"lr: {spelling}", "x")
        assert math.isclose(float(values["lr"]), value, rel_tol=1e-15)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """A repository whose only stage copies params.yaml, to see what DVC makes of it."""
    repository = make_repository(tmp_path_factory.mktemp("params") / "repository")
    shutil.copyfile(ROOT / "params.yaml", repository.root / "params.yaml")
    repository.edit("params.yaml", lambda text: text.replace("low: [0, 1, 2, 3]", "low: [no, on, 010, '007', 3]", 1))
    stages = {"stages": {"copy": {"cmd": "cat params.yaml > seen.yaml", "params": ["alpha", "lr", "taskA"], "outs": ["seen.yaml"]}}}
    (repository.root / "dvc.yaml").write_text(yaml.safe_dump(stages))
    for name in ("data.dvc", "models.dvc"):
        (repository.root / name).unlink()
    repository.commit()
    return repository


def test_dvc_sets_one_tasks_value_and_no_other_tasks(repository: Repository) -> None:
    repository.run("dvc", "exp", "run", "-S", "taskA.temperature=8")
    seen = load_params(repository.root / "seen.yaml")
    assert [seen.student(task).temperature for task in ("taskA", "taskB")] == [8, 4]


@pytest.mark.parametrize(("setting", "value"), [("alpha=0.5", 0.5), ("taskA.lr=3e-5", 3e-5), ("taskA.lr=0.00005", 5e-5), ("lr=1e-2", 0.01)])
def test_what_dvc_writes_is_read_as_meant(repository: Repository, setting: str, value: float) -> None:
    repository.run("dvc", "exp", "run", "--set-param", setting)
    seen = load_params(repository.root / "seen.yaml")
    name = setting.partition("=")[0]
    settings = seen.student("taskA") if name.startswith("taskA.") else seen
    assert getattr(settings, name.removeprefix("taskA.")) == value
    assert seen.digits.tasks["taskA"]["low"] == ["no", "on", "010", "007", "3"]
    for line in SHIPPED.splitlines():
        if line.startswith("#"):
            assert line in (repository.root / "seen.yaml").read_text(), "DVC dropped a comment"


def test_what_flags_and_the_file_contradict_each_other_in_names_both(repository: Repository) -> None:
    flags = {"target": "stacked", "label_fraction": "0", "stored_teachers": "all"}
    with pytest.raises(UserError, match=r"params\.yaml with these flags: taskA: target stacked .*, but label_fraction is 0; raise it"):
        load_params(repository.root / "params.yaml", "taskA", flags)


def test_dvc_refuses_a_key_that_does_not_exist(repository: Repository) -> None:
    result = repository.run("dvc", "exp", "run", "-S", "taskA.alhpa=0.5", check=False)
    assert result.returncode != 0
    assert "alhpa" in result.stderr


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


def test_a_task_takes_the_keys_of_overrides_and_its_own_values(tmp_path: Path) -> None:
    """An alias is the same wherever it stands, as for DVC."""
    text = edited("taskB:\n  <<: *overrides", "taskB: {alpha: 0.25, <<: *overrides, lr: 0.5}")
    params = load(text, tmp_path)
    assert (params.student("taskB").alpha, params.student("taskB").lr) == (0.25, 0.5)
    assert params.student("taskA").alpha == 0.5
    with pytest.raises(UserError, match=r"taskB\.target: missing; every key must stand in the file \(add the line '<<: \*overrides'"):
        load(edited("taskB:\n  <<: *overrides", "taskB: {alpha: 0.25}"), tmp_path)
    with pytest.raises(UserError, match=r"overrides\.alpha must stay null"):
        load(SHIPPED.replace("\n  alpha: null", "\n  alpha: 0.25"), tmp_path)


def test_a_task_may_merge_several_blocks_of_which_the_earlier_wins(tmp_path: Path) -> None:
    """As YAML has it, and so DVC."""
    text = edited("taskB:\n  <<: *overrides", "fast: &fast {lr: 0.5, alpha: 0.25}\ntaskB:\n  <<: [{lr: 0.125}, *fast, *overrides]")
    values, _ = read_yaml(text, "params.yaml")
    assert (values["taskB"]["lr"], values["taskB"]["alpha"], values["taskB"]["target"]) == ("0.125", "0.25", None)
    assert values["taskB"] == {name: None if value is None else str(value) for name, value in yaml.safe_load(text)["taskB"].items()}
    for wrong in ("3", "[*overrides, 3]"):
        with pytest.raises(UserError, match=r"params\.yaml:\d+: << takes a block, as \*overrides, or a list of blocks"):
            load(edited("taskB:\n  <<: *overrides", f"taskB:\n  <<: {wrong}"), tmp_path)


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


def test_a_student_to_evaluate_must_be_of_a_task_that_exists(tmp_path: Path) -> None:
    entry = "    taskB: null\n"
    assert SHIPPED.count(entry) == 1
    with pytest.raises(UserError, match=r"evaluate\.checkpoint\.taskC: there is no such task; the tasks are taskA, taskB"):
        load(SHIPPED.replace(entry, f"{entry}    taskC: student.pth\n"), tmp_path)
    assert load(SHIPPED.replace(entry, f"{entry}    taskC: null\n"), tmp_path).evaluate.checkpoint["taskC"] is None


@pytest.mark.parametrize("script", sorted(path.name for path in (ROOT / "stages").glob("*.py")))
def test_every_stage_answers_help_and_does_nothing_else(script: str, tmp_path: Path) -> None:
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    command = [sys.executable, str(ROOT / "stages" / script), "--help"]
    answer = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert answer.startswith("usage: ")
    assert {path.name for path in tmp_path.iterdir()} == {"params.yaml", "dvc.yaml"}
