"""MLflow: the only module that knows it.

Without ``MLFLOW_TRACKING_URI`` the store is ``mlflow.db`` with artifacts in ``mlruns/``, both in the root of the user's
repository, where ``mlflow ui`` looks, also for stages that run in a temporary copy of it.
"""

import getpass
import logging
import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

import yaml
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.time import get_current_time_millis

from amalgam.errors import UserError
from amalgam.files import repository_root
from amalgam.params import PARAMS_FILE

EVALUATION_TAG = "amalgam.evaluation"
SECONDS_BETWEEN_SAMPLES = 10  # of the machine's load
NOTE_TAG = "mlflow.note.content"  # what MLflow shows as the run's description
URI_VARIABLE = "MLFLOW_TRACKING_URI"


class Tracker:
    """One training's run in MLflow."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def metrics(self, values: dict[str, float], step: int = 0) -> None:
        """Log values by name; a character that MLflow does not allow in one (as + in a teacher's) becomes an underscore."""
        now = get_current_time_millis()
        self.client.log_batch(self.run_id, metrics=[Metric(_allowed(name), value, now, step) for name, value in values.items()])

    def file(self, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.run_id, str(path), folder)

    def note(self, markdown: str) -> None:
        self.tags({NOTE_TAG: markdown})

    def tags(self, values: dict[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in values.items()])


def _allowed(name: str) -> str:
    return re.sub(r"[^-. :/\w]", "_", name)


def connect() -> MlflowClient:
    """A client of the user's store; the first one creates the local database, while others wait."""
    uri = os.environ.get(URI_VARIABLE)
    if uri:
        return _reached(MlflowClient(tracking_uri=uri), uri)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow.store").setLevel(logging.WARNING)
    root = repository_root()
    with _creation_lock():
        client = MlflowClient(tracking_uri=f"sqlite:///{root / 'mlflow.db'}")
        return _reached(client, str(root / "mlflow.db"))


def _reached(client: MlflowClient, place: str) -> MlflowClient:
    """The client, after its store has answered once."""
    try:
        client.search_experiments(max_results=1)
    except MlflowException as error:
        raise UserError(
            f"the MLflow store {place} does not answer ({error}); correct {URI_VARIABLE}, or start or mend the store"
        ) from error
    return client


def _creation_lock() -> FileLock:
    folder = repository_root() / ".amalgam"
    folder.mkdir(exist_ok=True)
    return FileLock(folder / "mlflow.lock")


def _experiment(client: MlflowClient, name: str) -> str:
    """The experiment's id; made where missing, its artifacts under the user's repository whatever the current folder."""
    with _creation_lock():
        found = client.get_experiment_by_name(name)
        if found is None:
            location = None if os.environ.get(URI_VARIABLE) else (repository_root() / "mlruns" / name).as_uri()
            return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage != "active":
        raise UserError(f"the MLflow experiment '{name}' was deleted; restore it (mlflow experiments restore -x {found.experiment_id})")
    return str(found.experiment_id)


@contextmanager
def training_run(task: str, name: str, params: dict[str, Any], tags: dict[str, str]) -> Iterator[Tracker]:
    """A new run in the task's experiment, marked failed if the block raises."""
    client = connect()
    run = client.create_run(_experiment(client, task), run_name=name, tags=tags | context_tags())
    tracker = Tracker(client, run.info.run_id)
    try:
        client.log_batch(tracker.run_id, params=[Param(key, str(value)) for key, value in params.items()])
        with _system_metrics(tracker.run_id, client.tracking_uri):
            yield tracker
    except BaseException:
        client.set_terminated(tracker.run_id, "FAILED")
        raise
    client.set_terminated(tracker.run_id, "FINISHED")


@contextmanager
def _system_metrics(run_id: str, uri: str) -> Iterator[None]:
    """Log the machine's load beside the training's metrics."""
    logging.getLogger("mlflow.system_metrics").setLevel(logging.WARNING)
    monitor = SystemMetricsMonitor(run_id, SECONDS_BETWEEN_SAMPLES, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()


def context_tags() -> dict[str, str]:
    """Where a run comes from: DVC's stage and experiment, the code, the pinned data and teachers, and the machine."""
    variables = {"dvc.stage": "DVC_STAGE", "dvc.experiment": "DVC_EXP_NAME", "dvc.baseline": "DVC_EXP_BASELINE_REV"}
    tags = {tag: os.environ[variable] for tag, variable in variables.items() if os.environ.get(variable)}
    commit = code_commit()
    if commit:
        tags |= {"git.commit": commit, "git.dirty": str(code_is_dirty()).lower(), "mlflow.source.git.commit": commit}
    tags |= {f"dvc.{name}": pinned for name, pinned in ((name, _pinned(Path(f"{name}.dvc"))) for name in ("data", "models")) if pinned}
    return tags | {"host": platform.node(), "mlflow.user": getpass.getuser(), "mlflow.source.type": "LOCAL"}


def code_commit() -> str | None:
    """The commit whose code runs: an experiment's baseline, whatever HEAD may be by now."""
    return os.environ.get("DVC_EXP_BASELINE_REV") or _git("rev-parse", "HEAD")


def code_is_dirty() -> bool:
    """Whether the code differs from its commit; parameters are recorded apart."""
    return bool(_git("status", "--porcelain", "--", "src", "stages", "dvc.yaml"))


def committed_params() -> str | None:
    """params.yaml as the commit holds it."""
    return _git("show", f"{code_commit()}:{PARAMS_FILE}")


def _git(*arguments: str) -> str | None:
    """What git answers in the current folder, which is the experiment's own copy of the repository; None if it fails."""
    try:
        found = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _pinned(file: Path) -> str | None:
    """The hash of what a .dvc file pins."""
    if not file.is_file():
        return None
    found: str | None = yaml.safe_load(file.read_text(encoding="utf-8"))["outs"][0].get("md5")
    return found


def add_evaluation(run_id: str, fingerprint: str, metrics: dict[str, float], files: list[Path], note: str) -> bool:
    """Add test results to a training's run, once for each fingerprint. Returns False if the store has no such run."""
    client = connect()
    run = _find(client, run_id)
    if run is None:
        return False
    if run.data.tags.get(EVALUATION_TAG) != fingerprint:
        tracker = Tracker(client, run_id)
        tracker.metrics(metrics)
        for path in files:
            tracker.file(path, "evaluation")
        tracker.note(note)
        tracker.tags({EVALUATION_TAG: fingerprint})
    return True


def _find(client: MlflowClient, run_id: str) -> Run | None:
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None
