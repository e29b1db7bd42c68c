"""Which of several processes that failed is heard."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from amalgam.errors import UserError
from amalgam.processes import end_like
from conftest import ROOT

SCRIPT = """
import os, pathlib, signal, time
from amalgam.processes import in_processes, is_worker
from amalgam.stage import run_stage

def main():
    ready = pathlib.Path("ready")
    if os.environ["RANK"] == "1":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as one that waits on a GPU for the other
        ready.touch()
        time.sleep(60)
    while not ready.exists():
        time.sleep(0.1)
    raise RuntimeError("the cause")

if __name__ == "__main__":
    if not is_worker():
        from torch.distributed.elastic.multiprocessing import api
        api.PContext.close.__defaults__ = (None, 3)  # seconds until SIGKILL, for thirty
    run_stage(in_processes(main))
"""


def failed(rank: int, exitcode: int, timestamp: int, message: Any = "") -> tuple[int, ProcessFailure]:
    failure = ProcessFailure(rank, 0, exitcode, "")
    failure.timestamp, failure.message = timestamp, message or failure.message
    return rank, failure


def told(text: str) -> dict[str, str]:
    return {"message": f"UserError: {text}"}


@pytest.mark.parametrize(
    ("failures", "message"),
    [
        ([failed(0, -9, 40), failed(1, 1, 10, told("lower lr"))], "lower lr"),
        ([failed(0, -11, 10), failed(1, -9, 40)], "process 0 of 2 was ended by SIGSEGV"),
        ([failed(0, 1, 10), failed(1, -9, 11)], "process 1 of 2 was ended by SIGKILL"),  # the other saw it first
        ([failed(0, 1, 40, told("later")), failed(1, -9, 10)], "process 1 of 2 was ended by SIGKILL"),
        ([failed(0, -15, 10), failed(1, 1, 10, told("no such task"))], "no such task"),
    ],
)
def test_the_first_failure_is_told(failures: list[tuple[int, ProcessFailure]], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}"):
        end_like(failures, 2)


def test_a_failure_that_told_itself_ends_with_its_status() -> None:
    with pytest.raises(SystemExit) as ended:
        end_like([failed(0, 3, 10), failed(1, -9, 40)], 2)
    assert ended.value.code == 3


def test_a_process_that_had_to_be_killed_after_another_failed_is_not_the_cause(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "AMALGAM_PROCESSES": "2"}
    result = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 1
    assert "RuntimeError: the cause" in result.stderr
    assert "SIGKILL" not in result.stderr
