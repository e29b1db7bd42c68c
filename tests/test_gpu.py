"""What only a GPU can show, skipped where there is none: each check in a process of its own, since this one hides the GPU (conftest.py)."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pytest
import torch

from amalgam.distilling import train_student
from amalgam.history import Fit, Snapshot
from amalgam.inference import device
from amalgam.models import Classifier
from amalgam.networks import build_network
from amalgam.optimization import Optimization
from amalgam.preprocessing import Preprocessing
from amalgam.provenance import configure_execution
from amalgam.stage import run_stage
from amalgam.student_settings import STUDENTS
from amalgam.students import Architecture, new_student
from amalgam.target_names import Target
from amalgam.targets import StoredTargets, ViewSettings, write_targets
from amalgam.trainer import Hooks
from amalgam.transfer_set import TransferSet
from conftest import ROOT, SETS, colour_split
from untrained_teachers import TEACHING

SPLIT = colour_split(per_class=15, noise=60, held_out_every=5)
LOOKS = Preprocessing((8, 8), (0.5,) * 3, (0.5,) * 3)


def stored(folder: Path) -> StoredTargets:
    teachers = {
        name: Classifier("ReferenceCNN", build_network("ReferenceCNN", len(classes)), classes, LOOKS, weights_sha256=name).to(device())
        for name, classes in SETS.teachers.items()
    }
    write_targets(folder, SPLIT, SETS, teachers, ViewSettings(2, 1, True, 0), "all")
    return StoredTargets.read(folder, SPLIT, SETS)


def trained(targets: StoredTargets, target: Target, epochs: int, hooks: Hooks | None = None, through_compiler: bool = False) -> Fit:
    student = new_student(Architecture("MobileNetV3", 32, False), SETS, SPLIT, seed=4)
    teaching = replace(TEACHING, temperature=2.0, target=target, mixup=0.4, batch_size=12, seed=3)
    how = Optimization("adamw", 0.001, 0.0, "cosine", epochs, ema_decay=0.9, clip_norm=1.0, compile=through_compiler)
    return train_student(student, TransferSet.of(SETS, SPLIT, targets, teaching), how, hooks)


def every_target_trains(targets: StoredTargets) -> None:
    for target in get_args(Target):
        assert len(trained(targets, target, epochs=1).history) == 1, target


def resumed_ends_with_the_same_bits(targets: StoredTargets, through_compiler: bool = False) -> None:
    kept: list[io.BytesIO] = []

    def keep(snapshot: Snapshot) -> None:
        kept.append(io.BytesIO())
        torch.save(snapshot, kept[-1])

    whole = trained(targets, "blocks", 2, Hooks(keep=keep), through_compiler)
    kept[0].seek(0)
    went_on = trained(targets, "blocks", 2, Hooks(resume=torch.load(kept[0], map_location="cpu", weights_only=True)), through_compiler)
    torch.testing.assert_close(went_on.last, whole.last, rtol=0, atol=0)


def compiled_and_resumed_ends_with_the_same_bits(targets: StoredTargets) -> None:
    resumed_ends_with_the_same_bits(targets, through_compiler=True)


def every_student_can_be_trained(_: StoredTargets) -> None:
    for name in STUDENTS:
        assert new_student(Architecture(name, 32, False), SETS, SPLIT, seed=4).architecture == name


def full_memory_is_told(_: StoredTargets) -> None:
    def fill() -> None:
        torch.empty(1 << 50, dtype=torch.uint8, device=device())

    with pytest.raises(SystemExit, match=r"error: the GPU's memory is full .* lower batch_size"):
        run_stage(fill)


CHECKS = (
    every_target_trains,
    resumed_ends_with_the_same_bits,
    compiled_and_resumed_ends_with_the_same_bits,
    every_student_can_be_trained,
    full_memory_is_told,
)


@pytest.mark.skipif(not any(Path("/dev").glob("nvidia[0-9]*")), reason="there is no GPU")
@pytest.mark.parametrize("check", CHECKS)
def test_on_a_gpu(check: Callable[[StoredTargets], None]) -> None:
    command, environment = [sys.executable, "tests/test_gpu.py", check.__name__], {**os.environ, "PYTHONPATH": "src"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


if __name__ == "__main__":
    del os.environ["CUDA_VISIBLE_DEVICES"]  # conftest's; CUDA has not looked yet
    configure_execution()
    with TemporaryDirectory() as folder:
        os.environ["DVC_ROOT"] = folder
        {check.__name__: check for check in CHECKS}[sys.argv[1]](stored(Path(folder) / "targets"))
