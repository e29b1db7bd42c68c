"""From the command to the first training step, and what a command costs that has nothing to do.

    make repro
    PYTHONPATH=src:. python benchmarks/loop.py

Median and range of several runs, in seconds. The training is the main job's first task, in a copy of this repository.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
RUNS = 5
NEEDED = ("src", "stages", "outputs/prepared", "outputs/targets", "fetched/weights", "params.yaml", "dvc.yaml", "data.dvc", "models.dvc")

# Imports of the stage, then everything up to the end of the first step: told by its own clock, and the process ended there.
FIRST_STEP = """
import os, sys, time
began = time.perf_counter()
sys.path.insert(0, "stages")
sys.argv = ["train.py", "--task", "taskA"]
import train
from amalgam import trainer
imported = time.perf_counter()
step = trainer._Course.update
def first(course, total):
    step(course, total)
    print(imported - began, time.perf_counter() - imported, flush=True)
    os._exit(0)
trainer._Course.update = first
train.main()
"""


def run(command: Sequence[str], folder: Path, **environment: str) -> str:
    """What a command prints, run without others' MLflow server. Exits with what it complains of, if it fails."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    done = subprocess.run(command, cwd=folder, env=kept | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[:2])} failed:\n{done.stdout}\n{done.stderr}")
    return done.stdout


def first_step(folder: Path) -> tuple[float, float]:
    """Seconds of imports, and from there to the end of the first step."""
    environment = {"DVC_ROOT": str(folder), "PYTHONPATH": "src", "DVC_STAGE": "train-taskA"}
    shutil.rmtree(folder / ".amalgam", ignore_errors=True)
    told = run([sys.executable, "-c", FIRST_STEP], folder, **environment)
    imports, rest = told.split()[-2:]
    return float(imports), float(rest)


def wall(*command: str) -> Callable[[], float]:
    def measure() -> float:
        started = time.perf_counter()
        run(command, ROOT)
        return time.perf_counter() - started

    return measure


def show(name: str, values: list[float]) -> None:
    print(f"{name:45} {statistics.median(values):5.2f}   ({min(values):.2f} … {max(values):.2f})", flush=True)


def main() -> None:
    if run(("dvc", "status", "--json"), ROOT).strip() != "{}":
        raise SystemExit("the pipeline is not up to date, so that there is something to do; make repro first")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in NEEDED:
            source, target = ROOT / name, folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
        pairs = [first_step(folder) for _ in range(RUNS)]
    show("train: imports", [imports for imports, _ in pairs])
    show("train: from there to the first step's end", [rest for _, rest in pairs])
    show("dvc repro, nothing to do", [wall("dvc", "repro")() for _ in range(RUNS)])
    show("dvc exp run --temp, nothing to do", [wall("dvc", "exp", "run", "--temp")() for _ in range(RUNS)])


if __name__ == "__main__":
    main()
