"""What a training costs beside its own work: MLflow's metrics of an epoch, and the checkpoint, each by itself; and what the epochs of the
last trained students (outputs/students) took beside training and validation, which is both and the live picture.

    PYTHONPATH=src python benchmarks/tracking.py
"""

import os
import statistics
import tempfile
import time
import uuid
from itertools import pairwise
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
    """Of the smallest student with AdamW; the first epoch stays the best, so that two states of the weights are written."""
    from amalgam.batches import Batch
    from amalgam.checkpoint import checkpoint
    from amalgam.history import Snapshot
    from amalgam.models import Classifier
    from amalgam.networks import build_network
    from amalgam.optimization import Optimization
    from amalgam.preprocessing import Preprocessing
    from amalgam.trainer import Hooks, StepLoss, fit
    from amalgam.validation import Validation

    taken: list[float] = []
    network = build_network("MobileNetV3", 10)
    student = Classifier("MobileNetV3", network, tuple(map(str, range(10))), Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
    batch = Batch(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), torch.arange(4))

    def loss(logits: torch.Tensor, batch: Batch) -> StepLoss:
        return StepLoss({"labels": torch.nn.functional.cross_entropy(logits, batch.labels)})

    def worse_and_worse(_: Classifier) -> Validation:
        return Validation(1.0, 1 - len(taken) / 100)

    with checkpoint("benchmark") as own:

        def keep(snapshot: Snapshot) -> None:
            started = time.perf_counter()
            own.keep(snapshot)
            taken.append(1000 * (time.perf_counter() - started))

        optimization = Optimization("adamw", 1e-3, 0.05, "cosine", 30)
        fit(student, optimization, 1, lambda _: iter([batch]), loss, worse_and_worse, Hooks(keep=keep))
    return taken[1:]


def seconds_of_epochs(record: RunRecord) -> tuple[float, float]:
    """Medians: from one epoch's end to the next; of it training and validation."""
    gaps = [(after["ended"] - before["ended"]) / 1000 for before, after in pairwise(record.epochs)]
    return statistics.median(gaps), statistics.median(epoch["epoch_seconds"] for epoch in record.epochs[1:])


def main() -> None:
    students = sorted(Path("outputs/students").glob("*/run.json"))
    epochs = {path.parent.name: seconds_of_epochs(RunRecord.read(path.parent)) for path in students}
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"):  # a server of others' is not for this
        os.environ.pop(name, None)
    Path(".amalgam").mkdir(exist_ok=True)  # the disk of the pipeline's own checkpoints
    with tempfile.TemporaryDirectory(dir=".amalgam") as folder:
        os.environ["DVC_ROOT"] = folder
        taken = sorted(milliseconds_an_epoch())
        kept = sorted(milliseconds_a_checkpoint())
    typical = statistics.median(taken)
    low, high = taken[EPOCHS // 20], taken[-EPOCHS // 20]
    print(f"{METRICS} metrics an epoch: {typical:.1f} ms (median of {EPOCHS}; 5 to 95 %: {low:.1f} to {high:.1f})")
    print(f"a checkpoint of MobileNetV3: {statistics.median(kept):.0f} ms (median of {len(kept)}; {kept[0]:.0f} to {kept[-1]:.0f})")
    for task, (whole, working) in epochs.items():
        print(f"{task}: {whole:.2f} s from epoch to epoch, {100 * (1 - working / whole):.1f} % of it beside training and validation")


if __name__ == "__main__":
    main()
