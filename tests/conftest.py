"""Fixtures: tiny images with a real signal, tiny repositories with the real pipeline in them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from amalgam.dataset import LabelSets, PreparedSplit

ROOT = Path(__file__).parent.parent
# Threads that wait for each other by spinning are slow beside any other work: tests take one.
os.environ["AMALGAM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # what they expect are a CPU's numbers
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it starts in the background ignore Ctrl-C, children included
for variable in ("DVC_ROOT", "DVC_STAGE", "MLFLOW_TRACKING_URI"):
    os.environ.pop(variable, None)

needs_compiler = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")), reason="there is no C++ compiler"
)

TINY_TASKS = {
    "taskA": {"warm": ["red", "yellow"], "cold": ["blue", "green"]},
    "taskB": {"first": ["red", "yellow", "green"], "second": ["green", "blue"]},
}
COLOURS = {"red": (220, 30, 30), "yellow": (220, 220, 30), "green": (30, 200, 30), "blue": (30, 30, 220), "grey": (120, 120, 120)}

# Two teachers that share a class, and their prepared images.
SETS = LabelSets(("blue", "green", "red"), {"cold": ("blue", "green"), "bright": ("green", "red")})


def colour_split(per_class: int, noise: float, held_out_every: int) -> PreparedSplit:
    """``per_class`` noisy squares of each class of ``SETS``, every ``held_out_every``-th held out."""
    labels = np.repeat(np.arange(len(SETS.classes)), per_class)
    colours = np.array([COLOURS[name] for name in SETS.classes])[labels]
    pixels = colours[:, None, None] + np.random.default_rng(0).normal(0, noise, (len(labels), 8, 8, 3))
    validation = np.arange(len(labels)) % held_out_every == 0
    return PreparedSplit(pixels.clip(0, 255).astype(np.uint8), labels, validation, [str(i) for i in range(len(labels))], "content")


@pytest.fixture
def split() -> PreparedSplit:
    """Ten images of each of the two teachers' three classes, every fifth held out."""
    return colour_split(10, 40, 5)


def write_images(folder: Path, count: dict[str, int], side: int = 12, seed: int = 0) -> None:
    """``train/<colour>/*.png`` and ``test/…``: noisy squares that a small network tells apart."""
    random = np.random.default_rng(seed)
    for split, images in count.items():
        for name, colour in COLOURS.items():
            (folder / split / name).mkdir(parents=True)
            for index in range(images):
                pixels = np.clip(np.array(colour) + random.normal(0, 40, (side, side, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{index:03d}.png")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The root of a repository of the test's own, where teachers, logits and checkpoints are kept."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def images_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    write_images(folder, {"train": 10, "test": 4})
    return folder


class Repository:
    """A git and DVC repository with this project's pipeline and tiny settings."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        result = subprocess.run(
            command,
            cwd=self.root,
            env={**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        if check and result.returncode:
            raise AssertionError(f"{command} failed:\n{result.stdout}\n{result.stderr}")
        return result

    def repro(self, *arguments: str) -> set[str]:
        """Run ``dvc repro`` and return the stages that ran."""
        return stages_run(self.run("dvc", "repro", *arguments).stdout)

    def edit(self, file: str, change: Callable[[str], str]) -> None:
        path = self.root / file
        before = path.read_text()
        assert change(before) != before, f"the edit of {file} changes nothing"
        path.unlink()
        path.write_text(change(before))

    def set_params(self, **values: object) -> None:
        """Set dotted keys (``__`` for a dot) as a user would with an editor."""
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        for dotted, value in values.items():
            *parents, last = dotted.split("__")
            block = params
            for parent in parents:
                block = block[parent]
            block[last] = value
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

    def commit(self, message: str = "change") -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)


class WebServer:
    """One of ``mlflow``'s servers, in a folder, at a free port of this machine."""

    def __init__(self, folder: Path, *command: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.command = command
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, log: Path) -> None:
        """Return when it answers. Raises AssertionError with its log if it ends instead."""
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *self.command, "--port", str(self.port), "--workers", "1"],
                cwd=self.folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=environment,
            )
        while self.process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
            except OSError:
                time.sleep(0.3)
            else:
                return
        raise AssertionError(log.read_text())

    def stop(self) -> None:
        if self.process:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def stages_run(output: str) -> set[str]:
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")}


def make_repository(root: Path) -> Repository:
    root.mkdir(parents=True)
    for name in ("src", "stages", ".dvc"):
        shutil.copytree(
            ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "cache", "tmp", "config.local")
        )
    for name in ("dvc.yaml", "params.yaml", ".gitignore", ".dvcignore", "README.md"):
        shutil.copyfile(ROOT / name, root / name)
    for name in ("data.dvc", "models.dvc"):
        described = yaml.safe_load((ROOT / name).read_text())
        bare = {kind: [{"path": described[kind][0]["path"]}] for kind in ("deps", "outs")}
        (root / name).write_text(yaml.safe_dump(bare))
    write_images(root / "images", {"train": 10, "test": 4})
    repository = Repository(root)
    repository.run("git", "init", "-q")
    repository.run("git", "config", "user.name", "Tester")
    repository.run("git", "config", "user.email", "tester@example.org")
    repository.edit(".gitignore", lambda text: text + "/images\n")
    repository.set_params(
        source="folder",
        folder__fetch__path="images",
        folder__tasks=TINY_TASKS,
        folder__augmentation={"crop": 1, "flip": True},
        val_fraction=0.2,
        views=2,
        num_epochs=2,
        batch_size=16,
        student_resolution=32,
        teacher__num_epochs=2,
        teacher__batch_size=16,
    )
    repository.commit("tiny pipeline")
    return repository


@pytest.fixture(scope="session")
def finished_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny repository in which everything ran once; tests work on copies."""
    repository = make_repository(tmp_path_factory.mktemp("template") / "repository")
    repository.repro()
    repository.commit("first run")
    return repository.root


@pytest.fixture
def tracked(finished_template: Path, tmp_path: Path) -> Repository:
    """A copy of the finished repository with its MLflow store, whose paths MLflow knows at another place."""
    shutil.copytree(finished_template, tmp_path / "moved", symlinks=True)
    return Repository(tmp_path / "moved")


@pytest.fixture
def finished(finished_template: Path, tmp_path: Path) -> Repository:
    """A copy of the finished repository, with its caches, at another place."""
    root = tmp_path / "repository"
    shutil.copytree(finished_template, root, symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*"))
    return Repository(root)
