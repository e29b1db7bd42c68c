"""What MLflow and the checkpoint cost a training: an epoch's metrics into SQLite, the machine's load beside it; all that is kept of it.

    PYTHONPATH=src python benchmarks/tracking.py

Compared with the epochs of the last trained students (outputs/students), which were tracked as they went.
"""

import os
import statistics
import tempfile
import time
import uuid
from pathlib import Path

import torch

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


def milliseconds_a_checkpoint() -> list[float]:
    """Of the smallest student with AdamW, its best weights included."""
    from amalgam.batches import Batch
    from amalgam.checkpoint import checkpoint
    from amalgam.models import Classifier
    from amalgam.networks import build_network
    from amalgam.optimization import Optimization
    from amalgam.preprocessing import Preprocessing
    from amalgam.trainer import Hooks, Snapshot, StepLoss, fit

    taken = []
    network = build_network("MobileNetV3", 10)
    student = Classifier("MobileNetV3", network, tuple(map(str, range(10))), Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
    batch = Batch(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.arange(4))

    def loss(logits: torch.Tensor, batch: Batch) -> StepLoss:
        return StepLoss({"labels": torch.nn.functional.cross_entropy(logits, batch.labels)})

    with checkpoint("benchmark") as own:

        def keep(snapshot: Snapshot) -> None:
            started = time.perf_counter()
            own.keep(snapshot)
            taken.append(1000 * (time.perf_counter() - started))

        fit(student, Optimization("adamw", 1e-3, 0.05, "cosine", 30), 1, lambda _: iter([batch]), loss, lambda _: None, Hooks(keep=keep))
    return taken


def main() -> None:
    students = sorted(Path("outputs/students").glob("*/run.json"))
    epochs = {path.parent.name: [epoch["epoch_seconds"] for epoch in RunRecord.read(path.parent).epochs] for path in students}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # a server of others' is not for this
        os.environ.pop(name, None)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DVC_ROOT"] = folder
        taken = sorted(milliseconds_an_epoch())
        kept = sorted(milliseconds_a_checkpoint())
    typical = statistics.median(taken)
    low, high = taken[EPOCHS // 20], taken[-EPOCHS // 20]
    print(f"{METRICS} metrics an epoch: {typical:.1f} ms (median of {EPOCHS}; 5 to 95 %: {low:.1f} to {high:.1f})")
    print(f"a checkpoint of MobileNetV3: {statistics.median(kept):.0f} ms (median of {len(kept)}; {kept[0]:.0f} to {kept[-1]:.0f})")
    for task, seconds in epochs.items():
        epoch = statistics.median(seconds)
        shares = (f"{name} {value / 10 / epoch:.2f} %" for name, value in (("tracking", typical), ("checkpoint", statistics.median(kept))))
        print(f"{task}: an epoch takes {epoch:.2f} s; {', '.join(shares)} of it")


if __name__ == "__main__":
    main()
