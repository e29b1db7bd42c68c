"""Trainings by hand (test_moving_over.py runs them whole)."""

import gc
import weakref
from pathlib import Path

import pytest
from torch import nn

from amalgam import one_off
from amalgam.dataset import PreparedSplit
from amalgam.params_file import load_params
from amalgam.team import SOLO
from conftest import ROOT, SETS
from untrained_teachers import untrained_teachers


@pytest.mark.usefixtures("root")
def test_the_teachers_are_gone_when_the_training_begins(split: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU has better use for the memory they take."""
    networks: list[weakref.ref[nn.Module]] = []

    def load(*_: object) -> object:
        teachers = untrained_teachers()
        networks.extend(weakref.ref(teacher.network) for teacher, _ in teachers.values())
        return teachers

    monkeypatch.setattr(one_off, "load_hashed_teachers", load)
    params = load_params(ROOT / "params.yaml")
    with one_off.targets_for(split, SETS, tmp_path, params.student("taskA"), params, None, tmp_path, SOLO) as targets:
        gc.collect()
        assert len(targets.validation_logits()) == split.validation.sum()
        assert [network() for network in networks] == [None, None]
