"""How every stage starts and ends."""

import argparse
import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil
import yaml

from amalgam.errors import UserError
from amalgam.interruption import interruptible, put_off
from amalgam.params import Params
from amalgam.params_file import PARAMS_FILE, load_params
from amalgam.processes import fail, is_worker

PIPELINE_FILE = Path("dvc.yaml")
SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 60.0  # of a team's process without its launcher: waiting for the others' GPUs, it hears no signal
TRAINING = "train-"  # and the task: the name of a task's training stage


def run_stage(main: Callable[[], None]) -> None:
    """Run ``main``; what a user can put right ends in one message and exit status 1, anything else in a traceback.

    SIGTERM, and the end of the terminal unless it is to be survived, end it as Ctrl-C does, in good order; so does the end of the ``dvc``
    that started it.
    """
    with interruptible():
        try:
            end_with_parent()
            main()
        except (UserError, OSError) as error:
            with put_off():
                fail(_explained(error))
        except KeyboardInterrupt as interrupt:
            sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))


def _explained(error: UserError | OSError) -> str:
    """What to do about it."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} is missing; if the pipeline makes it, dvc repro does, and dvc pull fetches it"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{error}" + ("; free some space (README.md, Out of disk?), then repeat the command" if full else "")


def end_with_parent() -> None:
    """Have this process interrupted when the ``dvc`` that runs it ends: its successor must not find it still at work.

    Nothing where no ``dvc`` runs it; a worker ends with its launcher. DVC starts a stage through a shell, which would live on; then
    both are watched. If ``dvc`` ended while this process was starting, its parent is another program by now, and it is interrupted at once.
    """
    parents = psutil.Process().parents()
    if is_worker():
        threading.Thread(target=_watch, args=(parents[:1], SECONDS_TO_END), daemon=True).start()
    elif "DVC_STAGE" in os.environ and parents:
        through_shell = "-c" in parents[0].cmdline()[1:2]
        watched = parents[: 2 if through_shell else 1]
        if not may_be_dvc(watched[-1]):
            raise KeyboardInterrupt(signal.SIGTERM)
        threading.Thread(target=_watch, args=(watched,), daemon=True).start()


def may_be_dvc(process: psutil.Process) -> bool:
    """Whether it is Python, which DVC runs in, or a program of that name."""
    try:
        words = [process.name(), *process.cmdline()[:2]]
    except psutil.Error:  # it ended, or is another user's
        return False
    return any("python" in word.lower() or "dvc" in word.lower() for word in words)


def _watch(processes: Sequence[psutil.Process], seconds_to_end: float | None = None) -> None:
    """Interrupt this process when one of these is gone; and kill it if it has not ended so many seconds later."""
    while all(map(_lives, processes)):
        time.sleep(SECONDS_BETWEEN_LOOKS)
    os.kill(os.getpid(), signal.SIGTERM)
    if seconds_to_end is not None:
        time.sleep(seconds_to_end)
        os.kill(os.getpid(), signal.SIGKILL)


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def no_arguments(description: str | None) -> None:
    """Answer ``--help``, and refuse whatever else the command line holds."""
    argparse.ArgumentParser(description=f"{description} Everything it needs stands in {PARAMS_FILE}.").parse_args()


def task_argument(description: str | None) -> str:
    """The task named on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--task", required=True, help="the task, as taskA or A")
    return full_task_name(parser.parse_args().task)


def full_task_name(named: str) -> str:
    """``A`` is taskA too."""
    return named if named.startswith("task") else f"task{named}"


def check_task(task: str, tasks: Sequence[str]) -> None:
    if task not in tasks:
        raise UserError(f"there is no {task}; the tasks are {', '.join(tasks)}")


def stage_params() -> Params:
    """The parameters, whole and valid, of exactly those tasks that the pipeline has stages for."""
    params = load_params()
    check_stages(params, PIPELINE_FILE)
    return params


def check_stages(params: Params, pipeline: Path) -> None:
    """Raise UserError if a task has no stages, or the stages of a task have no task."""
    stages = yaml.safe_load(pipeline.read_text(encoding="utf-8"))["stages"]
    staged = {name.removeprefix(TRAINING) for name in stages if name.startswith(TRAINING)}
    for task in sorted(set(params.task_names) - staged):
        raise UserError(
            f"{PARAMS_FILE}: {params.source}.tasks.{task}: {pipeline} has no stages for it; add what stands there of taskB "
            f"once more, with this name (examples/third_task.patch shows each line)"
        )
    for task in sorted(staged - set(params.task_names)):
        raise UserError(
            f"{PARAMS_FILE}: {params.source}.tasks has no '{task}', for which {pipeline} has stages; add it with its teachers, "
            f"or remove its stages ({TRAINING}{task} and others) from {pipeline}"
        )
