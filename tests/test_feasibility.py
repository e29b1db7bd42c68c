"""What can be told before teachers run (test_contradictions.py and test_compiling.py: of labels and students)."""

from dataclasses import replace
from pathlib import Path

import pytest

from amalgam.dataset import PreparedSplit
from amalgam.errors import UserError
from amalgam.feasibility import check_split
from amalgam.files import write_json
from amalgam.params import Params
from amalgam.params_file import load_params
from conftest import ROOT

PARAMS = load_params(ROOT / "params.yaml")


def shifted(crop: int) -> Params:
    augmentation = PARAMS.digits.augmentation.model_copy(update={"crop": crop})
    return PARAMS.model_copy(update={"digits": PARAMS.digits.model_copy(update={"augmentation": augmentation})})


def test_shifts_leave_more_than_half_of_an_image(split: PreparedSplit) -> None:
    """By 28 of 32 pixels half of the views would be mirrored, whatever ``flip`` says, and upside down."""
    check_split("taskA", shifted(3), split)
    with pytest.raises(UserError, match=r"digits\.augmentation\.crop 4 shifts images of taskA, 8 × 8 pixels .*; lower it, to 1 say"):
        check_split("taskA", shifted(4), split)


def test_a_student_of_other_images_is_refused_before_anything_is_trained(
    split: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fetched/checkpoints/taskA").mkdir(parents=True)
    write_json(Path("fetched/checkpoints/taskA/checkpoint.json"), {"file": "best.safetensors", "split": split.content})
    check_split("taskA", PARAMS, split)
    with pytest.raises(UserError, match=r"^evaluate\.checkpoint\.taskA: best\.safetensors was trained on other images"):
        check_split("taskA", PARAMS, replace(split, content="another"))
