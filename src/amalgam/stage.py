"""How every stage starts and ends."""

import argparse
import sys
from collections.abc import Callable, Sequence

from amalgam.errors import UserError


def run_stage(main: Callable[[], None]) -> None:
    """Run ``main``; what a user can put right ends in one message and exit status 1, anything else in a traceback."""
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def task_argument(description: str | None) -> str:
    """The task named on the command line: ``--task A`` is taskA."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--task", required=True, help="the letter of the task, as A for taskA")
    letter: str = parser.parse_args().task
    return f"task{letter}"


def check_task(task: str, tasks: Sequence[str]) -> None:
    if task not in tasks:
        raise UserError(f"there is no {task}; the tasks are {', '.join(tasks)}")
