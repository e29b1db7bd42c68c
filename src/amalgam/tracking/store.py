"""The user's MLflow store, and the experiments in it.

Without ``MLFLOW_TRACKING_URI`` the store is ``mlflow.db`` with artifacts in ``mlruns/``, both in the root of the user's
repository, where ``mlflow ui`` looks, also for stages that run in a temporary copy of it.
"""

import logging
import os
import re
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
# A server that does not answer is given up after seconds, not minutes.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
if not sys.stderr.isatty():  # its bar is for a terminal, not for a log
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
from alembic.util import CommandError
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from amalgam.errors import UserError, without_passwords
from amalgam.places import URI_VARIABLE, repository_root
from amalgam.store import STORE

ARTIFACTS = "mlruns"
SQLITE = "sqlite:///"
SERVER = re.compile(r"(?!sqlite|file)\w[\w+]*:")  # addresses of servers, a database's too
REMOTE = re.compile(r"(https?|databricks|uc)\b")  # those of MLflow's own
ABSOLUTE = (  # where MLflow's database holds a folder of this store
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)


def connect() -> MlflowClient:
    """A client of the user's store; the first one creates the local database, while others wait.

    Raises UserError if the store does not answer: of a server within seconds, of a database when MLflow gives it up, after two minutes.
    """
    for noisy in ("alembic", "mlflow.store"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    root = repository_root()
    own = root / "mlflow.db"
    uri = tracking_uri() or f"{SQLITE}{own}"
    place = Path(uri.removeprefix(SQLITE).partition("?")[0])
    if not uri.startswith(SQLITE) or not place.parent.is_dir():
        return _reached(uri)  # which says so, where there is no such folder
    # Two processes, of two repositories too, that create one database at once would leave it half made.
    with store_lock() if place == own else FileLock(f"{place}.lock"):
        client = _reached(uri)
        if place == own:
            relocate(own, root / ARTIFACTS)
    return client


def tracking_uri() -> str | None:
    """The user's own store, if one is named; a relative path counts from the repository, wherever this process runs."""
    uri = os.environ.get(URI_VARIABLE)
    if not uri or REMOTE.match(uri) or SERVER.match(uri):
        return uri or None
    kind, separator, path = uri.rpartition(SQLITE)
    if separator:
        return f"{kind}{SQLITE}{repository_root() / path}"
    return (repository_root() / path).as_uri() if "://" not in uri and not uri.startswith("file:") else uri


def _client(uri: str) -> MlflowClient:
    """Its models are registered in the same store, whatever this process used before."""
    return MlflowClient(tracking_uri=uri, registry_uri=os.environ.get("MLFLOW_REGISTRY_URI") or uri)


def _reached(uri: str) -> MlflowClient:
    """A client of this store, which has answered once."""
    with answering(uri):
        client = _client(uri)
        client.search_experiments(max_results=1)
    return client


@contextmanager
def fluent(client: MlflowClient) -> Iterator[None]:
    """Let MLflow's functions that know no client, some of a client's own among them, work on its store, and forget it.

    Else they take the current folder's, which is an experiment's temporary copy of the repository. They tell the whole process by its
    environment.
    """
    before = os.environ.get(URI_VARIABLE)
    mlflow.set_tracking_uri(client.tracking_uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        if before is not None:
            os.environ[URI_VARIABLE] = before


@contextmanager
def answering(uri: str) -> Iterator[None]:
    """Raise UserError where the block finds that the store refuses what it is asked, or is away, or no store at all."""
    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError, ImportError) as error:  # the last: of a database whose driver is not installed
        place = without_passwords(uri.removeprefix(SQLITE))
        raise UserError(
            f"the MLflow store {place} does not answer ({without_passwords(error)}); correct {URI_VARIABLE}, or start or mend the store"
        ) from error


def store_lock(purpose: str = "mlflow") -> FileLock:
    """Held by one process of this repository at a time, for each purpose."""
    folder = repository_root() / STORE
    folder.mkdir(exist_ok=True)
    return FileLock(folder / f"{purpose}.lock")


def experiment(client: MlflowClient, name: str) -> str:
    """The experiment's id; made where missing, its artifacts under the user's repository whatever the current folder."""
    with store_lock():
        found = client.get_experiment_by_name(name)
        if found is None:
            its_own = REMOTE.match(os.environ.get(URI_VARIABLE, ""))  # a server knows where it keeps artifacts
            location = None if its_own else (repository_root() / ARTIFACTS / name).as_uri()
            return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage != "active":
        raise UserError(f"the MLflow experiment '{name}' was deleted; restore it (mlflow experiments restore -x {found.experiment_id})")
    return str(found.experiment_id)


def relocate(database: Path, artifacts: Path) -> None:
    """Make the paths in a moved or copied store's database those of where it stands now.

    MLflow writes absolute paths alone. What lies elsewhere, or is not there under the new path, is left as it is.
    """
    with closing(sqlite3.connect(database)) as connection, connection:
        locations = connection.execute("SELECT name, artifact_location FROM experiments").fetchall()
        for name, location in locations:
            ending = f"/{ARTIFACTS}/{name}"
            moved = location.endswith(ending) and location != (artifacts / name).as_uri()
            if not moved or not (artifacts / name).is_dir():
                continue
            before, now = location.removesuffix(ending), artifacts.parent.as_uri()
            for table, column in ABSOLUTE:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",  # noqa: S608 (our own names)
                    (now, len(before) + 1, len(before + ending), before + ending),
                )
