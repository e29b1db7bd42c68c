"""Real trainings of a real pipeline, broken off from outside."""

import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from mlflow import MlflowClient

from amalgam.interruption import interruptible, put_off
from amalgam.parents import may_be_dvc
from conftest import ROOT, Repository

DETERMINISTIC = ("best.safetensors", "last.safetensors", "student.json", "history.csv", "metrics.json")
EPOCHS = 300


def stage_processes(root: Path, script: str) -> list[psutil.Process]:
    """Every process that runs a stage's script in the repository, orphans included; shells left out."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd() == str(root) and any(part.endswith(script) for part in process.cmdline()[1:2]):
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


class Run:
    """``dvc repro`` of a stage in the background."""

    def __init__(self, repository: Repository, stage: str = "train-taskA", script: str = "stages/train.py", **environment: str) -> None:
        self.root, self.script = repository.root, script
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, **environment}
        with (self.root.parent / "dvc.log").open("ab") as log:
            self.dvc = subprocess.Popen(
                ["dvc", "repro", stage], cwd=self.root, env=variables, stdout=log, stderr=log, start_new_session=True
            )

    def stage(self) -> psutil.Process | None:
        """The stage's process, once it is there; None if dvc ended before."""
        while self.dvc.poll() is None:
            mine = [p for p in stage_processes(self.root, self.script) if self.dvc.pid in [parent.pid for parent in p.parents()]]
            if mine:
                return mine[0]
            time.sleep(0.05)
        return None

    def wait_for(self, epochs: int, seconds: float = math.inf) -> None:
        """Until so many more epochs were kept, or dvc ended, or one epoch took longer than so many seconds."""
        for _ in range(epochs):
            before, since = self.kept(), time.monotonic()
            while self.dvc.poll() is None and self.kept() == before and time.monotonic() - since < seconds:
                time.sleep(0.01)

    def kept(self) -> list[int]:
        paths = (self.root / ".amalgam" / "checkpoints").glob("*/epoch.pt")
        return [path.stat().st_mtime_ns for path in sorted(paths) if path.exists()]


def runs(repository: Repository, task: str = "taskA") -> list:  # type: ignore[type-arg]
    client = MlflowClient(tracking_uri=f"sqlite:///{repository.root / 'mlflow.db'}")
    return list(client.search_runs([client.get_experiment_by_name(task).experiment_id]))


def steps_logged(repository: Repository, run_id: str) -> list[int]:
    client = MlflowClient(tracking_uri=f"sqlite:///{repository.root / 'mlflow.db'}")
    return sorted(metric.step for metric in client.get_metric_history(run_id, "epoch_seconds"))


def break_off(choose: random.Random, victim: int, group: int) -> None:
    """Kill the victim, ask it to end, or press Ctrl-C, which reaches the whole group."""
    number = choose.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    with suppress(ProcessLookupError):
        os.killpg(group, number) if number == signal.SIGINT else os.kill(victim, number)


def test_a_training_killed_twenty_times_ends_as_if_it_had_not_been(finished: Repository, tmp_path: Path) -> None:
    """dvc and the stage's process in turn, at random points, by every signal; each time the same command goes on."""
    undisturbed = Repository(tmp_path / "undisturbed")
    shutil.copytree(finished.root, undisturbed.root, symlinks=True)
    for repository in (finished, undisturbed):
        repository.set_params(taskA__num_epochs=EPOCHS)
    undisturbed.repro("train-taskA")
    seed = int(os.environ.get("KILLS_SEED") or int.from_bytes(os.urandom(4)))
    print(f"KILLS_SEED={seed} in the environment kills at the same moments")
    choose = random.Random(seed)
    reached = 0
    for number in range(20):
        run = Run(finished)
        stage = run.stage()
        assert stage is not None, (tmp_path / "dvc.log").read_text()
        if number % 3 < 2:
            run.wait_for(1)
            reached += run.dvc.poll() is None
            time.sleep(choose.uniform(0, 0.3))
        else:
            run.wait_for(1, choose.uniform(0, 5))  # mostly before the first epoch
        break_off(choose, run.dvc.pid if number % 2 else stage.pid, run.dvc.pid)
        run.dvc.wait()
    finished.repro("train-taskA")
    assert reached >= 10, "most were killed in mid-training"
    (found,) = runs(finished)
    assert found.info.status == "FINISHED"
    assert steps_logged(finished, found.info.run_id) == list(range(1, EPOCHS + 1))
    for name in DETERMINISTIC:
        student = Path("outputs/students/taskA") / name
        assert (finished.root / student).read_bytes() == (undisturbed.root / student).read_bytes(), name
    assert [path.name for path in (finished.root / "outputs/students").iterdir() if path.name.endswith(".part")] == []


def test_a_teacher_that_was_killed_goes_on_and_ends_with_the_same_bits(finished: Repository, tmp_path: Path) -> None:
    undisturbed = Repository(tmp_path / "undisturbed")
    shutil.copytree(finished.root, undisturbed.root, symlinks=True)
    for repository in (finished, undisturbed):
        repository.set_params(teacher__num_epochs=25)
    undisturbed.repro("teachers")
    before = set((finished.root / ".amalgam/checkpoints").glob("*/epoch.pt"))
    run = Run(finished, "teachers", "stages/teachers.py")
    stage = run.stage()
    assert stage is not None
    run.wait_for(2)
    stage.kill()
    run.dvc.wait()
    again = finished.run("dvc", "repro", "teachers").stdout
    assert "goes on after epoch" in again
    for teacher in ("taskA/warm", "taskA/cold", "taskB/first", "taskB/second"):
        for file in ("weights.safetensors", "manifest.json"):
            name = Path("outputs/teachers") / teacher / file
            assert (finished.root / name).read_bytes() == (undisturbed.root / name).read_bytes()
    assert set((finished.root / ".amalgam/checkpoints").glob("*/epoch.pt")) == before, "the teachers are in the store"


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HEARS_CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # a shell's background jobs ignore it


@pytest.mark.parametrize("number", SIGNALS)
def test_a_stage_that_is_told_to_end_ends_in_good_order(number: signal.Signals) -> None:
    """However long its cleaning up takes, and whatever goes wrong there."""
    code = f"""
{HEARS_CTRL_C}
import time
from amalgam.stage import run_stage
def main():
    try:
        print("begun", flush=True)
        time.sleep(60)
    finally:
        try:
            {{}}["missing"]
        except KeyError:
            time.sleep(0.5)
        time.sleep(0.5)
        print("cleaned up", flush=True)
run_stage(main)
"""
    stage = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert stage.stdout is not None
    assert stage.stdout.readline() == "begun\n"
    stage.send_signal(number)
    assert stage.communicate()[0] == "cleaned up\n"
    assert stage.returncode == 128 + number


DROPPING = {
    "a destructor": """
class Resource:
    def __del__(self):
        end()
def drop():
    Resource()
""",
    "a lookup in C": """
class Resource:
    def __eq__(self, other):
        end()
    def __hash__(self):
        return 1
def drop():
    ctypes.pythonapi.PyDict_GetItem(ctypes.py_object({Resource(): 1}), ctypes.py_object(Resource()))
""",
    "whoever catches everything": """
def drop():
    try:
        end()
    except BaseException:
        pass
""",
}


@pytest.mark.parametrize("dropping", DROPPING)
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_whose_exception_is_dropped_is_not_lost(number: signal.Signals, dropping: str) -> None:
    code = f"""
{HEARS_CTRL_C}
import ctypes, os, time
from amalgam.stage import run_stage
def end():
    os.kill(os.getpid(), {int(number)})
    time.sleep(1)
{DROPPING[dropping]}
def main():
    drop()
    print("dropped", flush=True)
    for _ in range(300):
        time.sleep(0.1)
run_stage(main)
"""
    stage = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (stage.returncode, stage.stdout, stage.stderr) == (128 + number, "dropped\n", "")


@pytest.mark.parametrize("script", sorted((ROOT / "stages").glob("*.py")), ids=lambda script: script.stem)
def test_a_stage_that_is_told_to_end_while_it_loads_its_modules_ends_at_once(script: Path) -> None:
    """No exception may come of it, which could be dropped there."""
    code = f"""
{HEARS_CTRL_C}
import importlib.abc, os, runpy, sys
class Interrupt(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {"numpy"!r}:
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                print("dropped", flush=True)
sys.meta_path.insert(0, Interrupt())
sys.argv = [{str(script)!r}, "--help"]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    stage = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (stage.returncode, stage.stdout, stage.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.parametrize("number", SIGNALS)
def test_an_interruption_that_is_put_off_comes_when_the_block_has_ended(number: signal.Signals) -> None:
    done = []

    def work() -> None:
        with put_off():
            os.kill(os.getpid(), number)
            done.append("in the block")
        done.append("after it")

    with pytest.raises(KeyboardInterrupt), interruptible():
        work()
    assert done == ["in the block"]


def test_a_second_interruption_is_not_put_off() -> None:
    """What it waits for may never come: a server that is away."""
    done = []

    def work() -> None:
        with put_off():
            for number in (1, 2):
                os.kill(os.getpid(), signal.SIGTERM)
                done.append(number)

    with pytest.raises(KeyboardInterrupt), interruptible():
        work()
    assert done == [1]


def test_an_ignored_hang_up_stays_ignored() -> None:
    before, went_on = signal.signal(signal.SIGHUP, signal.SIG_IGN), False
    try:
        with interruptible(), put_off():
            os.kill(os.getpid(), signal.SIGHUP)
            went_on = True
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    assert went_on


def test_signals_are_handled_as_before_once_the_block_is_left() -> None:
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]
    with interruptible(), put_off():
        pass
    assert [signal.getsignal(number) for number in numbers] == before


def test_a_message_that_is_being_told_is_told_to_its_end() -> None:
    code = """
import os, signal
from amalgam import stage
from amalgam.errors import UserError
class Late(UserError):
    def __str__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return "told"
def main():
    raise Late
stage.run_stage(main)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, "error: told\n")


def test_an_orphan_knows_that_its_new_parent_is_no_dvc() -> None:
    assert may_be_dvc(psutil.Process())
    other = subprocess.Popen(["sleep", "60"])
    assert not may_be_dvc(psutil.Process(other.pid))
    other.kill()
    other.wait()


def test_what_a_training_depends_on_tells_its_checkpoints_apart(finished: Repository) -> None:
    """Every setting of the student, and the targets that it learns from."""
    code = """
import dataclasses, sys
from pathlib import Path
sys.path.insert(0, "stages")
from train import pipeline_job
from amalgam.params_file import load_params
params = load_params()
job = pipeline_job("taskA", params)
changes = {"alpha": 0.1, "lr": 0.1, "seed": 1, "num_epochs": 9, "run": "x", "mixup": 0.5}
keys = [job.key()]
keys += [dataclasses.replace(job, settings=job.settings.model_copy(update={name: value})).key() for name, value in changes.items()]
keys.append(pipeline_job("taskB", params).key())
keys += [dataclasses.replace(job, about={"one_off": name}).key() for name in ("first", "second")]  # by hand: one more, whatever its folder
for manifest in (Path("outputs/targets/taskA/targets.json"), Path("models/taskA/warm/manifest.json")):  # warm saw other pixels
    changed = manifest.read_text().replace('"std": [', '"std": [\\n 0.5,', 1)
    manifest.unlink()  # it may be a link into DVC's cache
    manifest.write_text(changed)
keys.append(pipeline_job("taskA", params).key())
print(len(set(keys)), len(keys))
"""
    assert finished.run("python", "-c", code, PYTHONPATH="src").stdout.split() == ["10", "11"]
