"""Trainings that are broken off and go on."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from amalgam.batches import Batch
from amalgam.checkpoint import Checkpoint, checkpoint, dvc_hash, finish, hashes_in_lock
from amalgam.history import Epoch, Fit, Snapshot
from amalgam.models import Classifier
from amalgam.optimization import Optimization
from amalgam.preprocessing import Preprocessing
from amalgam.record import DataRecord, RunRecord
from amalgam.trainer import Hooks, fit
from amalgam.validation import Validation
from amalgam.whole import remove_abandoned, whole_file, whole_folder
from conftest import ROOT, needs_compiler
from toy_training import cross_entropy

HOW = {
    "adamw, one cycle": Optimization("adamw", 0.05, 0.01, "one_cycle", 6),
    "sgd, steps, clipped": Optimization("sgd", 0.05, 0.01, "step", 6, scheduler_step=2, scheduler_gamma=0.5, clip_norm=0.5),
    "adam, cosine, averaged": Optimization("adam", 0.05, 0.01, "cosine", 6, warmup_epochs=1.5, ema_decay=0.9),
    "adamw, compiled": Optimization("adamw", 0.05, 0.01, "one_cycle", 6, compile=True),
}


class BrokenOffError(Exception):
    pass


def small() -> Classifier:
    """With what a student has that a resumed training could forget: dropout, batch statistics, a layout of its own."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    layout = network.to(memory_format=torch.channels_last)
    return Classifier("MobileNetV3", layout, ("dark", "light"), Preprocessing((4, 4), (0.5,) * 3, (0.25,) * 3))


def batches(epoch: int) -> Iterator[Batch]:
    random = np.random.default_rng(epoch)
    for _ in range(3):
        labels = random.integers(0, 2, 8)
        pixels = (random.normal(80 + 60 * labels[:, None, None, None], 60, (8, 4, 4, 3))).clip(0, 255).astype(np.uint8)
        yield Batch(torch.from_numpy(pixels), torch.from_numpy(labels))


def validate(classifier: Classifier) -> Validation:
    """A score that jumps, so that some epochs are kept and some are not, which depends on the earlier ones."""
    with torch.no_grad():
        classifier.network.eval()
        batch = next(batches(1000))
        logits = classifier.logits(batch.images)
    accuracy = (logits.argmax(1) == batch.labels).float().mean().item()
    loss = cross_entropy(logits, batch).terms["labels"].item()
    return Validation(loss, accuracy, loss * 977 % 1, 0.1)


def run(how: Optimization, hooks: Hooks) -> Fit:
    return fit(small(), how, 3, batches, cross_entropy, validate, hooks)


def timeless(history: list[Epoch]) -> list[Epoch]:
    return [replace(record, seconds=0, images_per_second=0, ended=0) for record in history]


def break_after(step: int) -> Callable[[], None]:
    remaining = step

    def count() -> None:
        nonlocal remaining
        remaining -= 1
        if remaining == 0:
            raise BrokenOffError

    return count


@pytest.mark.parametrize("how", [pytest.param(how, id=name, marks=[needs_compiler] * how.compile) for name, how in HOW.items()])
@given(breaks=st.lists(st.integers(1, 18), max_size=4))
@settings(deadline=None, max_examples=15)
def test_a_training_broken_off_anywhere_ends_bit_for_bit_as_without_the_break(
    tmp_path_factory: pytest.TempPathFactory, how: Optimization, breaks: list[int]
) -> None:
    whole, own = run(how, Hooks()), Checkpoint(tmp_path_factory.mktemp("checkpoint"))
    for step in breaks:
        try:
            run(how, Hooks(break_after(step), keep=own.keep, resume=own.last()))
        except BrokenOffError:
            torch.rand(3)  # whatever else draws random numbers in between
    result = run(how, Hooks(keep=own.keep, resume=own.last()))
    assert result.best_epoch == whole.best_epoch
    assert timeless(result.history) == timeless(whole.history)
    for weights, expected in ((result.best, whole.best), (result.last, whole.last)):
        torch.testing.assert_close(weights, expected, rtol=0, atol=0)
        assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_what_is_kept_comes_before_what_is_shown() -> None:
    """So that an epoch which was shown is never trained, and shown, again."""
    order: list[str] = []

    def keep(snapshot: Snapshot) -> None:
        order.append(f"kept {len(snapshot['history'])}")

    run(HOW["adamw, one cycle"], Hooks(on_epoch=lambda record: order.append(f"shown {record.epoch}"), keep=keep))
    assert order[:4] == ["kept 1", "shown 1", "kept 2", "shown 2"]


def test_the_best_weights_are_not_kept_twice() -> None:
    """A checkpoint is written in every epoch: where the last is the best, its weights are there already."""
    held: list[tuple[int, bool]] = []

    def keep(snapshot: Snapshot) -> None:
        held.append((snapshot["best_epoch"], snapshot["best"] is None))

    result = run(HOW["adamw, one cycle"], Hooks(keep=keep))
    bests = [best for best, _ in held]
    assert 1 < len(set(bests)) < len(bests), "some epochs are better than all before, and some are not"
    assert held == [(best, best == epoch) for epoch, best in enumerate(bests, start=1)]
    assert result.best_epoch == bests[-1]


@pytest.fixture
def root(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(root)
    return root


def test_a_training_finds_its_own_checkpoint_and_no_other(root: Path) -> None:
    with checkpoint("mine") as own:
        own.write(began=(5,))
        own.keep({"network": torch.ones(2)})
    with checkpoint("mine") as again:
        saved = again.last()
        assert saved is not None
        assert saved["network"].tolist() == [1, 1]
        assert again.sessions == own.sessions
    with checkpoint("foreign") as other:
        assert other.last() is None
        assert other.sessions.mark != own.sessions.mark


def test_a_finished_training_is_kept_until_dvc_has_its_result(root: Path) -> None:
    """DVC may fail to take a result, on a full disk say; asked again for one that it has, it wants it made anew."""
    (root / "result").mkdir()
    (root / "result" / "weights").write_bytes(b"bits")
    with checkpoint("mine") as own:
        own.keep({"history": [1]})
        finish(own, root / "result")
    with checkpoint("mine") as again:
        assert again.last() is not None
    (root / "dvc.lock").write_text(f"stages:\n  train-taskA:\n    outs:\n    - path: result\n      md5: {dvc_hash(root / 'result')}\n")
    with checkpoint("mine") as anew:
        assert anew.last() is None
        assert anew.sessions.mark != own.sessions.mark


def test_another_training_whose_result_dvc_has_taken_is_of_no_more_use(root: Path) -> None:
    for name in ("taken", "mine"):
        (root / name).mkdir()
        (root / name / "weights").write_text(name)
    with checkpoint("taken") as taken:
        finish(taken, root / "taken")
    (root / "dvc.lock").write_text(f"stages:\n  train-taskA:\n    outs:\n    - path: taken\n      md5: {dvc_hash(root / 'taken')}\n")
    with checkpoint("mine") as own:
        finish(own, root / "mine")
    assert own.folder.exists()
    assert not taken.folder.exists()


def test_few_finished_trainings_are_kept_and_every_unfinished_one(root: Path) -> None:
    (root / "result").mkdir()
    for number in range(5):
        (root / "result" / "weights").write_bytes(bytes([number]))
        with checkpoint(f"finished{number}") as own:
            finish(own, root / "result")
        with checkpoint(f"broken{number}"):
            pass
        os.utime(own.folder / "sessions.json", (number, number))
    names = {path.parent.name for path in (root / ".amalgam" / "checkpoints").glob("*/sessions.json")}
    assert names == {"finished3", "finished4"} | {f"broken{number}" for number in range(5)}


def test_a_checkpoint_whose_removal_was_broken_off_counts_for_nothing(root: Path) -> None:
    (root / "result").mkdir()
    with checkpoint("older") as older:
        finish(older, root / "result")
    left = root / ".amalgam" / "checkpoints" / ".removed.0123.part"
    shutil.copytree(older.folder, left)
    os.utime(older.folder / "sessions.json", (1, 1))
    with checkpoint("mine") as own:
        finish(own, root / "result")
    assert older.folder.exists()
    assert [path.name for path in left.parent.glob(".*.lock")] == []


def test_a_finished_training_that_another_process_has_just_removed_is_passed_over(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "result").mkdir()
    with checkpoint("finished") as own:
        finish(own, root / "result")

    @contextmanager
    def removed(folder: Path) -> Iterator[bool]:
        shutil.rmtree(folder)
        yield True

    monkeypatch.setattr("amalgam.checkpoint.held", removed)
    with checkpoint("mine") as own:
        finish(own, root / "result")
    assert {path.parent.name for path in (root / ".amalgam" / "checkpoints").glob("*/sessions.json")} == {"mine"}


def test_the_time_of_a_training_is_that_of_its_sessions(root: Path) -> None:
    """The first one trained from 1 to 4 s (and on for nothing), the second broke off in its first epoch, the third took 2 s."""
    epochs = [{"ended": 2000.0}, {"ended": 4000.0}, {"ended": 61000.0}, {"ended": 62000.0}]
    data = DataRecord("digits", None, "", ("a", "b"), (8, 8), 4)
    record = RunRecord("id", "taskA", "name", {}, {}, data, "", False, (1000, 30000, 60000), 62000, epochs)
    assert record.seconds == 5.0
    record.write(root)
    assert RunRecord.read(root) == record


def python(code: str, root: Path) -> "subprocess.Popen[str]":
    environment = {**os.environ, "DVC_ROOT": str(root)}
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_of_two_processes_that_train_the_same_the_second_waits(root: Path) -> None:
    with checkpoint("mine") as own:
        code = "from amalgam.checkpoint import checkpoint\nwith checkpoint('mine') as own: print(own.sessions.began)"
        other = python(code, root)
        assert other.stderr is not None
        assert "waiting for another process" in other.stderr.readline()
        own.write(began=(7,))
    assert other.communicate()[0] == "(7,)\n"


def test_what_a_killed_process_left_half_written_is_removed_but_not_what_a_living_one_writes(root: Path) -> None:
    code = """
import time
from pathlib import Path
from amalgam.whole import whole_folder
with whole_folder(Path('out')):
    print(1, flush=True)
    time.sleep(60)
"""
    other = python(code, root)
    assert other.stdout is not None
    other.stdout.readline()
    (left,) = root.glob(".out.*.part")
    assert not remove_abandoned(left)
    other.kill()
    other.communicate()
    with whole_folder(root / "out") as work:
        assert not left.exists()
        assert list(root.glob(".out.*.part")) == [work]
    assert [path.name for path in root.iterdir() if path.name.startswith(".out")] == []


def test_a_full_disk_leaves_the_checkpoint_before(root: Path) -> None:
    code = """
import resource
import torch
from amalgam.checkpoint import checkpoint
with checkpoint('mine') as own:
    own.keep({'network': torch.ones(2)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    try:
        own.keep({'network': torch.ones(20000)})
    except OSError as error:
        print(error)
"""
    said, errors = python(code, root).communicate()
    assert "epoch.pt" in said, errors
    with checkpoint("mine") as own:
        saved = own.last()
    assert saved is not None
    assert saved["network"].tolist() == [1, 1]
    assert sorted(path.name for path in own.folder.iterdir()) == ["epoch.pt", "sessions.json"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    whole_file(tmp_path / "file", b"first")
    whole_file(tmp_path / "file", b"second")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"second")]
    with pytest.raises(OSError, match="absent/file"):
        whole_file(tmp_path / "absent" / "file", b"")


def test_an_experiment_that_dvc_has_is_trained_anew_when_it_is_forced(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a temporary copy it leaves nothing in the workspace's dvc.lock. One that came to nothing, as its disk was full, goes on."""
    monkeypatch.setenv("DVC_EXP_NAME", "brave-newt")
    (root / "out").mkdir()
    (root / "out" / "best").write_text("weights")
    with checkpoint("mine") as own:
        own.keep({"network": torch.ones(2)})
        finish(own, root / "out")
        mark = own.sessions.mark
    monkeypatch.setenv("DVC_EXP_NAME", "calm-heron")
    with checkpoint("mine") as own:
        assert own.sessions.mark == mark
    for command in (
        "init -q",
        "-c user.name=me -c user.email=me commit -q --allow-empty -m x",
        "update-ref refs/exps/ab/cdef/brave-newt HEAD",
    ):
        subprocess.run(["git", *command.split()], cwd=root, check=True)
    with checkpoint("mine") as own:
        assert own.last() is None
        assert own.sessions.mark != mark


def test_no_lock_file_no_result(tmp_path: Path) -> None:
    assert hashes_in_lock(tmp_path / "dvc.lock") == set()


def test_a_lock_file_that_is_just_being_written_says_nothing(tmp_path: Path) -> None:
    """Or a little less than what will stand there: the last hash may be a part of itself, which is nobody's."""
    whole, known = (ROOT / "dvc.lock").read_text(), hashes_in_lock(ROOT / "dvc.lock")
    assert len(known) > 5
    for length in range(0, 3000, 7):
        (tmp_path / "dvc.lock").write_text(whole[:length])
        assert len(hashes_in_lock(tmp_path / "dvc.lock") - known) <= 1
