"""How every stage starts and ends."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from amalgam.errors import UserError
from amalgam.params import PARAMS_FILE, Params, load_params

PIPELINE_FILE = Path("dvc.yaml")
TRAINING = "train-"  # and the task: the name of a task's training stage


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
            f"{PARAMS_FILE}: {params.source}.tasks.{task}: {pipeline} has no stages for it; copy there those of another task "
            f"(targets-…, {TRAINING}…, and its lines in teachers, evaluate, metrics and plots)"
        )
    for task in sorted(staged - set(params.task_names)):
        raise UserError(
            f"{PARAMS_FILE}: {params.source}.tasks has no '{task}', for which {pipeline} has stages; add it with its teachers, "
            f"or remove its stages ({TRAINING}{task} and others) from {pipeline}"
        )
