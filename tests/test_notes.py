"""Names, commands and notes of runs."""

import shlex

import pytest

from amalgam.notes import changed_settings, repeat, run_name, run_note
from amalgam.params import StudentSettings, load_params
from conftest import ROOT

SHIPPED = (ROOT / "params.yaml").read_text()
FOUND = {
    "interval_95": (80.1, 83.9),
    "overall_accuracy": 82.0,
    "oracle_routed_teachers": 84.0,
    "unrouted_teachers": 55.0,
    "teacher_accuracy": {"trees": 75.8},
}


def settings(**changes: object) -> StudentSettings:
    return load_params(ROOT / "params.yaml").student("taskA").model_copy(update={"alpha": 0.5, "temperature": 4.0, "seed": 42} | changes)


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "MobileNetV3 α0.5 T4 blocks s42"),
        ({"alpha": 0.0}, "MobileNetV3 α0 s42"),
        ({"target": "joint", "objective": "dkd", "standardize_logits": True}, "MobileNetV3 α0.5 T4 joint-dkd standardized s42"),
        ({"label_fraction": 0.1, "pretrained": True, "run": "again"}, "MobileNetV3 pretrained α0.5 T4 blocks labels 10% s42 again"),
    ],
)
def test_a_runs_name_says_what_differs(changes: dict[str, object], name: str) -> None:
    assert run_name(settings(**changes)) == name


def test_the_commands_repeat_what_was_changed() -> None:
    now = (
        SHIPPED.replace("\nalpha: 0.5", "\nalpha: 0.9")
        .replace("low: [0, 1, 2, 3]\n", "low: [0, 1, no]\n")
        .replace("run: ''", "run: my run")
    )
    changed = changed_settings(now, SHIPPED)
    assert changed == {"alpha": "0.9", "run": "my run", "digits.tasks.taskA.low": "[0,1,no]"}
    commands = repeat("a1b2c3", changed).splitlines()
    assert commands[0] == "git checkout a1b2c3"
    words = shlex.split(commands[1])
    assert words[:3] == ["dvc", "exp", "run"]
    assert set(words[4::2]) == {f"{key}={value}" for key, value in changed.items()}
    assert changed_settings(SHIPPED, SHIPPED) == {}
    assert changed_settings(SHIPPED.replace("\nalpha: 0.5", "\nalpha:"), SHIPPED) == {"alpha": "null"}
    assert repeat(None, {}) == "dvc exp run"


def test_the_note_holds_results_and_commands() -> None:
    trained = run_note("taskA", "ResNet18", {"val_accuracy": 81.5}, None, "dvc exp run", False)
    assert "| student, validation images | 81.5 |" in trained
    assert "test images" not in trained
    tested = run_note("taskA", "ResNet18", {"val_accuracy": 81.5}, FOUND, "dvc exp run -S alpha=0.9", True)
    assert "| **student, test images** | **82** (80.1 … 83.9) |" in tested
    assert "| teacher trees, on its own classes | 75.8 |" in tested
    assert "```\ndvc exp run -S alpha=0.9\n```" in tested
    assert "changes that no commit holds" in tested
