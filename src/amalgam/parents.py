"""Ending with the program that started this process: what it started anew must not find this one still at work."""

import os
import signal
import threading
import time
from collections.abc import Sequence

import psutil

from amalgam.processes import is_worker

SECONDS_BETWEEN_LOOKS = 0.5
SECONDS_TO_END = 60.0  # of a team's process without its launcher: waiting for the others' GPUs, it hears no signal


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
