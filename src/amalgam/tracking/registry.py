"""The registered models ``amalgam-<task>``: each version was once the task's best student, and ``champion`` names the present one.

A student becomes champion by its validation accuracy alone, against a champion of the same images, classes and validation split.
"""

from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import LoggedModelStatus
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from amalgam.errors import UserError
from amalgam.provenance import fingerprint
from amalgam.record import RunRecord
from amalgam.tracking.store import fluent, store_lock

ALIAS = "champion"
SELECTED_ON_TAG = "selected_on"  # of a run: what chose the epoch, where not the validation images
STAYS_TAG = "crowned_over_a_better_one"  # of a version: someone chose it against the rule, which therefore is not for it
PREVIOUS_TAG = "previous_version"  # of a version: the one that it took over from
DATA_TAG = "amalgam.data"  # of a run; equal where validation accuracies can be compared


@dataclass(frozen=True)
class Candidate:
    """A student that might be champion."""

    task: str
    run_id: str
    val_accuracy: float | None  # percent; None without validation images
    data: str  # data_key


def data_key(record: RunRecord) -> str:
    """Of a training's images, classes and split."""
    return fingerprint(content=record.data.content, classes=record.data.classes)[:16]


def model_name(task: str) -> str:
    return f"amalgam-{task}"


def model_of(client: MlflowClient, run_id: str) -> str | None:
    """The id of the run's logged model, one that was not broken off while it was logged."""
    outputs: Any = client.get_run(run_id).outputs
    logged = [str(found.model_id) for found in outputs.model_outputs] if outputs else []
    return next((model_id for model_id in logged if _is_ready(client, model_id)), None)


def _is_ready(client: MlflowClient, model_id: str) -> bool:
    """Whether it is there, whole; the run goes on to list one that was deleted."""
    try:
        return bool(client.get_logged_model(model_id).status == LoggedModelStatus.READY)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return False
        raise


def champion(client: MlflowClient, task: str) -> ModelVersion | None:
    """The version that holds the alias."""
    version = aliases(client, task).get(ALIAS)
    return None if version is None else client.get_model_version(model_name(task), version)


def aliases(client: MlflowClient, task: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = client.get_registered_model(model_name(task)).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    return found


def consider(client: MlflowClient, candidate: Candidate) -> str:
    """Make the candidate champion if it is better than the present one; says what came of it and why."""
    with store_lock():
        by_hand = f"make crown TASK={candidate.task} RUN={candidate.run_id}"
        if candidate.val_accuracy is None:
            return f"{candidate.task}: no validation accuracy, by which champions are made; to crown this one: {by_hand}"
        present = champion(client, candidate.task)
        if present is None:
            return crown(client, candidate, None, "the first")
        if present.run_id == candidate.run_id:
            return f"{candidate.task}: champion, version {present.version}"
        if present.tags.get("data") != candidate.data:
            what = "is of other images or classes" if "data" in present.tags else "was not crowned by this pipeline"
            return (
                f"{candidate.task}: not compared with the champion (version {present.version}), which {what}; to crown this one: {by_hand}"
            )
        if "val_accuracy" not in present.tags or STAYS_TAG in present.tags:
            return f"{candidate.task}: the champion stays, version {present.version}, crowned by hand; to crown this one: {by_hand}"
        before = float(present.tags["val_accuracy"])
        if candidate.val_accuracy <= before:
            return f"{candidate.task}: the champion stays, version {present.version} with {before:g} % on validation"
        return crown(client, candidate, present, f"{candidate.val_accuracy:g} % on validation, before {before:g} %")


def crown(client: MlflowClient, candidate: Candidate, present: ModelVersion | None, why: str) -> str:
    """Register the candidate's model and move the alias to it. Raises UserError if its run has no model."""
    model_id = model_of(client, candidate.run_id)
    if model_id is None:
        raise UserError(f"run {candidate.run_id} has no model; make sync logs that of the present students")
    name = model_name(candidate.task)
    try:
        client.create_registered_model(name, description=f"Students of {candidate.task}; {ALIAS} is the best by validation accuracy.")
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    tags = {"why": why, "data": candidate.data}
    if candidate.val_accuracy is not None:
        tags |= {"val_accuracy": f"{candidate.val_accuracy:g}"}
    if present is not None:
        tags |= {PREVIOUS_TAG: str(present.version), "previous_run": present.run_id}
        if is_better(present, candidate):
            tags |= {STAYS_TAG: "true"}
    with fluent(client):  # it looks for the model's place without the client
        version = client.create_model_version(
            name, source=f"models:/{model_id}", run_id=candidate.run_id, model_id=model_id, description=why, tags=tags
        )
    client.set_registered_model_alias(name, ALIAS, version.version)
    return f"{candidate.task}: new champion, version {version.version}: {why}"


def is_better(present: ModelVersion, candidate: Candidate) -> bool:
    """Whether it is known to be better, on the same images, than the candidate."""
    known = candidate.val_accuracy is not None and "val_accuracy" in present.tags and present.tags.get("data") == candidate.data
    return known and float(present.tags["val_accuracy"]) > (candidate.val_accuracy or 0)


def crown_by_hand(client: MlflowClient, task: str, run_id: str) -> str:
    """Make the student of a run of this task champion. Raises UserError if there is no such run, or it is unfinished."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        raise UserError(f"there is no run {run_id} ({error.error_code}); MLflow's page of a run shows its id") from error
    data, accuracy = run.data.tags.get(DATA_TAG), run.data.metrics.get("best_val_accuracy")
    if run.data.tags.get("task") != task or data is None:
        raise UserError(f"run {run_id} is no finished training of {task}; MLflow's page of a run shows its id and its task")
    if SELECTED_ON_TAG in run.data.tags:
        raise UserError(
            f"run {run_id} was selected on the {run.data.tags[SELECTED_ON_TAG]}, so that its accuracy there is optimistic; crown a run "
            "that was selected on validation images"
        )
    with store_lock():
        present = champion(client, task)
        if present is not None and present.run_id == run_id:
            return f"{task}: champion already, version {present.version}"
        return crown(client, Candidate(task, run_id, accuracy, data), present, "by hand")


def rival(client: MlflowClient, task: str, run_id: str) -> ModelVersion | None:
    """Whom a run is to be compared with, if anyone: the champion, or, if that is its own student, the one that it took over from."""
    present = champion(client, task)
    if present is None or present.run_id != run_id:
        return present
    before = present.tags.get(PREVIOUS_TAG)
    try:
        return client.get_model_version(model_name(task), before) if before else None
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":  # it was deleted since
            return None
        raise
