"""Several processes as one: real ones, started by PyTorch's launcher, against a single process."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import team_checks
from amalgam.errors import UserError
from amalgam.files import read_json
from amalgam.team import Team, check_alike, joined, nccls_own
from amalgam.whole_batch import WholeBatch
from conftest import ROOT, Repository, stages_run
from test_interruption import DETERMINISTIC, Run, runs, stage_processes, steps_logged


def in_two(repository: Repository, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return repository.run(*command, check=check, AMALGAM_PROCESSES="2", PYTHONPATH="src")


@given(st.integers(0, 100), st.integers(1, 9))
def test_shares_follow_each_other_and_differ_by_one_at_most(count: int, size: int) -> None:
    parts = [range(count)[Team(rank, size).share(count)] for rank in range(size)]
    assert [row for part in parts for row in part] == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(st.integers(0, 100), st.integers(1, 9))
def test_a_piece_of_work_is_exactly_one_processs_turn(number: int, size: int) -> None:
    assert sum(Team(rank, size).turn(number) for rank in range(size)) == 1


def test_processes_that_compute_otherwise_are_no_team() -> None:
    """Their result would be that of no machine, and the record would name the first one's alone."""
    check_alike([{"device": "one", "threads": 1}] * 3)
    with pytest.raises(UserError, match="do not compute alike: threads is 2 for process 1, 1 for process 0; start them on machines of one"):
        check_alike([{"device": "one", "threads": 1}, {"device": "one", "threads": 2}])


def test_what_nccl_says_of_itself_is_not_taken_for_a_lost_process() -> None:
    """As it stands in reports: the first line says nothing, the reason comes last."""
    start = (
        "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:77, unhandled system error (run with NCCL_DEBUG=INFO), NCCL 2.27"
    )
    small = "Error while creating shared memory segment /dev/shm/nccl-x7Kq (size 9637888)"
    reason = f"ncclSystemError: System call (e.g. socket, malloc) or external library call failed or device error.\nLast error:\n{small}"
    assert nccls_own(f"{start}\n{reason}") == small
    gone = "ncclRemoteError: A call failed possibly due to a network error or a remote process exited prematurely.\nLast error:\n"
    assert nccls_own(f"{start}\n{gone}Connection closed by remote peer") is None
    assert nccls_own("[gloo/transport/tcp/pair.cc:547] Connection closed by peer") is None


def test_dropout_in_place_stays_in_place_for_a_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it has a kernel of its own, which draws another mask."""
    monkeypatch.setattr("torch._VF.dropout", None)
    values = torch.ones(4, 1000)
    with WholeBatch(slice(0, 4), 8):
        found = torch.nn.functional.dropout(values, 0.3, training=True, inplace=True)
    assert found is values
    assert 0.6 < float((values > 0).float().mean()) < 0.8


@pytest.mark.parametrize(("check", "size"), [*((check, 2) for check in team_checks.CHECKS), ("steps", 3), ("training", 3), ("targets", 3)])
def test_a_team_does_what_one_process_does(check: str, size: int) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    path = os.pathsep.join(str(ROOT / name) for name in ("src", "tests"))
    result = subprocess.run(
        [*launcher, "tests/team_checks.py", check, str(size)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_teachers_and_targets_are_the_same_bits_whoever_makes_them(finished: Repository) -> None:
    before = (finished.root / "dvc.lock").read_text()
    in_two(finished, "rm", "-rf", ".amalgam", ".dvc/cache/runs", "outputs/teachers", "outputs/targets")
    for stage in ("teachers", "targets-taskA", "targets-taskB"):
        ran = in_two(finished, "dvc", "repro", "--force", "--single-item", stage)
        assert stages_run(ran.stdout) == {stage}
    assert (finished.root / "dvc.lock").read_text() == before


def test_a_training_in_two_processes_is_one_run_that_says_so(finished: Repository) -> None:
    output = in_two(finished, "dvc", "repro", "--force", "--single-item", "train-taskA").stdout
    assert output.count("student taskA: epoch") == 1, "one process speaks"
    assert read_json(finished.root / "outputs/students/taskA/student.json")["execution"]["processes"] == 2
    (found,) = runs(finished)
    assert found.info.status == "FINISHED"
    assert steps_logged(finished, found.info.run_id) == [1, 2]


def test_a_training_that_loses_a_process_ends_in_one_message_and_goes_on(finished: Repository, tmp_path: Path) -> None:
    for victim in ("0", "1"):
        finished.set_params(taskA__num_epochs=40 + int(victim))
        run = Run(finished, AMALGAM_PROCESSES="2")
        assert run.stage() is not None
        run.wait_for(2)
        for process in stage_processes(finished.root, "stages/train.py"):
            if process.environ().get("RANK") == victim:
                process.send_signal(signal.SIGKILL)
        assert run.dvc.wait() != 0
        log = (tmp_path / "dvc.log").read_text()
        assert f"error: process {victim} of 2 was ended by SIGKILL" in log
        assert "Traceback" not in log
        assert not stage_processes(finished.root, "stages/train.py")
        assert {found.info.status for found in runs(finished)} & {"FAILED", "KILLED"} or victim == "0", (
            "the first process says so, if it can"
        )
        again = in_two(finished, "dvc", "repro", "train-taskA").stdout
        assert "goes on after epoch" in again
    assert {found.info.status for found in runs(finished)} == {"FINISHED"}
    student = finished.root / "outputs/students/taskA"
    went_on = {name: (student / name).read_bytes() for name in DETERMINISTIC}
    assert "goes on" not in in_two(finished, "dvc", "repro", "--force", "--single-item", "train-taskA").stdout
    assert {name: (student / name).read_bytes() for name in DETERMINISTIC} == went_on, "as without the break"


def test_a_training_in_two_processes_that_diverges_says_what_one_says(finished: Repository) -> None:
    """The first process keeps what was reached, which takes a while, and the others let it."""
    wild = ("--lr", "10", "--optimizer", "sgd", "--scheduler", "step", "--num_epochs", "60")
    result = in_two(finished, "python", "stages/train.py", "--task", "A", *wild, check=False)
    assert result.returncode == 1
    when = r"(is|are) no longer finite (in|after) epoch \d+,( which ended with)? step \d+ \(.*\)"
    told = rf"error: student taskA: the [\w ]+ {when}; lower lr; (the best weights .* kept in|no epoch was finished)"
    assert len(re.findall(told, result.stderr)) == 1, result.stderr
    (found,) = runs(finished)
    assert found.info.status == "FAILED"


def test_a_one_off_in_two_processes_has_one_folder(finished: Repository) -> None:
    command = ["python", "stages/train.py", "--task", "A", "--num_epochs", "1", "--alpha", "0.9"]
    in_two(finished, *command)
    (folder,) = (finished.root / "runs").iterdir()
    assert {path.suffix for path in folder.iterdir()} >= {".pth", ".log", ".png", ".safetensors"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")], "nothing half-made is left"


def test_what_a_user_got_wrong_is_told_once(finished: Repository) -> None:
    result = in_two(finished, "python", "stages/train.py", "--task", "C", check=False)
    assert result.returncode == 1
    assert result.stderr == "error: there is no taskC; the tasks are taskA, taskB\n"


@pytest.mark.parametrize("value", ["two", "0", "-1"])
def test_a_number_of_processes_that_is_none_is_refused(finished: Repository, value: str) -> None:
    result = finished.run("python", "stages/train.py", "--task", "A", check=False, PYTHONPATH="src", AMALGAM_PROCESSES=value)
    assert result.returncode == 1
    assert result.stderr == f"error: AMALGAM_PROCESSES is '{value}'; it must be a number of processes, 1 or more\n"


def test_more_processes_than_gpus_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "one", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("amalgam.team.gpus", lambda: 1)
    with pytest.raises(UserError, match="process 2 of this machine has no GPU of its own: there are 1; start as many"), joined():
        pass
