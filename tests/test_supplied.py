"""Teachers that a user brings."""

import json
import shutil
import sys
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from amalgam.errors import UserError
from amalgam.inference import predict_logits
from amalgam.models import Classifier
from amalgam.preprocessing import Preprocessing
from amalgam.programs import read_program
from amalgam.source_settings import SuppliedTeacher
from amalgam.supplied import copy_supplied, doubt, enlarged, provide_supplied
from amalgam.teachers import OwnImages, load_teachers
from amalgam.views import Selected
from conftest import SETS, Repository, colour_split
from foreign_teachers import MEAN, STD, NearestColour, export_program, train_small

SPLIT = colour_split(12, 20, 4)
SEEN = {"mean": MEAN, "std": STD, "resolution": 24, "min_accuracy": 90.0}


def spec(**changes: Any) -> SuppliedTeacher:
    return SuppliedTeacher.model_validate({"weights": "cold.pt2"} | SEEN | changes)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    export_program(["green", "blue"], tmp_path / "cold.pt2")
    return tmp_path / "cold.pt2"


def provide(given: SuppliedTeacher, path: Path, classes: tuple[str | None, ...], folder: Path) -> dict[str, Any]:
    copy_supplied(given, classes, path, "teacher taskX cold", folder / "fetched" / "cold")
    provide_supplied(folder / "fetched" / "cold", OwnImages.of("cold", SETS, SPLIT), "teacher taskX cold", folder / "models" / "cold")
    return json.loads((folder / "models" / "cold" / "manifest.json").read_text())  # type: ignore[no-any-return]


def test_a_program_teaches_in_the_tasks_order_of_classes(program: Path, tmp_path: Path) -> None:
    """Its outputs are green, blue; the task's classes blue, green. Its logits are those computed by hand."""
    manifest = provide(spec(), program, ("green", "blue"), tmp_path)
    assert manifest["validation_accuracy"] == 100.0
    assert (manifest["classes"], manifest["output_order"]) == (["blue", "green"], [1, 0])
    sets = type(SETS)(SETS.classes, {"cold": SETS.teachers["cold"]})
    teacher = load_teachers(tmp_path / "models", sets)["cold"]
    rows = np.flatnonzero(SPLIT.labels < 2)
    assert (predict_logits(teacher, SPLIT.images, rows).argmax(1) == SPLIT.labels[rows]).all()
    pixels = torch.from_numpy(SPLIT.images[rows[:1]]).permute(0, 3, 1, 2) / 255
    larger = nn.functional.interpolate(pixels, (24, 24), mode="bilinear", antialias=True)
    by_hand = NearestColour(["blue", "green"])((larger - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1))
    np.testing.assert_allclose(predict_logits(teacher, SPLIT.images, rows[:1]), by_hand.detach(), rtol=1e-4)


def test_outputs_of_no_class_here_are_left_out(program: Path, tmp_path: Path) -> None:
    """Of the others the logits are what they are without them."""
    provide(spec(), program, ("green", "blue"), tmp_path / "two")
    export_program(["red", "green", "yellow", "blue"], program)
    manifest = provide(spec(), program, (None, "green", None, "blue"), tmp_path / "four")
    assert (manifest["classes"], manifest["output_order"], manifest["outputs"]) == (["blue", "green"], [3, 1], 4)
    sets = type(SETS)(SETS.classes, {"cold": SETS.teachers["cold"]})
    two, four = (load_teachers(tmp_path / name / "models", sets)["cold"] for name in ("two", "four"))
    rows = np.arange(len(SPLIT.labels))
    np.testing.assert_allclose(predict_logits(four, SPLIT.images, rows), predict_logits(two, SPLIT.images, rows), rtol=1e-5)


def test_a_state_dict_with_outputs_of_no_class_here_teaches(tmp_path: Path) -> None:
    train_small(["red", "green", "blue"], tmp_path / "cold.pth")
    given = spec(weights="cold.pth", architecture="timm/test_efficientnet", resolution=40, mean=[0.5] * 3, std=[0.5] * 3)
    assert provide(given, tmp_path / "cold.pth", (None, "green", "blue"), tmp_path)["validation_accuracy"] > 90


def test_a_checkpoint_of_a_training_that_keeps_its_command_line_teaches(tmp_path: Path) -> None:
    """As those of torchvision's own scripts, and timm's; any other class's object is refused."""
    train_small(["green", "blue"], tmp_path / "cold.pth")
    state = torch.load(tmp_path / "cold.pth")["state_dict"]
    torch.save({"model": state, "epoch": 3, "args": Namespace(lr=0.1, device="cuda", opt=None)}, tmp_path / "cold.pth")
    given = spec(weights="cold.pth", architecture="timm/test_efficientnet", resolution=40, mean=[0.5] * 3, std=[0.5] * 3)
    assert provide(given, tmp_path / "cold.pth", ("green", "blue"), tmp_path)["validation_accuracy"] > 90
    torch.save({"model": state, "args": Path("runs")}, tmp_path / "cold.pth")
    with pytest.raises(UserError, match=r"cold\.pth is damaged, or holds more than weights"):
        provide(given, tmp_path / "cold.pth", ("green", "blue"), tmp_path / "other")


def test_a_state_dict_of_another_library_teaches(tmp_path: Path) -> None:
    train_small(["blue", "green"], tmp_path / "cold.pth")
    given = spec(weights="cold.pth", architecture="timm/test_efficientnet", resolution=40, mean=[0.5] * 3, std=[0.5] * 3)
    manifest = provide(given, tmp_path / "cold.pth", ("blue", "green"), tmp_path)
    assert manifest["validation_accuracy"] > 90
    assert manifest["origin"] == "supplied"


@pytest.mark.parametrize("architecture", ["torchvision/resnet18", "ReferenceCNN", "MobileNetV3"])
def test_every_kind_of_architecture_loads(architecture: str, tmp_path: Path) -> None:
    from amalgam.networks import build_network

    torch.save(build_network(architecture, 2).state_dict(), tmp_path / "cold.pth")
    given = spec(weights="cold.pth", architecture=architecture, resolution=64, min_accuracy=0)
    assert provide(given, tmp_path / "cold.pth", ("blue", "green"), tmp_path)["architecture"] == architecture


def test_it_answers_in_float32_whatever_its_architecture_is_trained_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16 its logits would have steps of a hundredth of their size."""
    from amalgam.networks import build_network

    network = build_network("ResNet18", 2)
    torch.save(network.state_dict(), tmp_path / "cold.pth")
    given = spec(weights="cold.pth", architecture="ResNet18", resolution=32, min_accuracy=0)
    provide(given, tmp_path / "cold.pth", ("blue", "green"), tmp_path)
    monkeypatch.setattr("amalgam.models.precision_of", lambda *_: torch.bfloat16)
    teacher = load_teachers(tmp_path / "models", type(SETS)(SETS.classes, {"cold": SETS.teachers["cold"]}))["cold"]
    with torch.inference_mode():
        expected = network.eval()(teacher.preprocessing(torch.from_numpy(SPLIT.images[:4])))
    np.testing.assert_allclose(predict_logits(teacher, SPLIT.images, np.arange(4)), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture
def unlabelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """No image of the split has a label."""
    monkeypatch.setattr(sys.modules[__name__], "SPLIT", replace(SPLIT, labels=np.full_like(SPLIT.labels, -1)))


@pytest.mark.usefixtures("unlabelled")
def test_without_a_label_a_teacher_is_taken_only_if_it_is_trusted(program: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cold, supplied as cold\.pt2, cannot be held to its min_accuracy 90: no training image"):
        provide(spec(), program, ("green", "blue"), tmp_path / "held")
    with pytest.raises(UserError, match="has mean and std null, and no training image of its classes has a label"):
        provide(spec(min_accuracy=0, mean=None, std=None), program, ("green", "blue"), tmp_path / "seen")
    assert provide(spec(min_accuracy=0), program, ("green", "blue"), tmp_path / "trusted")["validation_accuracy"] is None


def test_that_images_are_stored_smaller_than_a_teacher_sees_them_is_said() -> None:
    seen = [Classifier("ReferenceCNN", nn.Identity(), (), Preprocessing((side, side), (0.5,) * 3, (0.5,) * 3)) for side in (8, 12, 32)]
    own = OwnImages((), Selected(np.zeros((3, 12, 12, 3), np.uint8), np.arange(3)), np.zeros(3, np.int64), np.zeros(3, bool))
    assert [enlarged(teacher, own) for teacher in seen] == [
        None,
        None,
        "sees 32 × 32 pixels, to which images stored as 12 × 12 are enlarged",
    ]


def test_what_may_have_seen_the_images_is_said(program: Path, tmp_path: Path) -> None:
    suspected = provide(spec(), program, ("green", "blue"), tmp_path)
    assert doubt(suspected) == "may have been trained on validation or test images of this task"
    shutil.rmtree(tmp_path / "fetched")
    assert doubt(provide(spec(trained_elsewhere=True), program, ("green", "blue"), tmp_path)) is None
    assert doubt({"origin": "trained"}) is None


def wrong_order(folder: Path) -> None:
    provide(spec(), folder / "cold.pt2", ("blue", "green"), folder)


def wrong_size(folder: Path) -> None:
    provide(spec(resolution=32), folder / "cold.pt2", ("green", "blue"), folder)


def wrong_count(folder: Path) -> None:
    provide(spec(), folder / "cold.pt2", ("green", "blue", "red"), folder)


def fixed_batch(folder: Path) -> None:
    export_program(["green", "blue"], folder / "cold.pt2", fixed=True)
    provide(spec(), folder / "cold.pt2", ("green", "blue"), folder)


def exported(network: nn.Module, folder: Path, batch: Any) -> None:
    program = torch.export.export(network.eval(), (torch.zeros(2, 3, 24, 24),), dynamic_shapes=({0: batch},))
    torch.export.save(program, folder / "cold.pt2")
    provide(spec(), folder / "cold.pt2", ("green", "blue"), folder)


def bounded_batch(folder: Path) -> None:
    exported(NearestColour(["green", "blue"]), folder, torch.export.Dim("batch", min=1, max=32))


class Squeezed(nn.Module):
    """Drops every dimension of one, as is often written behind a pooling: of a single image that of the batch too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.linear(nn.functional.adaptive_avg_pool2d(images, 1).squeeze())
        return found


def wrong_of_one_image(folder: Path) -> None:
    exported(Squeezed(), folder, torch.export.Dim.AUTO)


def wrong_architecture(folder: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), folder / "cold.pth")
    provide(spec(weights="cold.pth", architecture="torchvision/resnet18"), folder / "cold.pth", ("green", "blue"), folder)


def wrong_classes_of_a_state_dict(folder: Path) -> None:
    train_small(["blue", "green", "red"], folder / "cold.pth")
    provide(spec(weights="cold.pth", architecture="timm/test_efficientnet"), folder / "cold.pth", ("green", "blue"), folder)


def not_finite(folder: Path) -> None:
    train_small(["blue", "green"], folder / "cold.pth")
    state = torch.load(folder / "cold.pth")["state_dict"]
    next(iter(state.values()))[0] = torch.nan
    torch.save(state, folder / "cold.pth")
    provide(spec(weights="cold.pth", architecture="timm/test_efficientnet"), folder / "cold.pth", ("green", "blue"), folder)


def exported_in_training(folder: Path) -> None:
    export_program(["green", "blue"], folder / "cold.pt2", training=True)
    provide(spec(), folder / "cold.pt2", ("green", "blue"), folder)


def probabilities(folder: Path) -> None:
    exported(nn.Sequential(NearestColour(["green", "blue"]), nn.Softmax(1)), folder, torch.export.Dim.AUTO)


def normalising(folder: Path) -> None:
    provide(spec(weights="cold.pth", architecture="torchvision/inception_v3"), folder / "cold.pt2", ("green", "blue"), folder)


class Probe(nn.Module):
    """A linear layer on frozen features, as it is often written."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.head = how, NearestColour(["green", "blue"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "len":
            return self.head(x) + torch.zeros(len(x), 1)  # type: ignore[no-any-return]
        with torch.no_grad() if self.how == "no_grad" else torch.autocast("cpu", torch.bfloat16):
            return self.head(x)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no_grad", r"wrap_with_set_grad_enabled; export it within torch\.no_grad\(\)$"),
        ("autocast", r"wrap_with_autocast; export it without autocast$"),
        ("len", r"guards in Python, for a fixed number of images; ask an input for x\.shape\[0\] in forward, not for len\(x\), and"),
    ],
)
def test_an_export_that_is_refused_is_told_what_to_change(how: str, message: str, tmp_path: Path) -> None:
    def export() -> None:
        program = torch.export.export(Probe(how).eval(), (torch.zeros(2, 3, 24, 24),), dynamic_shapes=({0: torch.export.Dim.AUTO},))
        torch.export.save(program, tmp_path / "cold.pt2")

    export()
    with pytest.raises(UserError, match=message):
        read_program(tmp_path / "cold.pt2")
    if how == "no_grad":
        with torch.no_grad():
            export()
        assert read_program(tmp_path / "cold.pt2")(torch.zeros(5, 3, 24, 24)).shape == (5, 2)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375]),
        ([0.5] * 3, [0.5, 0.5, 57.0]),
        ([-0.1, 0.5, 0.5], [0.5] * 3),
        ([0.5] * 3, [0.0] * 3),
    ],
)
def test_statistics_of_other_pixels_are_refused(mean: list[float], std: list[float]) -> None:
    with pytest.raises(ValidationError, match=r"are none of pixels scaled to 0 … 1 .*; divide those of pixels 0 … 255 by 255"):
        spec(mean=mean, std=std)
    spec(mean=[value / 255 for value in (103.9, 116.8, 123.7)], std=[1 / 255] * 3)


def unknown_architecture(folder: Path) -> None:
    provide(spec(weights="cold.pth", architecture="torchvision/resnet19"), folder / "cold.pt2", ("green", "blue"), folder)


@pytest.mark.parametrize(
    ("mistake", "message"),
    [
        (wrong_order, r"right for 0\.0 % of 6 images of its classes, below its min_accuracy 90; are classes in the order of its outputs"),
        (wrong_size, r"does not take 2 images of 32 x 32 pixels"),
        (wrong_count, r"gives \(2, 2\) for 2 images, not \(2, 3\)"),
        (fixed_batch, r"does not take 3 images .* export it with a dynamic number of images"),
        (bounded_batch, r"does not take 256 images .* export it with a dynamic number of images"),
        (wrong_of_one_image, r"gives \(2,\) for 1 images, not \(1, 2\)"),
        (
            exported_in_training,
            r"gives different logits for the same image on repeated calls or in another batch; export it after network\.eval\(\)",
        ),
        (wrong_architecture, "not the weights of torchvision/resnet18 of 2 classes: it lacks conv1.weight"),
        (
            wrong_classes_of_a_state_dict,
            "not the weights of timm/test_efficientnet of 2 classes: it has classifier.weight of \\(3, ",
        ),
        (not_finite, r"\S+ is not finite; save the weights of an epoch before"),
        (probabilities, r"gives probabilities, and logits are needed .* export the network without its softmax, or their logarithms"),
        (normalising, r"inception_v3: whether it normalises its input once more stands in no state dict; export the network as a \.pt2"),
        (unknown_architecture, "torchvision has no classifier 'resnet19'; did you mean resnet18"),
    ],
)
def test_what_is_off_is_refused_with_the_reason(mistake: Callable[[Path], None], message: str, program: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        mistake(tmp_path)


class Odd(nn.Module):
    """Forgets in which order it adds, or fails as cuDNN does."""

    def __init__(self, error: str = "") -> None:
        super().__init__()
        self.error = error

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.error:
            raise RuntimeError(self.error)
        pooled, places = nn.functional.max_pool2d(x, 2, return_indices=True)
        return nn.functional.max_unpool2d(pooled, places, [2]).mean((2, 3))


@pytest.mark.parametrize(
    ("network", "kind", "message"),
    [
        (
            Odd(),
            UserError,
            r"cold\.pt2 cannot be run on .+ with the same result each time \(max_unpool.+\); export it without that operation$",
        ),
        (Odd("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), RuntimeError, r"^cuDNN error: CUDNN_STATUS_EXECUTION_FAILED$"),
    ],
)
def test_what_is_no_matter_of_the_images_size_is_not_put_down_to_it(
    network: nn.Module, kind: type[Exception], message: str, program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amalgam.supplied.read_program", lambda path: network)
    torch.use_deterministic_algorithms(True)
    with pytest.raises(kind, match=message):
        provide(spec(), program, ("green", "blue"), tmp_path)


# ── The pipeline ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_two_foreign_teachers_make_a_student_without_python(finished: Repository) -> None:
    """Of different architecture, input size and normalisation, one with an output too many; then the other is replaced, and it is left."""
    export_program(["green", "red", "blue"], finished.root / "cold.pt2")
    train_small(["red", "yellow"], finished.root / "warm.pth")
    cold = {"weights": "cold.pt2", "classes": ["green", None, "blue"], "trained_elsewhere": True}
    cold |= SEEN | {"mean": list(MEAN), "std": list(STD)}
    half = [0.5] * 3
    warm = {
        "weights": "warm.pth",
        "architecture": "timm/test_efficientnet",
        "resolution": 40,
        "mean": half,
        "std": half,
        "min_accuracy": 80,
    }
    finished.set_params(folder__supplied={"taskA": {"cold": cold, "warm": warm}})
    assert finished.repro() == {"weights", "teachers", "targets-taskA", "train-taskA", "evaluate"}
    results = json.loads((finished.root / "outputs/evaluation/taskA/results.json").read_text())
    assert results["teacher_accuracy"]["cold"] == 100
    assert results["teacher_doubts"] == {"warm": "may have been trained on validation or test images of this task"}
    shown = finished.run("python", "stages/results.py", PYTHONPATH="src").stdout
    assert "* may have been trained on validation or test images" in shown
    views = finished.root / ".amalgam/views"
    before = {path for path in views.iterdir() if path.is_dir()}
    train_small(["red", "yellow"], finished.root / "warm2.pth", 48)
    finished.set_params(folder__supplied__taskA__warm=warm | {"weights": "warm2.pth"})
    assert finished.repro() == {"weights", "teachers", "targets-taskA", "train-taskA", "evaluate"}
    new = {path for path in views.iterdir() if path.is_dir()} - before
    assert len(new) == 4, "the new teacher's two views, validation and test images; the other's were known"
    train_small(["red", "yellow"], finished.root / "warm2.pth", 40)
    refused = finished.run("python", "stages/train.py", "--task", "A", check=False)
    assert "teacher models/taskA/warm is not what " in refused.stderr
    assert "warm2.pth holds; run dvc repro --force --single-item weights, then dvc repro models.dvc" in refused.stderr
    (finished.root / "cold.pt2").unlink()
    finished.set_params(folder__supplied__taskA__cold=cold | {"min_accuracy": 50})
    refused = finished.run("dvc", "repro", check=False)
    assert "cold.pt2 does not exist" in refused.stderr


def test_a_supplied_teacher_without_a_place_or_with_other_classes_is_refused(finished: Repository) -> None:
    cold = {"weights": "cold.pt2", "classes": ["green", "red"]} | SEEN | {"mean": list(MEAN), "std": list(STD)}
    for task, name, message in (
        ("taskA", "icy", "supplied.taskA.icy: there is no such teacher"),
        ("taskA", "cold", "supplied.taskA.cold.classes are green, red, but tasks says"),
    ):
        finished.set_params(folder__supplied={task: {name: cold}})
        assert message in finished.run("dvc", "repro", check=False).stderr
