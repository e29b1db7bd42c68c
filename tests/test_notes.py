"""Names, commands and notes of runs."""

import os
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.utils.cli_parse import to_path_overrides
from dvc.utils.hydra import apply_overrides

from amalgam.errors import without_passwords
from amalgam.notes import arguments, changed_settings, recorded_settings, repeat, run_name, run_note
from amalgam.params_file import load_params
from amalgam.student_settings import StudentSettings
from conftest import ROOT
from shipped import SHIPPED

FOUND = {
    "interval_95": (80.1, 83.9),
    "overall_accuracy": 82.0,
    "oracle_routed_teachers": 84.0,
    "unrouted_teachers": 55.0,
    "unrouted_teachers_joint": 57.0,
    "teacher_accuracy": {"trees": 75.8, "flowers": 81.6},
    "teacher_doubts": {"flowers": "may have been trained on them"},
}


CONFUSION = [["actual", "cat", "dog"], ["cat", "9", "1"], ["dog", "0", "7"]]


def settings(**changes: object) -> StudentSettings:
    return load_params(ROOT / "params.yaml").student("taskA").model_copy(update={"alpha": 0.5, "temperature": 4.0, "seed": 42} | changes)


def test_no_password_is_told() -> None:
    then = "gdrive:\n  fetch:\n    data: null\n"
    now = "gdrive:\n  fetch:\n    data: https://me:secret@example.org/images.zip\n"
    assert arguments(now, then) == ["gdrive.fetch.data=https://example.org/images.zip"]
    assert changed_settings(now, then) == {"gdrive.fetch.data": "https://example.org/images.zip"}


@pytest.mark.parametrize(
    ("told", "rest"),
    [
        ("https://user:p@ss@host/x.zip", "https://host/x.zip"),
        ("https://host/x.zip?id=7&X-Amz-Signature=abc&part=1", "https://host/x.zip?id=7&X-Amz-Signature=…&part=1"),
        ("http://host/?access_token=abc and more", "http://host/?access_token=… and more"),
        ("https://drive.google.com/uc?id=abc", "https://drive.google.com/uc?id=abc"),
        ("file:///home/me@work/x.zip", "file:///home/me@work/x.zip"),
    ],
)
def test_what_opens_a_place_is_told_nobody(told: str, rest: str) -> None:
    assert without_passwords(told) == rest


@pytest.mark.parametrize("committed", ["classes: [+1]\n", "a: 1\na: 2\n", "a: [1\n"])
def test_settings_of_the_commit_that_would_be_refused_stop_nothing(committed: str) -> None:
    """The present ones are right; what has changed is told as a patch."""
    now = "classes: ['+1']\n"
    assert changed_settings(now, committed) == {}
    assert arguments(now, committed) is None
    assert repeat("abc", now, committed).startswith("git checkout abc\ngit apply <<'END'\n")


def test_what_is_told_of_a_run_does_not_depend_on_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a file of weights its place in the repository or, outside of it, its name."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    for given, said in (
        (str(tmp_path / "repository" / "weights" / "lite0.pth"), "weights/lite0.pth"),
        ("weights/lite0.pth", "weights/lite0.pth"),
        (str(tmp_path / "elsewhere" / "lite0.pth"), "lite0.pth"),
        ("~/lite0.pth", "lite0.pth"),
        (None, None),
    ):
        values = settings(student_weights=given)
        assert recorded_settings(values) == values.model_dump() | {"student_weights": said}
        assert run_name(values, {"student_weights": str(given)}, "taskA") == f"MobileNetV3 α0.5 T4 blocks s42 student_weights={said}"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "MobileNetV3 α0.5 T4 blocks s42"),
        ({"alpha": 0.0}, "MobileNetV3 α0 s42"),
        ({"lr": 0.01, "run": "again"}, "MobileNetV3 α0.5 T4 blocks s42 lr=0.01 again"),
        ({"target": "joint", "objective": "dkd", "standardize_logits": True}, "MobileNetV3 α0.5 T4 joint-dkd standardized s42"),
        ({"label_fraction": 0.1, "pretrained": True, "run": "again"}, "MobileNetV3 pretrained α0.5 T4 blocks labels 10% s42 again"),
    ],
)
def test_a_runs_name_says_what_differs(changes: dict[str, object], name: str) -> None:
    assert run_name(settings(**changes), dict.fromkeys(changes, ""), "taskA") == name


def test_a_runs_name_says_what_was_changed_for_its_task_or_the_teachers() -> None:
    changed = {
        "taskA.num_epochs": "7",
        "taskB.lr": "1",
        "batch_size": "8",
        "taskA.batch_size": "16",
        "teacher.lr": "0.1",
        "source": "folder",
    }
    name = run_name(settings(num_epochs=7, batch_size=16), changed, "taskA")
    assert name == "MobileNetV3 α0.5 T4 blocks s42 batch_size=16 num_epochs=7 teacher.lr=0.1"


def test_the_commands_repeat_what_was_changed() -> None:
    now = (
        SHIPPED.replace("\nalpha: 0.5", "\nalpha: 0.9")
        .replace("low: [0, 1, 2, 3]\n", "low: [0, 1, no]\n")
        .replace("run: ''", "run: my run")
    )
    changed = changed_settings(now, SHIPPED)
    assert changed == {"alpha": "0.9", "run": "my run", "digits.tasks.taskA.low": "[0,1,no]"}
    commands = repeat("a1b2c3", now, SHIPPED).splitlines()
    assert commands[0] == "git checkout a1b2c3"
    words = shlex.split(commands[1])
    assert words[:3] == ["dvc", "exp", "run"]
    assert set(words[4::2]) == {f"{key}={value}" for key, value in changed.items()}
    odd = SHIPPED.replace("low: [0, 1, 2, 3]\n", "low: ['a, b', c]\n").replace("run: ''", "run: it's (1)")
    assert changed_settings(odd, SHIPPED) == {"run": r"'it\'s (1)'", "digits.tasks.taskA.low": "['a, b',c]"}
    assert changed_settings(SHIPPED, SHIPPED) == {}
    assert changed_settings(SHIPPED.replace("\nalpha: 0.5", "\nalpha:"), SHIPPED) == {"alpha": "null"}
    assert repeat(None, SHIPPED, None) == repeat(None, SHIPPED, SHIPPED) == "dvc exp run"


def test_dvc_repeats_keys_that_are_new_or_gone(tmp_path: Path) -> None:
    """DVC's own reading of -S makes the settings of a run from those of its commit."""
    tasks = "  tasks:\n    taskA:\n"
    assert SHIPPED.count(tasks) > 1
    changes = {
        "a teacher more": SHIPPED.replace("      low: [0, 1, 2, 3]\n", "      low: [0, 1, 2, 3]\n      odd: [1, 3]\n"),
        "a teacher less": SHIPPED.replace("      low: [0, 1, 2, 3]\n", ""),
        "renamed, and another value": SHIPPED.replace("      low: [0,", "      small: [0,").replace("\nalpha: 0.5", "\nalpha: 0.9"),
        "a task more": SHIPPED.replace("  tasks:\n    taskA:\n", "  tasks:\n    taskC:\n      x: [1, 2]\n      y: [3]\n    taskA:\n"),
        "letters beyond ASCII": SHIPPED.replace("      low: [0, 1,", "      low: [Äpfel, größer,").replace("run: ''", "run: größer"),
        "an empty block": SHIPPED.replace("\nalpha: 0.5", "\nalpha: {}"),
        "a block for a value": SHIPPED.replace("\nalpha: 0.5", "\nalpha: {low: 1, high: 2}"),
    }
    for name, now in changes.items():
        for then, wanted in ((SHIPPED, now), (now, SHIPPED)):
            file = tmp_path / "params.yaml"
            file.write_text(then)
            settings = arguments(wanted, then)
            assert settings is not None, name
            assert settings, name
            apply_overrides(file, to_path_overrides(settings)["params.yaml"])
            assert yaml.safe_load(file.read_text()) == yaml.safe_load(wanted), name


@pytest.mark.parametrize("by_hand", [None, "python stages/train.py --task B --lr 0.005"])
@pytest.mark.parametrize("key", ["birch+oak", "größe", "v1.0", "2nd"])
def test_settings_that_dvc_cannot_name_come_as_a_patch(key: str, by_hand: str | None, tmp_path: Path) -> None:
    """Of own teachers, say, that have taken the place of the shipped ones. Run, it makes the same params.yaml."""
    block = "      fruit+vegetables: "
    renamed = SHIPPED.replace(block, f"      {key}: ", 1)
    assert renamed != SHIPPED
    for now in (renamed, renamed.rstrip("\n")):
        for then, wanted in ((SHIPPED, now), (now, SHIPPED)):
            assert arguments(wanted, then) is None
            *patch, last = repeat(None, wanted, then, by_hand).splitlines(keepends=True)
            assert last == (by_hand or "dvc exp run")
            (tmp_path / "params.yaml").write_text(then)
            subprocess.run(
                ["bash", "-c", "".join(patch)],
                cwd=tmp_path,
                check=True,
                env={**os.environ, "GIT_CEILING_DIRECTORIES": str(tmp_path.parent)},
            )
            assert (tmp_path / "params.yaml").read_text() == wanted


def test_a_training_by_hand_is_repeated_by_its_own_command() -> None:
    assert repeat("a1b2", SHIPPED, SHIPPED, "python stages/train.py") == "git checkout a1b2\npython stages/train.py"
    changed = repeat("a1b2", SHIPPED.replace("\nalpha: 0.5", "\nalpha: 0.9"), SHIPPED, "python stages/train.py")
    assert "-alpha: 0.5" in changed
    assert "+alpha: 0.9" in changed


def test_the_note_says_which_images_chose_the_epoch() -> None:
    note = run_note("taskA", "ResNet18", {"val_accuracy": 81.5}, FOUND, None, "", False, "test images (optimistic)")
    assert "| student, test images (optimistic), which chose the epoch | 81.5 |" in note
    assert "| **student, test images** (they chose the epoch) | **82** (80.1 … 83.9) |" in note
    assert "validation" not in note


def test_the_note_holds_results_and_commands() -> None:
    trained = run_note("taskA", "ResNet18", {"val_accuracy": 81.5}, None, None, "dvc exp run", False)
    assert "| student, validation images | 81.5 |" in trained
    assert "test images" not in trained
    tested = run_note("taskA", "ResNet18", {"val_accuracy": 81.5}, FOUND, CONFUSION, "dvc exp run -S alpha=0.9", True)
    assert "| **student, test images** | **82** (80.1 … 83.9) |" in tested
    assert "| teacher trees, on its own classes | 75.8 |" in tested
    assert "| teacher flowers, on its own classes (may have been trained on them) | 81.6 |" in tested
    assert "| actual \\ predicted | cat | dog |\n|---|---|---|\n| **cat** | 9 | 1 |\n| **dog** | · | 7 |" in tested
    assert "```\ndvc exp run -S alpha=0.9\n```" in tested
    assert "changes that no commit holds" in tested


def test_names_are_no_markup() -> None:
    confusion = [["actual", "a|b", "*star*"], ["a|b", "9", "1"], ["*star*", "0", "7"]]
    note = run_note("taskA", "ResNet18", {}, FOUND | {"teacher_accuracy": {"my_old_one": 75.8}}, confusion, "dvc exp run", False)
    assert "| actual \\ predicted | a\\|b | \\*star\\* |\n|---|---|---|\n| **a\\|b** | 9 | 1 |\n| **\\*star\\*** | · | 7 |" in note
    assert "| teacher my\\_old\\_one, on its own classes | 75.8 |" in note
    odd = r"\ | * _ ` < ~ ["
    note = run_note("taskA", "ResNet18", {}, FOUND, [["actual", odd], [odd, "9"]], "dvc exp run", False)
    assert r"| **\\ \| \* \_ \` \< \~ \[** | 9 |" in note


def test_a_note_too_long_for_mlflow_keeps_whole_commands_or_says_where_they_stand() -> None:
    """MLflow would cut its end off."""
    few, many = "dvc exp run -S alpha=0.5", "\n".join(f"dvc exp run -S +folder.supplied.taskA.x{n}.resolution=224" for n in range(200))
    large = [["actual", *"abcdefghijklmnopqrst"], *([name, *["1000000000000000"] * 20] for name in "abcdefghijklmnopqrst")]
    for confusion, commands, parts in (
        (CONFUSION, few, ("| actual \\ predicted", few)),
        ([row[:21] for row in large], few + "#" * 2000, (few + "#" * 2000,)),
        (CONFUSION, many, ("| actual \\ predicted", "To repeat it: the commands in the artifact student/repeat.sh")),
    ):
        note = run_note("taskA", "MobileNetV3", {"val_accuracy": 90.0}, None, confusion, commands, dirty=True)
        assert len(note) <= 8000
        for part in (*parts, "student, validation images | 90", "changes that no commit holds"):
            assert part in note


def test_of_many_classes_the_note_lists_what_is_most_often_confused() -> None:
    names = [f"c{i}" for i in range(30)]
    counts = np.diag(np.full(30, 90))
    counts[3, 5], counts[7, 1] = 4, 9
    confusion = [["actual", *names], *([name, *map(str, row)] for name, row in zip(names, counts, strict=True))]
    note = run_note("taskA", "ResNet18", {}, FOUND, confusion, "dvc exp run", False)
    assert "| actual | taken for | images |\n|---|---|---|\n| c7 | c1 | 9 |\n| c3 | c5 | 4 |\n" in note
