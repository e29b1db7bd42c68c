"""How every stage starts and ends."""

import argparse
import errno
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from amalgam.errors import UserError
from amalgam.interruption import interruptible, put_off
from amalgam.params import Params
from amalgam.params_file import PARAMS_FILE, load_params
from amalgam.parents import end_with_parent
from amalgam.places import check_root
from amalgam.processes import fail

PIPELINE_FILE = Path("dvc.yaml")
TRAINING = "train-"  # and the task: the name of a task's training stage


def run_stage(main: Callable[[], None]) -> None:
    """Run ``main``; what a user can put right ends in one message and exit status 1, anything else in a traceback.

    SIGTERM, and the end of the terminal unless it is to be survived, end it as Ctrl-C does, in good order; so does the end of the ``dvc``
    that started it.
    """
    with interruptible():
        try:
            end_with_parent()
            check_root()
            main()
        except (UserError, OSError) as error:
            with put_off():
                fail(_explained(error))
        except RuntimeError as error:
            if not _out_of_memory(error):
                raise
            with put_off():
                fail(
                    f"the GPU's memory is full ({str(error).partition('. GPU')[0]}); lower batch_size, student_resolution or "
                    "teacher.resolution, or end the other processes that take of it (nvidia-smi names them); if it is not full, PyTorch "
                    "lacks what this GPU needs: CUDA_VISIBLE_DEVICES= before the command runs it on the CPU"
                )
        except KeyboardInterrupt as interrupt:
            sys.exit(128 + (interrupt.args[0] if interrupt.args else signal.SIGINT))


def _explained(error: UserError | OSError) -> str:
    """What to do about it."""
    if isinstance(error, FileNotFoundError) and error.filename:
        return f"{error.filename} is missing; if the pipeline makes it, dvc repro does, and dvc pull fetches it"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return f"{error}" + ("; free some space (README.md, Out of disk?), then repeat the command" if full else "")


def _out_of_memory(error: RuntimeError) -> bool:
    """Whether a GPU is out of it. PyTorch is imported late: not every stage needs it."""
    from amalgam.hardware import lacks_memory

    return lacks_memory(error)


def no_arguments(description: str | None) -> None:
    """Answer ``--help``, and refuse whatever else the command line holds."""
    argparse.ArgumentParser(description=f"{description} Everything it needs stands in {PARAMS_FILE}.").parse_args()


def task_argument(description: str | None) -> str:
    """The task named on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--task", required=True, help="the task, as taskA or A")
    return full_task_name(parser.parse_args().task)


def in_pipeline() -> bool:
    """Whether DVC runs this process as a stage."""
    return "DVC_STAGE" in os.environ


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
