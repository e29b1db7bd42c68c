"""A file of weights that is evaluated in place of the trained student, and what lies beside it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from amalgam.errors import UserError
from amalgam.files import sha256_of_file
from amalgam.given_student import copy_checkpoint, load_checkpoint
from amalgam.models import save_classifier, save_weights
from amalgam.networks import build_network
from amalgam.students import Architecture, new_student
from conftest import SETS, colour_split


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ('{"weights_sha256": ', "is damaged, or no JSON"),
        ("[1]", "holds no JSON object"),
        ('{"weights_sha256": "OWN", "architecture": "MobileNetV3", "classes": ["a"]}', "lacks preprocessing; restore it, or move it away"),
        ('{"weights_sha256": "OWN"}', "lacks architecture, classes, preprocessing"),
    ],
)
def test_what_is_no_students_manifest_is_refused_by_name(said: str, message: str, tmp_path: Path) -> None:
    save_weights(build_network("MobileNetV3", 3).state_dict(), tmp_path / "best.safetensors")
    (tmp_path / "student.json").write_text(said.replace("OWN", sha256_of_file(tmp_path / "best.safetensors")))
    with pytest.raises(UserError, match=re.escape(f"{tmp_path / 'student.json'} {message}")):
        copy_checkpoint(tmp_path / "best.safetensors", "abc", 64, "--checkpoint", tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_manifest_of_no_network_here_is_refused(tmp_path: Path) -> None:
    best = tmp_path / "best.safetensors"
    save_weights(build_network("MobileNetV3", 3).state_dict(), best)
    made_of = {"architecture": "Foo", "classes": ["a", "b", "c"], "preprocessing": {"size": [64, 64]}}
    (tmp_path / "student.json").write_text(json.dumps({"weights_sha256": sha256_of_file(best)} | made_of))
    with pytest.raises(UserError, match="architecture Foo is unknown here; these are known: MobileNetV3, EfficientNet, ResNet18, timm/"):
        copy_checkpoint(best, "abc", 64, "--checkpoint", tmp_path / "copy")


def test_a_student_is_known_by_its_manifest_alone(tmp_path: Path) -> None:
    """As an MLflow run holds it, without run.json: of other images than the pipeline's it is refused, for it may know the test images."""
    split = colour_split(12, 20, 4)
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, split, 0)
    made_of = {"training_images": "other"}
    save_classifier(student, tmp_path / "best.safetensors", tmp_path / "student.json", made_of)
    with pytest.raises(UserError, match=r"checkpoint\.taskA: .*best\.safetensors knows blue, green, red, but the task says a, b, c"):
        copy_checkpoint(tmp_path / "best.safetensors", "abc", 32, "evaluate.checkpoint.taskA", tmp_path / "copy")
    copy_checkpoint(tmp_path / "best.safetensors", SETS.classes, 32, "--checkpoint", tmp_path / "copy")
    with pytest.raises(UserError, match=r"best\.safetensors was trained on other images, .*, and take training_images out of that"):
        load_checkpoint(tmp_path / "copy", SETS, split)
    load_checkpoint(tmp_path / "copy", SETS, replace(split, content="other"))


def test_why_weights_are_no_students_is_told_once_a_student(tmp_path: Path) -> None:
    save_weights(build_network("MobileNetV3", 4).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(
        UserError, match=r"3 classes \(MobileNetV3: it has classifier\.\S+ of \(4.*; EfficientNet: it lacks .*; ResNet18: it "
    ):
        copy_checkpoint(tmp_path / "w.safetensors", "abc", 64, "--checkpoint", tmp_path / "copy")
