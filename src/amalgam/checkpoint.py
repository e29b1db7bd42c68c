"""Trainings that were broken off: each one's checkpoint in the repository's store, keyed by all that the training depends on.

::

    .amalgam/checkpoints/<key>/epoch.pt       all that the training needs to go on after its last whole epoch
    .amalgam/checkpoints/<key>/sessions.json  the mark of its run in MLflow, when its sessions began, DVC's name of its result
    .amalgam/checkpoints/<key>.lock          held by the process that trains
"""

import hashlib
import json
import os
import subprocess
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
import yaml
from torch.serialization import get_crc32_options, set_crc32_options

from amalgam.files import read_json
from amalgam.history import Snapshot
from amalgam.places import DVC_LOCK, repository_root
from amalgam.states import save_torch
from amalgam.store import CHECKPOINTS, STORE, entries, held, locked
from amalgam.whole import remove, whole_file

SESSIONS = "sessions.json"
KEPT_FINISHED = 2  # trainings whose results DVC did not take (yet)


@dataclass(frozen=True)
class Sessions:
    """What a training remembers beside its weights, from one session to the next."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)  # a tag of its run in MLflow
    began: tuple[int, ...] = ()  # milliseconds since 1970, one a session
    result: str | None = None  # DVC's hash of the finished training's folder
    experiment: str | None = None  # DVC's name of the experiment that finished it, if it was one

    @classmethod
    def read(cls, path: Path) -> "Sessions":
        values = read_json(path)
        return cls(**values | {"began": tuple(values["began"])})


class Checkpoint:
    """One training's, for the process that holds its lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        known = folder / SESSIONS
        self.sessions = Sessions.read(known) if known.exists() else Sessions()
        self.write()

    def write(self, **changes: object) -> None:
        """Keep the sessions, with these fields changed."""
        self.sessions = replace(self.sessions, **changes)  # type: ignore[arg-type]
        whole_file(self.folder / SESSIONS, json.dumps(asdict(self.sessions)).encode())

    def keep(self, snapshot: Snapshot) -> None:
        with unchecked():
            save_torch(snapshot, self.folder / "epoch.pt")

    def last(self) -> Snapshot | None:
        """What was kept last, on the CPU."""
        path = self.folder / "epoch.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None

    def remove(self) -> None:
        remove(self.folder)


@contextmanager
def unchecked() -> Iterator[None]:
    """Without the checksums that PyTorch writes and never reads: they take as long as everything else."""
    before = get_crc32_options()
    set_crc32_options(False)
    try:
        yield
    finally:
        set_crc32_options(before)


@contextmanager
def checkpoint(key: str) -> Iterator[Checkpoint]:
    """The training's checkpoint, this process's alone; waits for another one that trains the same.

    It is left in place: remove it, or ``finish`` it, when the training's result is safe.
    """
    folder = repository_root() / STORE / CHECKPOINTS / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        if (folder / SESSIONS).exists() and is_taken(Sessions.read(folder / SESSIONS), hashes_in_lock(DVC_LOCK)):
            remove(folder)  # that training is done, and this is another
        yield Checkpoint(folder)


def finish(own: Checkpoint, result: Path) -> None:
    """Note under which hash DVC will take the folder ``result``. Until it does (its disk may be full), the checkpoint is of use.

    Of other finished trainings, those are removed that DVC has taken, and the oldest.
    """
    own.write(result=dvc_hash(result), experiment=os.environ.get("DVC_EXP_NAME"))
    kept, taken = 1, hashes_in_lock(DVC_LOCK)
    for folder in by_age(path for path in entries(CHECKPOINTS) if path != own.folder):
        with held(folder) as free:
            other = Sessions.read(folder / SESSIONS) if free and (folder / SESSIONS).exists() else Sessions()
            if other.result is None:  # another process trains it, goes on with it later, or has just removed it
                continue
            kept += 1
            if is_taken(other, taken) or kept > KEPT_FINISHED:
                remove(folder)


def is_taken(sessions: Sessions, results: set[str]) -> bool:
    """Whether DVC has the result of a finished training: among the workspace's ``results``, or in an experiment that is there."""
    return sessions.result is not None and (sessions.result in results or (sessions.experiment in experiments()))


def experiments() -> set[str | None]:
    """The names of DVC's experiments: an experiment in a temporary copy leaves nothing in this workspace's dvc.lock."""
    command = ["git", "for-each-ref", "--format=%(refname:lstrip=4)", "refs/exps/*/*/*"]
    try:
        found = subprocess.run(command, cwd=repository_root(), capture_output=True, encoding="utf-8", check=False)
    except FileNotFoundError:
        return set()
    return set(found.stdout.split())


def by_age(folders: Iterable[Path]) -> list[Path]:
    """The youngest first; what another process removes meanwhile is left out."""
    times = {}
    for folder in folders:
        with suppress(FileNotFoundError):
            times[folder] = (folder / SESSIONS).stat().st_mtime
    return sorted(times, key=times.__getitem__, reverse=True)


def dvc_hash(folder: Path) -> str:
    """DVC's name of a folder's content, as it stands in dvc.lock."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listed = [{"md5": _md5(path), "relpath": path.relative_to(folder).as_posix()} for path in files]
    listed.sort(key=lambda entry: entry["relpath"])
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def hashes_in_lock(lock_file: Path) -> set[str]:
    """The hashes of all results that DVC has taken in this workspace.

    Empty where the file cannot be read whole: another stage's ``dvc`` may just be writing it.
    """
    try:
        stages = yaml.safe_load(lock_file.read_text(encoding="utf-8"))["stages"]
        return {out["md5"] for stage in stages.values() for out in stage.get("outs", []) if "md5" in out}
    except (FileNotFoundError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return set()
