"""One command removes what nobody needs, and nothing that somebody does."""

import os
import time
from pathlib import Path

import pytest

from amalgam.checkpoint import checkpoint
from amalgam.cleaning import clean_checkpoints, clean_leftovers, clean_unused
from amalgam.store import entry
from amalgam.tracking.run import end_marked, training_run
from amalgam.tracking.store import connect
from amalgam.whole import whole_folder
from conftest import Repository, make_repository


def test_checkpoints_go_but_not_that_of_a_running_training_nor_a_recent_one(root: Path) -> None:
    """A disk that filled broke a training off: space is made, and it goes on."""
    with checkpoint("broken") as broken:
        broken.keep({"history": [1]})
    assert list(clean_checkpoints(1)) == []
    made_old(broken.folder / "sessions.json", broken.folder)
    assert list(clean_checkpoints(30)) == [], "its last epoch is recent"
    made_old(broken.folder / "epoch.pt")
    with checkpoint("running") as running:
        made_old(running.folder / "sessions.json", running.folder)
        ((path, size, mark),) = clean_checkpoints(30)
        assert running.folder.exists()
    assert (path, mark) == (broken.folder, broken.sessions.mark)
    assert size > 500
    assert not broken.folder.exists()


def made_old(*paths: Path) -> None:
    """Last touched a month ago."""
    then = time.time() - 31 * 86400
    for path in paths:
        os.utime(path, (then, then))


def test_an_entry_whose_removal_was_broken_off_is_no_entry(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of a teacher would be taken for a whole one."""

    def make(folder: Path) -> None:
        for name in ("manifest.json", "weights"):
            (folder / name).touch()

    def interrupted(folder: Path) -> None:
        (folder / "weights").unlink()
        raise KeyboardInterrupt

    old = entry("teachers", "old", make)
    made_old(old)
    with monkeypatch.context() as broken:
        broken.setattr("shutil.rmtree", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(clean_unused(30))
    assert sorted(path.name for path in entry("teachers", "old", make).iterdir()) == ["manifest.json", "weights"]
    assert list(clean_leftovers()) == []


def test_half_written_folders_go_but_not_one_that_is_being_written(root: Path) -> None:
    left = root / "outputs" / "students" / ".taskA.0123.part"
    left.mkdir(parents=True)
    (left / "weights").write_bytes(bytes(100))
    with whole_folder(root / "outputs" / "students" / "taskB") as work:
        assert dict(clean_leftovers()) == {left: 100}
        assert work.exists()
    assert [path.name for path in (root / "outputs" / "students").iterdir()] == ["taskB"]


def test_what_was_not_used_for_days_goes(root: Path) -> None:
    for kind in ("teachers", "views", "downloads"):
        old, recent = (entry(kind, name, lambda folder: None) for name in ("old", "recent"))
        made_old(old)
        assert [path for path, _ in clean_unused(30)] == [old]
        assert recent.exists()
    diverged = root / ".amalgam" / "diverged"
    diverged.mkdir()
    for name in ("old.safetensors", "recent.safetensors"):
        (diverged / name).write_bytes(bytes(7))
    made_old(diverged / "old.safetensors")
    assert list(clean_unused(30)) == [(diverged / "old.safetensors", 7)]
    assert (diverged / "recent.safetensors").exists()


def test_a_killed_trainings_run_no_longer_counts_as_running(root: Path) -> None:
    client = connect()
    with training_run("taskA", "name", {}, {}, "other") as other, training_run("taskA", "name", {}, {}, "mine") as tracker:
        assert end_marked(client, ["taskA", "taskB"], {"mine"}) == 1
        statuses = [client.get_run(run.run_id).info.status for run in (tracker, other)]
    assert statuses == ["KILLED", "RUNNING"]


def test_no_checkpoint_goes_while_its_run_cannot_be_told(finished: Repository) -> None:
    kept = finished.root / ".amalgam" / "checkpoints" / "0123"
    kept.mkdir(parents=True)
    failed = finished.run("python", "stages/clean.py", "--days", "0", check=False, MLFLOW_TRACKING_URI="http://127.0.0.1:9")
    assert failed.returncode != 0
    assert "http://127.0.0.1:9" in failed.stderr
    assert kept.exists()
    finished.run("python", "stages/clean.py")
    assert kept.exists()
    finished.run("python", "stages/clean.py", "--days", "0")
    assert not kept.exists()


@pytest.mark.parametrize("days", ["-1", "nan", "inf"])
def test_so_many_days_there_are_not(days: str, tmp_path: Path) -> None:
    """Fewer than none would remove what was used just now."""
    refused = make_repository(tmp_path / "repository").run("python", "stages/clean.py", f"--days={days}", check=False, PYTHONPATH="src")
    assert refused.returncode == 1
    assert f"--days is {days}; it must be a number of days, 0 or more" in refused.stderr


def test_the_command_says_what_it_removed(finished: Repository) -> None:
    (finished.root / "outputs" / ".x.0123.part").mkdir()
    said = finished.run("python", "stages/clean.py", "--days", "1000", PYTHONPATH="src").stdout.splitlines()
    assert "removed outputs/.x.0123.part, 0.0 MB" in said
    assert finished.repro() == set(), "nothing was lost"
