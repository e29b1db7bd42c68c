"""Training through PyTorch's compiler."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch._dynamo.exc import BackendCompilerFailed
from torch._dynamo.utils import counters
from torch._inductor.exc import InductorError

from amalgam.batches import Batch
from amalgam.compiling import compiler_told
from amalgam.dataset import PreparedSplit
from amalgam.distilling import train_student
from amalgam.errors import UserError
from amalgam.feasibility import check_student
from amalgam.history import Fit
from amalgam.models import Classifier
from amalgam.optimization import Optimization
from amalgam.params_file import load_params
from amalgam.preprocessing import Preprocessing
from amalgam.stage import run_stage
from amalgam.students import Architecture, new_student
from amalgam.team import Team
from amalgam.trainer import fit
from amalgam.transfer_set import TransferSet
from conftest import ROOT, SETS, needs_compiler
from toy_training import cross_entropy
from untrained_teachers import TEACHING, stored, untrained_teachers

HOW = Optimization("sgd", 0.1, 0.01, "one_cycle", 2, clip_norm=1.0)


def classifier() -> Classifier:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    layout = layers.to(memory_format=torch.channels_last)
    return Classifier("MobileNetV3", layout, ("dark", "light"), Preprocessing((4, 4), (0.5,) * 3, (0.25,) * 3))


def batches(epoch: int) -> Iterator[Batch]:
    """Of an epoch's two sizes."""
    random = np.random.default_rng(epoch)
    for size in (8, 8, 7):
        pixels = random.integers(0, 256, (size, 4, 4, 3), dtype=np.uint8)
        yield Batch(torch.from_numpy(pixels), torch.from_numpy((pixels.mean((1, 2, 3)) > 127).astype(np.int64)))


def trained(how: Optimization) -> Fit:
    return fit(classifier(), how, 3, batches, cross_entropy, lambda _: None)


def learn_through_the_compiler() -> None:
    trained(replace(HOW, compile=True))


@needs_compiler
def test_compiled_steps_learn_what_others_do() -> None:
    plain, before = trained(HOW), counters["stats"]["unique_graphs"]
    found = trained(replace(HOW, compile=True))
    assert counters["stats"]["unique_graphs"] == before + 2, "one for each size of batch"
    assert list(found.last) == list(plain.last), "under the network's own names"
    torch.testing.assert_close(found.last, plain.last, rtol=1e-4, atol=1e-5)
    assert [record.train_loss for record in found.history] == pytest.approx([record.train_loss for record in plain.history], rel=1e-5)


def test_a_machine_that_cannot_compile_is_told_so(tmp_path: Path) -> None:
    lacking = {"CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "PYTHONPATH": "src"}
    result = subprocess.run(
        [sys.executable, "tests/test_compiling.py"], cwd=ROOT, env={**os.environ, **lacking}, capture_output=True, text=True, check=False
    )
    last = result.stderr.strip().splitlines()[-1]
    assert result.returncode == 1
    assert last.startswith("error: PyTorch's compiler fails for MobileNetV3 (InvalidCxxCompiler: ")
    assert last.endswith("); set compile to false")
    assert "Traceback" not in result.stderr


def test_other_errors_are_not_the_compilers() -> None:
    with pytest.raises(RuntimeError, match="shapes"), compiler_told("MobileNetV3"):
        raise RuntimeError("shapes differ")


@pytest.mark.parametrize("cause", [OSError(28, "No space left on device"), torch.OutOfMemoryError("CUDA out of memory")])
def test_a_full_disk_or_gpu_is_not_the_compilers_failure(cause: Exception) -> None:
    with pytest.raises(type(cause), match=str(cause.args[-1])), compiler_told("MobileNetV3"):
        raise InductorError(cause, None)


def test_the_compilers_own_failure_is_told_with_its_reason() -> None:
    told = r"fails for ResNet18 \(ValueError: C\+\+ compile error Python.h is missing\); set compile"
    with pytest.raises(UserError, match=told), compiler_told("ResNet18"):
        raise BackendCompilerFailed(torch.compile, ValueError("C++ compile error\n  Python.h is missing\nand more"), None)


def test_several_processes_are_refused_before_teachers_run(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load_params().student("taskA").model_copy(update={"compile": True})
    monkeypatch.setenv("AMALGAM_PROCESSES", "2")
    with pytest.raises(UserError, match="compile true is for one process; set it to false, or AMALGAM_PROCESSES to 1"):
        check_student(settings, SETS.classes)


def test_a_team_does_not_compile(split: PreparedSplit, tmp_path: Path) -> None:
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, split, seed=0)
    targets = stored(split, untrained_teachers(), tmp_path / "targets")
    with pytest.raises(UserError, match="compile true is for one process, and there are 2; set it to false, or start one"):
        train_student(student, TransferSet.of(SETS, split, targets, TEACHING), replace(HOW, compile=True), team=Team(0, 2))


if __name__ == "__main__":
    run_stage(learn_through_the_compiler)
