"""Starting a stage in several processes (AMALGAM_PROCESSES), by PyTorch's elastic launcher.

What is imported of torch is imported late: every stage has this module, and not every one needs torch.
"""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable
from typing import Any, NoReturn

from amalgam.errors import UserError

PROCESSES_VARIABLE = "AMALGAM_PROCESSES"
SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_IN_DOUBT = 1  # of failures so near each other, whose times are whole seconds, any may be the first


def processes_asked_for() -> int:
    """The environment variable, or 1. Raises UserError if it is no number, or more than there are GPUs where there are any."""
    text = os.environ.get(PROCESSES_VARIABLE, "") or "1"
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{PROCESSES_VARIABLE} is '{text}'; it must be a number of processes, 1 or more")
    if int(text) > 1:
        from amalgam.hardware import gpus

        if 0 < gpus() < int(text):
            raise UserError(f"{PROCESSES_VARIABLE} is {text}, but there are {gpus()} GPUs, and each process needs its own; lower it")
    return int(text)


def is_worker() -> bool:
    """Whether a launcher (this one, or torchrun) started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def in_processes(main: Callable[[], None]) -> Callable[[], None]:
    """``main``, or this same command in as many processes as are asked for."""

    def run() -> None:
        count = 1 if is_worker() else processes_asked_for()
        if count == 1:
            main()
        else:
            launch(count)

    return run


def launch(count: int) -> None:
    """Run this process's command ``count`` times as one team. If one of them ends badly, the others are ended, and this process exits."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    logging.disable()  # this process does nothing else, and whoever fails says why
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=SECONDS_BETWEEN_LOOKS,
    )
    try:
        elastic_launch(config, sys.executable)(*sys.argv)
    except SignalException as ended:
        raise KeyboardInterrupt(ended.sigval) from ended
    except ChildFailedError as failed:
        end_like(list(failed.failures.items()), count)


def end_like(failures: list[tuple[int, Any]], count: int) -> NoReturn:
    """End as the first of the ``count`` processes that failed (rank, failure): by what it had to tell, or was ended by.

    The launcher then ends the others, those by SIGKILL that wait for it on a GPU and hear nothing.
    """
    began = min(failure.timestamp for _, failure in failures)
    first = [(rank, failure) for rank, failure in failures if failure.timestamp <= began + SECONDS_IN_DOUBT]
    for _, failure in first:
        if isinstance(failure.message, dict):
            raise UserError(failure.message["message"].partition(": ")[2])
    for rank, failure in first:
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:  # the launcher's own way
            name = signal.Signals(-failure.exitcode).name
            raise UserError(
                f"process {rank} of {count} was ended by {name}, and the others with it; repeat the command: trainings go on after their "
                "last whole epoch"
            )
    sys.exit(max(abs(failure.exitcode) for _, failure in first))


def fail(text: str) -> NoReturn:
    """Exit with status 1 and this message; of several processes the launcher tells it, once."""
    if is_worker():
        from torch.distributed.elastic.multiprocessing.errors import get_error_handler

        get_error_handler().record_exception(UserError(text))
        sys.exit(1)
    sys.exit(f"error: {text}")
