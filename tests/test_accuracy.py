"""The benchmark of accuracies on a tiny archive, by its own commands: what it runs, what it keeps, what it refuses."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import ROOT, Repository, make_repository, write_images

COMMON = {"student_resolution": 32, "batch_size": 16, "num_epochs": 1, "views": 1, "optimizer": "sgd"}
ROWS = {"alone": {"alpha": 0}, "stacked": {"target": "stacked", "stored_teachers": "all", "label_fraction": 0.5}}
PROTOCOL = {
    "seeds": [0, 1],
    "teacher": {"num_epochs": 1},
    "common": COMMON,
    "grid": [{"lr": 0.003}],
    "rows": ROWS,
    "control": "alone",
    "controls": {},
    "reference": "unrouted teachers",
}
RESULTS = "benchmarks/accuracy.results.json"


def accuracy(repository: Repository, command: str, *more: str, check: bool = True, **changes: Any) -> str:
    """What the command prints, or complains of."""
    (repository.root / "protocol.yaml").write_text(yaml.safe_dump(PROTOCOL | changes))
    archive = [] if command == "table" else ["images"]
    words = ("python", "benchmarks/accuracy.py", command, *archive, "--task", "A", "--protocol", "protocol.yaml", *more)
    done = repository.run(*words, check=check, PYTHONPATH="src:.")
    assert (done.returncode == 0) == check
    assert "Traceback" not in done.stderr
    return done.stdout if check else done.stderr


def entries(repository: Repository) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((repository.root / RESULTS).read_text())
    return found


def of_row(repository: Repository, row: str) -> list[dict[str, Any]]:
    return [found for found in entries(repository).values() if found.get("row") == row]


@pytest.fixture(scope="module")
def run_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    repository = make_repository(tmp_path_factory.mktemp("benchmark") / "repository")
    shutil.copytree(ROOT / "benchmarks", repository.root / "benchmarks", ignore=shutil.ignore_patterns("*.results.json", "__pycache__"))
    accuracy(repository, "run", "--jobs", "2")
    return repository.root


@pytest.fixture
def bench(run_once: Path, tmp_path: Path) -> Repository:
    """A copy of a repository in which the protocol was run."""
    shutil.copytree(run_once, tmp_path / "repository", symlinks=True)
    return Repository(tmp_path / "repository")


def test_every_row_and_seed_is_run_and_the_table_tells(bench: Repository) -> None:
    assert [len(of_row(bench, row)) for row in ROWS] == [2, 2]
    told = accuracy(bench, "table")
    names = ("alone", "stacked", "*teachers, oracle-routed*", "*teachers, unrouted*", "*teachers, combined as for stacked*")
    for name in names:
        assert told.count(f"| {name} |") == 1
    assert accuracy(bench, "table", teacher={"num_epochs": 2}, rows={"alone": {"alpha": 0}}).count("|\n") == 2, "nothing of other teachers"


def test_what_was_run_is_not_run_again(bench: Repository) -> None:
    before = entries(bench)
    shutil.rmtree(bench.root / ".amalgam/accuracy")
    told = accuracy(bench, "run")
    assert "validation" not in told.partition("| row |")[0]
    assert entries(bench) == before


def test_teachers_without_a_student_are_measured_later_too(bench: Repository) -> None:
    whole = entries(bench)
    (bench.root / RESULTS).write_text(
        json.dumps({key: {k: v for k, v in found.items() if k != "teachers right"} for key, found in whole.items()})
    )
    assert "combined" not in accuracy(bench, "table")
    assert "| *teachers, combined as for stacked* |" in accuracy(bench, "combine")
    assert entries(bench) == whole


def test_the_same_images_are_known_again_when_they_were_copied(bench: Repository) -> None:
    """So are the teachers that learnt from them."""
    for path in (bench.root / "images", *(bench.root / "images").rglob("*")):
        os.utime(path, (1, 1))
    accuracy(bench, "run", "--rows", "more", "--seeds", "0", rows=ROWS | {"more": {"target": "mean"}})
    assert len(of_row(bench, "more")) == 1
    assert len([place for place in (bench.root / ".amalgam/accuracy").iterdir() if place.is_dir()]) == 1


def test_results_of_other_images_are_not_taken_for_these(bench: Repository) -> None:
    shutil.rmtree(bench.root / "images")
    write_images(bench.root / "images", {"train": 10, "test": 4}, seed=1)
    assert "alone of taskA, seed 0, was tested on other images than" in accuracy(bench, "run", check=False)


def test_teachers_of_other_settings_are_not_taken_for_these(bench: Repository) -> None:
    said = accuracy(bench, "run", check=False, teacher={"num_epochs": 2})
    assert "seed 0 of taskA was begun with teachers of {'num_epochs': 1}, the protocol says {'num_epochs': 2}" in said


def test_an_experiments_settings_are_not_taken_for_the_shipped_ones(bench: Repository) -> None:
    bench.set_params(objective="dist")
    assert "params.yaml holds settings that are not committed; set them back" in accuracy(bench, "run", check=False)


def test_a_rate_at_which_training_diverges_loses_and_ends_nothing_else(bench: Repository) -> None:
    grid = [{"lr": 10.0}, {"lr": 0.003}]
    steep: Any = {"common": COMMON | {"weight_decay": 10, "batch_size": 4, "num_epochs": 4}, "seeds": [0]}
    accuracy(bench, "tune", "--jobs", "2", "--rows", "alone", grid=grid, **steep)
    assert yaml.safe_load((bench.root / "protocol.chosen.yaml").read_text())["taskA"] == {"alone": {"lr": 0.003}}
    (diverged,) = (found for found in entries(bench).values() if found.get("settings", {}).get("lr") == 10)
    assert "no longer finite" in diverged["diverged"]
    said = accuracy(bench, "run", "--jobs", "2", "--rows", "alone", check=False, grid=grid[:1], **steep)
    assert re.search(r"error: alone, seed 0: the (loss is|weights are) no longer finite .*; nothing was recorded of it", said)
