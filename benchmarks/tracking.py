"""What MLflow costs a training: one epoch's metrics into SQLite, and the machine's load beside it.

    PYTHONPATH=src python benchmarks/tracking.py

Compared with the epochs of the last trained students (outputs/students), which were tracked as they went.
"""

import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path

from amalgam.record import RunRecord

EPOCHS = 300
METRICS = 20  # an epoch's, of a task with three teachers


def milliseconds_an_epoch() -> list[float]:
    from amalgam.tracking.run import training_run

    taken = []
    with training_run("benchmark", "tracking", {}, {}, uuid.uuid4().hex) as tracker:
        for epoch in range(EPOCHS):
            started = time.perf_counter()
            tracker.metrics({f"metric_{index}": float(epoch) for index in range(METRICS)}, epoch)
            taken.append(1000 * (time.perf_counter() - started))
    return taken


def main() -> None:
    students = sorted(Path("outputs/students").glob("*/run.json"))
    epochs = {path.parent.name: [epoch["epoch_seconds"] for epoch in RunRecord.read(path.parent).epochs] for path in students}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DVC_ROOT"] = folder
        taken = sorted(milliseconds_an_epoch())
    typical = statistics.median(taken)
    low, high = taken[EPOCHS // 20], taken[-EPOCHS // 20]
    print(f"{METRICS} metrics an epoch: {typical:.1f} ms (median of {EPOCHS}; 5 to 95 %: {low:.1f} to {high:.1f})")
    for task, seconds in epochs.items():
        epoch = statistics.median(seconds)
        print(f"{task}: an epoch takes {epoch:.2f} s; tracking {typical / 10 / epoch:.2f} % of it")


if __name__ == "__main__":
    main()
