"""The parameters: one definition, one reader, messages that say what to do."""

import math
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from amalgam.errors import UserError
from amalgam.params import Params
from amalgam.params_file import load_params, read_yaml
from amalgam.student_settings import StudentSettings
from conftest import ROOT, Repository, make_repository
from shipped import SHIPPED, edited, load


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
