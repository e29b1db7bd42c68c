"""A training's run in MLflow, while it goes on."""

import hashlib
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from mlflow.utils.time import get_current_time_millis

from amalgam.errors import without_passwords
from amalgam.interruption import put_off
from amalgam.tracking.store import answering, connect, experiment

SECONDS_BETWEEN_SAMPLES = 10  # of the machine's load
LONGEST_NAME = 200  # characters of a metric's; MLflow takes 250, its own prefixes included
NOTE_TAG = "mlflow.note.content"  # what MLflow shows as the run's description
RESTORED_TAG = "amalgam.restored_from"  # the run id that the student's files name
MARK_TAG = "amalgam.training_mark"  # by which a training that was broken off finds its run again


class Tracker:
    """Writes to one run."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client = client
        self.run_id = run_id

    def metrics(self, values: dict[str, float], step: int = 0, at: int | None = None) -> None:
        """Log values by name; ``at``, milliseconds since 1970, is when they were reached (default: now).

        A character that MLflow does not allow in a name (as + in a teacher's) becomes an underscore; names that would then be the same,
        among ``values``, are numbered.
        """
        moment = get_current_time_millis() if at is None else at
        named = zip(distinct(values), values.values(), strict=True)
        self.client.log_batch(self.run_id, metrics=[Metric(name, value, moment, step) for name, value in named])

    def params(self, values: dict[str, Any]) -> None:
        self.client.log_batch(self.run_id, params=[Param(key, str(value)) for key, value in values.items()])

    def file(self, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.run_id, str(path), folder)

    def text(self, text: str, path: str) -> None:
        """As a file of the run."""
        self.client.log_text(self.run_id, text, path)

    def note(self, markdown: str) -> None:
        self.tags({NOTE_TAG: markdown})

    def tags(self, values: dict[str, str]) -> None:
        self.client.log_batch(self.run_id, tags=[RunTag(name, value) for name, value in values.items()])


class LiveTracker(Tracker):
    """Shows a training while it goes on. A store that goes away costs the training nothing: it is told once, and no more is sent."""

    lost = False

    def metrics(self, values: dict[str, float], step: int = 0, at: int | None = None) -> None:
        if not self.lost:
            try:
                super().metrics(values, step, at)
            except MlflowException as error:
                self.lost = True
                why = without_passwords(error)
                print(f"MLflow does not take epoch {step} ({why}); training goes on; what is missing is sent at its end", file=sys.stderr)

    def end(self, status: str) -> None:
        """Also where the store was away: it may be back."""
        try:
            self.client.set_terminated(self.run_id, status)
        except MlflowException as error:
            print(f"MLflow does not take the end of run {self.run_id} ({without_passwords(error)})", file=sys.stderr)


def allowed(name: str) -> str:
    """The name with MLflow's characters alone, and no longer than it takes them."""
    plain = re.sub(r"[^-. :/\w]", "_", name)
    return plain if len(plain) <= LONGEST_NAME else f"{plain[: LONGEST_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def distinct(names: Iterable[str]) -> list[str]:
    """Each name as MLflow allows it, the second of the same with a 2 behind it, and so on."""
    found: list[str] = []
    seen: Counter[str] = Counter()
    for name in map(allowed, names):
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name} {seen[name]}")
    return found


@contextmanager
def training_run(task: str, name: str, params: dict[str, Any], tags: dict[str, str], mark: str) -> Iterator[LiveTracker]:
    """The training's run in the task's experiment: the one that an earlier session gave this mark, else a new one.

    It is marked failed if the block raises, killed if the block is interrupted.
    """
    client, tags = connect(), tags | {MARK_TAG: mark}
    with answering(client.tracking_uri):
        experiment_id = experiment(client, task)
        earlier = marked_run(client, experiment_id, mark)
        tracker = LiveTracker(client, earlier or client.create_run(experiment_id, run_name=name, tags=tags).info.run_id)
        if earlier:
            client.update_run(earlier, "RUNNING", name)
            tracker.tags(tags)
    try:
        tracker.params(params)
        with _system_metrics(tracker.run_id, client.tracking_uri, goes_on=earlier is not None):
            yield tracker
    except BaseException as error:
        with put_off():
            tracker.end("FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    tracker.end("FINISHED")


def marked_run(client: MlflowClient, experiment_id: str, mark: str) -> str | None:
    """The id of the experiment's run with this mark, unless it was deleted."""
    found = client.search_runs([experiment_id], f"tags.`{MARK_TAG}` = '{mark}'", max_results=1)
    return found[0].info.run_id if found else None


def find_run(client: MlflowClient, run_id: str, experiment_id: str) -> Run | None:
    """The run, or the one that was restored in its place."""
    try:
        run: Run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        found = client.search_runs([experiment_id], f"tags.`{RESTORED_TAG}` = '{run_id}'", ViewType.ALL, 1)
        return found[0] if found else None
    return run


def end_marked(client: MlflowClient, tasks: Iterable[str], marks: set[str]) -> int:
    """Mark the runs with these marks as killed that still count as running; how many there were."""
    experiment_ids = [found.experiment_id for found in map(client.get_experiment_by_name, tasks) if found]
    running = client.search_runs(experiment_ids, "attributes.status = 'RUNNING'") if experiment_ids else []
    stale = [run.info.run_id for run in running if run.data.tags.get(MARK_TAG) in marks]
    for run_id in stale:
        client.set_terminated(run_id, "KILLED")
    return len(stale)


@contextmanager
def _system_metrics(run_id: str, uri: str, goes_on: bool) -> Iterator[None]:
    """Log the machine's load beside the training's metrics."""
    logging.getLogger("mlflow.system_metrics").setLevel(logging.ERROR)
    monitor = SystemMetricsMonitor(run_id, SECONDS_BETWEEN_SAMPLES, resume_logging=goes_on, tracking_uri=uri)
    monitor.start()
    try:
        yield
    finally:
        monitor.finish()
