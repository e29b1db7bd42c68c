"""From the files of finished stages to MLflow. What is there already is not sent again, so it can be repeated at any time."""

import csv
import json
import math
import shlex
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
import numpy.typing as npt
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Run, ViewType
from mlflow.exceptions import MlflowException

from amalgam.errors import UserError, without_passwords
from amalgam.files import read_json, sha256_of_file
from amalgam.models import load_classifier
from amalgam.notes import COMMANDS, run_note
from amalgam.provenance import fingerprint
from amalgam.record import RunRecord
from amalgam.student_files import BEST_WEIGHTS, LAST_WEIGHTS, STUDENT_MANIFEST, is_chosen
from amalgam.tracking.registry import DATA_TAG, SELECTED_ON_TAG, Candidate, consider, data_key, rival
from amalgam.tracking.run import RESTORED_TAG, Tracker, distinct, find_run
from amalgam.tracking.store import connect, experiment, store_lock

TRAINING_TAG = "amalgam.training"  # complete: all of it is there
EVALUATION_TAG = "amalgam.evaluation"  # the fingerprint of what is there
BEGUN_TAG = "amalgam.evaluation_begun"  # the same, before it is there
FILES = (BEST_WEIGHTS, LAST_WEIGHTS, STUDENT_MANIFEST, "history.csv")
MORE_METRICS = ("within_teacher_errors", "across_teacher_errors", "shared_class_accuracy")
OF_TEACHERS = "teacher_accuracy/"
RIVAL_METRIC = "mcnemar_p"
RIVAL_TAG = "mcnemar.against"
FITTED_METRIC = "unrouted_teachers_fitted"
PREDICTIONS = "predictions.csv"
RESULTS = "results.json"
P = ParamSpec("P")


def attempt(send: Callable[[], list[str]], place: Path = Path("outputs"), later: str = "make sync sends what is missing") -> None:
    """Print what ``send`` says. Whatever goes wrong on the way to the store, say so and what to do ``later``: the results stand in
    ``place`` all the same, and are worth more than their being shown."""
    try:
        for line in send():
            print(line)
    except Exception as error:  # noqa: BLE001 (each kind of store has errors of its own)
        print(f"not in MLflow: {reason(error)}; the results stand in {place}, and {later}", file=sys.stderr)


def reason(error: Exception) -> str:
    """What an error on the way to the store says, without passwords; its kind too where it was not made for people."""
    kind = "" if isinstance(error, UserError | MlflowException) else f"{type(error).__name__}: "
    return f"{kind}{without_passwords(error)}"


def one_at_a_time(publish: Callable[P, list[str]]) -> Callable[P, list[str]]:
    """Two processes that publish the same (a stage at its end, and make sync) would each find it missing, and send it twice."""

    @wraps(publish)
    def alone(*arguments: P.args, **named: P.kwargs) -> list[str]:
        with store_lock("publishing"):
            return publish(*arguments, **named)

    return alone


@one_at_a_time
def publish_training(student: Path, restore: bool = False) -> list[str]:
    """Complete the run of the student in folder ``student``; says what came of it.

    A run that was deleted, or that this store never had, is only mentioned, or with ``restore`` brought back or written anew.
    """
    from amalgam.tracking.model import log_model  # slow to import, and of no use to a training before its end

    client, record = connect(), RunRecord.read(student)
    run = _run_of(client, record, restore)
    if run is None:
        return [_absent(record, student)]
    said = [] if run.info.lifecycle_stage == "active" else [f"{record.task}: run {run.info.run_id} was deleted, and is restored"]
    if run.data.tags.get(TRAINING_TAG) == "complete":
        return said
    tracker = Tracker(client, run.info.run_id)
    if not run.data.params:  # it is written anew
        tracker.params(record.params)
    trained = read_json(student / "metrics.json")[record.task]
    _send_epochs(tracker, run, record, student / "history.csv")
    best = {f"best_{name}": value for name, value in trained.items() if name != "best_epoch"}
    tracker.metrics(best | {"best_epoch": trained["best_epoch"], "seconds": record.seconds})
    for name in FILES:
        tracker.file(student / name, "student")
    tracker.text(record.commands, f"student/{COMMANDS}")
    client.log_inputs(tracker.run_id, datasets=[_dataset(record, "trainval", "training")])
    try:
        log_model(client, tracker.run_id, load_classifier(student / BEST_WEIGHTS, student / STUDENT_MANIFEST), record.data.size)
    finally:  # MLflow calls the run running while it logs a model, and failed when that fails; the training is neither
        client.set_terminated(tracker.run_id, "FINISHED", record.ended)
    if EVALUATION_TAG not in run.data.tags:
        tracker.note(_note(record, student, None, run))
    if SELECTED_ON_TAG not in record.tags:  # chosen by test images, it is compared with nobody
        said.append(consider(client, Candidate(record.task, tracker.run_id, trained.get("val_accuracy"), data_key(record))))
    tracker.tags({DATA_TAG: data_key(record), TRAINING_TAG: "complete"})
    return said


@one_at_a_time
def publish_evaluation(student: Path, evaluation: Path) -> list[str]:
    """Add an evaluation's numbers and files to the student's run, once for each evaluation; says what came of it.

    One of another student, which was trained before this one, is not this run's.
    """
    client, record = connect(), RunRecord.read(student)
    if not is_chosen(read_json(evaluation / RESULTS)["weights_sha256"], student):
        return [f"{record.task}: {evaluation} is of another student than {student}; dvc repro evaluates this one"]
    run = _run_of(client, record, restore=False)
    if run is None:
        return [_absent(record, student)]
    files = sorted(evaluation.iterdir())
    mark = fingerprint(files={file.name: sha256_of_file(file) for file in files})
    tracker = Tracker(client, run.info.run_id)
    if run.data.tags.get(EVALUATION_TAG) == mark:
        if math.isnan(run.data.metrics.get(RIVAL_METRIC, math.nan)):  # then there was none, or it was not evaluated yet
            tracker.metrics(_against_rival(tracker, record.task, evaluation))
        return []
    for path in files:
        tracker.file(path, "evaluation")
    client.log_inputs(tracker.run_id, datasets=[_dataset(record, "test", "testing")])
    tracker.note(_note(record, student, evaluation, run))
    found = _numbers(record.task, evaluation) | _against_rival(tracker, record.task, evaluation)
    tracker.metrics(_outdated(client, run, found) | found)
    tracker.tags({EVALUATION_TAG: mark})
    return []


def publish_result(student: Path, evaluation: Path, restore: bool = False) -> list[str]:
    """Add an evaluation to the run of the student in folder ``student``, or, if it was of another one, give it a run of its own.

    One of its own that was deleted is only mentioned, or with ``restore`` brought back.
    """
    given = read_json(evaluation / RESULTS)["checkpoint"]
    return publish_evaluation(student, evaluation) if given is None else publish_checkpoint(evaluation, restore)


@one_at_a_time
def publish_checkpoint(evaluation: Path, restore: bool = False) -> list[str]:
    """Give the evaluation of a student that no run here trained a run of its own, once for each evaluation; says so.

    A run that was deleted is only mentioned, or with ``restore`` brought back.
    """
    client, found = connect(), read_json(evaluation / RESULTS)
    task, given = found["task"], found["checkpoint"]
    files, experiment_id = sorted(evaluation.iterdir()), experiment(client, task)
    mark = fingerprint(files={file.name: sha256_of_file(file) for file in files})
    if known := client.search_runs([experiment_id], f"tags.`{EVALUATION_TAG}` = '{mark}'", ViewType.ALL, 1):
        return _brought_back(client, task, known[0], restore)
    name = f"{given['architecture']} from {given['file']}"
    begun = client.search_runs([experiment_id], f"tags.`{BEGUN_TAG}` = '{mark}'", max_results=1)  # it was broken off, and goes on
    about = {f"checkpoint.{name}": value for name, value in given.items()} | {"task": task, "mlflow.source.type": "LOCAL", BEGUN_TAG: mark}
    tracker = Tracker(client, (begun[0] if begun else client.create_run(experiment_id, run_name=name, tags=about)).info.run_id)
    for path in files:
        tracker.file(path, "evaluation")
    side = ["--resolution", given["resolution"]] if "resolution" in given else []
    command = shlex.join(["python", "stages/evaluate.py", "--task", task, "--checkpoint", given["place"], *side])
    tracker.note(run_note(task, name, {}, found, _confusion(evaluation), command, dirty=False))
    tracker.metrics(_numbers(task, evaluation) | _against_rival(tracker, task, evaluation))
    tracker.tags({EVALUATION_TAG: mark})
    client.set_terminated(tracker.run_id, "FINISHED")
    return [f"{task}: the evaluation of {given['file']} is run {tracker.run_id} in MLflow"]


def _brought_back(client: MlflowClient, task: str, run: Run, restore: bool) -> list[str]:
    """What is said of an evaluation's run that may have been deleted."""
    if run.info.lifecycle_stage == "active":
        return []
    if not restore:
        return [f"{task}: run {run.info.run_id} was deleted; make sync restores it"]
    client.restore_run(run.info.run_id)
    return [f"{task}: run {run.info.run_id} was deleted, and is restored"]


def _numbers(task: str, evaluation: Path) -> dict[str, float]:
    """The evaluation's metrics under the names that MLflow shows."""
    found = read_json(evaluation / RESULTS)
    numbers: dict[str, float] = read_json(evaluation / "metrics.json")[task]
    numbers |= {f"test_accuracy/{name}": value for name, value in found["per_class_accuracy"].items()}
    numbers |= {name: found[name] for name in MORE_METRICS if found[name] is not None}
    numbers |= dict(zip(("test_accuracy_low", "test_accuracy_high"), found["interval_95"], strict=True))
    return numbers | {f"{OF_TEACHERS}{name}": value for name, value in found["teacher_accuracy"].items()}


def _absent(record: RunRecord, student: Path) -> str:
    remedy = f"python stages/sync.py {student}" if "one_off" in record.tags else "make sync"
    return f"{record.task}: this MLflow store has no run {record.run_id}, or it was deleted; {remedy} restores it"


def _run_of(client: MlflowClient, record: RunRecord, restore: bool) -> Run | None:
    """The student's run, where it is there and not deleted, or is to be restored."""
    own = experiment(client, record.task)
    run = find_run(client, record.run_id, own)
    if not restore:
        return run if run and run.info.lifecycle_stage == "active" else None
    if run is None:
        tags = record.tags | {RESTORED_TAG: record.run_id, "amalgam.restored_on": datetime.now(UTC).isoformat(timespec="seconds")}
        run = client.create_run(own, record.began[0], tags, record.name)
    elif run.info.lifecycle_stage != "active":
        client.restore_run(run.info.run_id)
    return run


def _send_epochs(tracker: Tracker, run: Run, record: RunRecord, history: Path) -> None:
    """Log the epochs that the run lacks, with the time at which they ended."""
    known = {metric.step for metric in tracker.client.get_metric_history(run.info.run_id, "epoch_seconds")}
    with history.open(encoding="utf-8", newline="") as file:
        for row, when in zip(csv.DictReader(file), record.epochs, strict=True):
            epoch = int(row.pop("epoch"))
            if epoch not in known:
                values = {name: float(value) for name, value in row.items() if value}
                speed = {name: value for name, value in when.items() if name != "ended"}
                tracker.metrics(values | speed, epoch, int(when["ended"]))


def _dataset(record: RunRecord, split: str, context: str) -> DatasetInput:
    """The images as MLflow shows them: by the source's name and the hash that data.dvc pins."""
    data = record.data
    digest = (data.pinned or data.content)[:36]  # MLflow's limit, and the length of DVC's hash of a folder
    source = {"path": "data.dvc", "md5": data.pinned, "git.commit": record.tags.get("git.commit")}
    profile = {"classes": len(data.classes)} | ({"images": data.images, "sha256": data.content} if split == "trainval" else {})
    entry = Dataset(f"{data.source} {record.task} {split}", digest, "dvc", json.dumps(source), None, json.dumps(profile))
    return DatasetInput(entry, [InputTag("mlflow.data.context", context)])


def _note(record: RunRecord, student: Path, evaluation: Path | None, run: Run) -> str:
    architecture, trained = read_json(student / STUDENT_MANIFEST)["architecture"], read_json(student / "metrics.json")[record.task]
    found = read_json(evaluation / RESULTS) if evaluation else None
    confusion = _confusion(evaluation) if evaluation else None
    selected_on = record.tags.get(SELECTED_ON_TAG)
    note = run_note(record.task, architecture, trained, found, confusion, record.commands, record.dirty, selected_on)
    restored = run.data.tags.get("amalgam.restored_on")
    return note + (f"\nWritten anew on {restored} from the student's files: run {record.run_id} was not here.\n" if restored else "")


def _outdated(client: MlflowClient, run: Run, found: dict[str, float]) -> dict[str, float]:
    """What an earlier evaluation told the run, and the present one does not know: no number from now on."""
    if RIVAL_METRIC not in found and RIVAL_TAG in run.data.tags:
        client.delete_tag(run.info.run_id, RIVAL_TAG)
    optional = [name for name in run.data.metrics if name in (RIVAL_METRIC, FITTED_METRIC, *MORE_METRICS) or name.startswith(OF_TEACHERS)]
    return dict.fromkeys(set(optional) - {*distinct(found)}, math.nan)


def _confusion(evaluation: Path) -> list[list[str]]:
    with (evaluation / "confusion_matrix.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def _against_rival(tracker: Tracker, task: str, evaluation: Path) -> dict[str, float]:
    """McNemar's test against the champion on the same test images; nothing where there is none, or none to compare."""
    from amalgam.metrics import mcnemar  # for evaluations alone: a training need not wait for SciPy

    other = rival(tracker.client, task, tracker.run_id)
    if other is None:
        return {}
    ours = _judged_on(evaluation)
    with tempfile.TemporaryDirectory() as folder:
        try:
            theirs = Path(tracker.client.download_artifacts(other.run_id, "evaluation", folder))
            if _judged_on(theirs) != ours:
                return {}
            right = _right(theirs)
        except (MlflowException, OSError):  # it was never evaluated, or its files are gone
            return {}
    tracker.tags({RIVAL_TAG: f"champion version {other.version}, run {other.run_id}"})
    return {RIVAL_METRIC: mcnemar(_right(evaluation), right)}


def _judged_on(evaluation: Path) -> tuple[Any, ...]:
    """The test images: their pixels, labels and classes."""
    found = read_json(evaluation / RESULTS)
    return found["test_content"], *found["per_class_accuracy"]


def _right(evaluation: Path) -> npt.NDArray[np.bool_]:
    """Whether the prediction was right, image by image."""
    with (evaluation / PREDICTIONS).open(encoding="utf-8", newline="") as file:
        return np.array([row["actual"] == row["predicted"] for row in csv.DictReader(file)])
