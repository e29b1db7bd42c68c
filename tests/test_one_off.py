"""Trainings by hand (test_moving_over.py runs them whole)."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from torch import nn

from amalgam import one_off, up_to_date
from amalgam.dataset import PreparedSplit
from amalgam.errors import UserError
from amalgam.models import Classifier
from amalgam.params import Params
from amalgam.params_file import load_params
from amalgam.preprocessing import Preprocessing
from amalgam.programs import read_program
from amalgam.team import SOLO
from conftest import ROOT, SETS
from foreign_teachers import MEAN, STD, export_program
from shipped import SHIPPED
from untrained_teachers import untrained_teachers

SUPPLIED = """  supplied:
    taskA:
      low: {weights: low.pt2, resolution: 8, mean: null, std: null, min_accuracy: 0}
"""


@pytest.mark.parametrize("named", [False, True])
def test_the_order_of_a_supplied_teachers_outputs_is_that_of_when_it_was_copied(
    named: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where its own ``classes`` do not say it, the task's do; otherwise these may be in any order."""
    supplied = SUPPLIED.replace("resolution: 8", "resolution: 8, classes: [0, 1, 2, 3]") if named else SUPPLIED
    text = SHIPPED.replace("  supplied: {}\n", supplied, 1)
    monkeypatch.chdir(tmp_path)

    def params(low: str) -> Params:
        Path("params.yaml").write_text(text.replace("low: [0, 1, 2, 3]", f"low: {low}", 1))
        return load_params()

    before = params("[0, 1, 2, 3]").digits.model_dump(mode="json")
    ran = {"fetch": ("fetch",), "weights": ("supplied", "tasks")}
    stages = {stage: {"params": {"params.yaml": {f"digits.{part}": before[part] for part in parts}}} for stage, parts in ran.items()}
    Path("dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    up_to_date.check_brought(params("[0, 1, 2, 3]"))
    if named:
        up_to_date.check_brought(params("[3, 2, 1, 0]"))
    else:
        with pytest.raises(UserError, match=r"digits\.tasks is not what it was when the pipeline's stage weights ran last"):
            up_to_date.check_brought(params("[3, 2, 1, 0]"))


@pytest.mark.usefixtures("root")
def test_one_preprocessing_for_all_must_suit_every_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exported program takes images of one size alone."""
    export_program(["blue", "green"], tmp_path / "cold.pt2", resolution=32)
    how = Preprocessing((32, 32), MEAN, STD)
    teacher = Classifier("program", read_program(tmp_path / "cold.pt2"), ("blue", "green"), how)
    monkeypatch.setattr(one_off, "load_teachers", lambda *_: {"cold": teacher})
    one_off.check_common(tmp_path, SETS, how)
    with pytest.raises(
        UserError, match=r"cold does not take images of 64 × 64 pixels \(.+\); name a --student_resolution that all teachers take"
    ):
        one_off.check_common(tmp_path, SETS, replace(how, size=(64, 64)))


@pytest.mark.usefixtures("root")
def test_the_teachers_are_gone_when_the_training_begins(split: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has better use for the memory they take."""
    networks: list[weakref.ref[nn.Module]] = []

    def load(*_: object) -> object:
        teachers = untrained_teachers()
        networks.extend(weakref.ref(teacher.network) for teacher in teachers.values())
        return teachers

    monkeypatch.setattr(one_off, "load_teachers", load)
    params = load_params(ROOT / "params.yaml")
    with one_off.targets_for(split, SETS, tmp_path, params.student("taskA"), params, None, tmp_path, SOLO) as targets:
        gc.collect()
        assert len(targets.validation_logits()) == split.validation.sum()
        assert [network() for network in networks] == [None, None]
