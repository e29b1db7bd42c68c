"""What teachers say of images, asked once."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from amalgam.answers import answers
from amalgam.dataset import PreparedSplit
from amalgam.inference import predict_logits
from untrained_teachers import untrained_teachers


class Mute(nn.Module):
    """Must not be asked."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError


def test_a_teacher_is_asked_once_about_images(split: PreparedSplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    teachers = untrained_teachers()
    said = answers(teachers, split)
    assert list(said) == list(teachers)
    for name, teacher in teachers.items():
        np.testing.assert_array_equal(said[name], predict_logits(teacher, split.images, np.arange(len(split.labels))))
    mute = {name: replace(teacher, network=Mute()) for name, teacher in teachers.items()}
    again = answers(mute, split)
    assert all((again[name] == said[name]).all() for name in said)
    name, teacher = next(iter(mute.items()))
    for others, images in (({name: replace(teacher, weights_sha256="another")}, split), (mute, replace(split, content="other images"))):
        with pytest.raises(AssertionError):
            answers(others, images)
