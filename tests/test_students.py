"""A student's folder on disk, and the numbers that go with it."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from amalgam.dataset import LabelSets
from amalgam.errors import UserError
from amalgam.history import Epoch, Fit, write_history
from amalgam.models import Classifier
from amalgam.preprocessing import Preprocessing, channel_statistics
from amalgam.selection import scored
from amalgam.students import Architecture, check_trains, load_student, new_student, student_metrics, write_student
from amalgam.validation import Validation, validated
from conftest import SETS, colour_split


def record(epoch: int, loss: float, accuracy: float | None, validation: Validation | None = None) -> Epoch:
    return Epoch(epoch, 0.1, loss, accuracy, {"labels": loss}, {"teacher_agreement/cold": 0.5}, validation)


def test_a_history_without_validation_or_labels_keeps_the_columns_that_plots_name(tmp_path: Path) -> None:
    write_history([record(1, 0.5, None)], tmp_path / "history.csv")
    header, row = (tmp_path / "history.csv").read_text().splitlines()
    names = "epoch,train_loss,lr,train_loss_labels,teacher_agreement/cold,train_accuracy,val_loss,val_accuracy"
    assert (header, row) == (names, "1,0.5,0.1,0.5,0.5,,,")


def test_what_chose_the_epoch_is_logged_where_it_is_not_the_accuracy() -> None:
    row = record(1, 0.5, 0.75, Validation(1.0, 0.5, 0.25)).row()
    assert (row["val_accuracy"], row["val_score"], row["train_accuracy"]) == (50, 25, 75)
    assert "val_score" not in record(1, 0.5, 0.75, Validation(1.0, 0.5)).row()


def test_a_network_for_one_size_of_images_is_refused_at_another() -> None:
    with pytest.raises(UserError, match=r"timm/vit_tiny_patch16_224 does not take images of 64 x 64 pixels \(.+\); set student_resolution"):
        new_student(Architecture("timm/vit_tiny_patch16_224", 64, False), SETS, colour_split(10, 40, 5), 3)


class Unpooling(nn.Module):
    """Its forward pass has no deterministic implementation, on CPUs either."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled, places = nn.functional.max_pool2d(x, 2, return_indices=True)
        return nn.functional.max_unpool2d(pooled, places, [2]).mean((2, 3))


class Features(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Unpooling(), r"^student_model odd cannot be trained on .+ with the same result each time \(max_unpool.+\); choose another"),
        (Features(), r"^student_model odd gives \(2, 3, 32, 32\) for two images, and no logit for each class; choose another$"),
    ],
)
def test_a_network_that_cannot_be_trained_as_promised_is_refused(network: nn.Module, message: str) -> None:
    stem = nn.Conv2d(3, 3, 1)
    student = Classifier("odd", nn.Sequential(stem, network), ("a", "b", "c"), Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
    torch.use_deterministic_algorithms(True)
    with pytest.raises(UserError, match=message):
        check_trains(student)


class Failing(nn.Module):
    """As cuDNN fails."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED")


def test_a_failure_of_the_gpus_libraries_is_not_put_down_to_the_size_of_images() -> None:
    student = Classifier("odd", Failing(), ("a", "b", "c"), Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
    with pytest.raises(RuntimeError, match=r"^cuDNN error: CUDNN_STATUS_EXECUTION_FAILED$"):
        check_trains(student)


def test_trying_a_step_changes_neither_the_student_nor_what_is_drawn_next() -> None:
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, colour_split(10, 40, 5), 3)
    before = {name: tensor.clone() for name, tensor in student.network.state_dict().items()}
    mode, drawn = student.network.training, torch.get_rng_state()
    check_trains(student)  # with dropout and batch normalisation
    torch.testing.assert_close(student.network.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert student.network.training == mode
    assert all(parameter.grad is None for parameter in student.network.parameters())


def test_a_students_folder_holds_best_last_and_history(tmp_path: Path) -> None:
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, colour_split(10, 40, 5), 3)
    best = {name: tensor.clone() for name, tensor in student.network.state_dict().items()}
    last = {name: tensor + 1 for name, tensor in best.items()}
    result = Fit(1, best, last, [record(1, 0.5, 0.5, Validation(0.7, 0.625)), record(2, 0.25, 0.75, Validation(0.6, 0.5))])
    write_student(student, result, "taskX", {"settings": {"alpha": 0.5}}, tmp_path / "student")
    again = load_student(tmp_path / "student", SETS)
    torch.testing.assert_close(again.network.state_dict(), best, rtol=0, atol=0)
    with pytest.raises(UserError, match="knows blue, green, red, but the task says blue, red"):
        load_student(tmp_path / "student", LabelSets(("blue", "red"), {}))
    with (tmp_path / "student" / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    metrics = json.loads((tmp_path / "student" / "metrics.json").read_text())["taskX"]
    assert metrics == {"best_epoch": 1, "train_accuracy": 50.0, "val_accuracy": 62.5, "val_loss": 0.7}


def test_what_chose_the_epoch_is_no_figure_of_its_own_where_it_is_the_accuracy() -> None:
    """Of few images, all with a label: the score has an error, and else says the same."""
    labels = np.arange(143) % 3
    logits = np.eye(3, dtype=np.float32)[np.where(np.arange(143) < 1, 2, labels)]
    validation = scored(validated(logits, labels), logits.argmax(1) == labels)
    assert validation.error > 0
    assert student_metrics(Fit(1, {}, {}, [record(1, 0.5, 0.5, validation)])).keys() == {"train_accuracy", "val_accuracy", "val_loss"}


@pytest.mark.parametrize(("chosen_by", "more"), [(None, {}), (0.625, {}), (0.75, {"val_score": 75.0})])
def test_what_chose_the_epoch_without_all_labels_is_among_the_metrics(chosen_by: float | None, more: dict[str, float]) -> None:
    result = Fit(1, {}, {}, [record(1, 0.5, 0.5, Validation(0.7, 0.625, chosen_by))])
    assert student_metrics(result) == {"train_accuracy": 50.0, "val_accuracy": 62.5, "val_loss": 0.7} | more


def test_a_student_from_scratch_sees_images_by_the_training_images_statistics() -> None:
    split = colour_split(12, 20, 4)
    student = new_student(Architecture("MobileNetV3", 32, pretrained=False), SETS, split, 0)
    assert (student.preprocessing.mean, student.preprocessing.std) == channel_statistics(split.images, split.training_rows)
