"""The main job as shipped: scikit-learn's digits, from nothing to two evaluated students."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, Repository


@pytest.mark.slow
def test_the_shipped_pipeline_makes_good_students_of_the_digits(tmp_path: Path) -> None:
    root = tmp_path / "clone"
    shutil.copytree(
        ROOT,
        root,
        ignore=lambda folder, names: [
            name
            for name in names
            if name in (".venv", ".amalgam", "cache", "tmp", "mlflow.db")
            or (Path(folder) == ROOT and name in ("outputs", "fetched", "data", "models"))
        ],
    )
    environment = {name: value for name, value in os.environ.items() if name != "AMALGAM_THREADS"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    result = subprocess.run(["dvc", "repro"], cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    print(result.stdout)
    assert (root / "data.dvc").read_text() == (ROOT / "data.dvc").read_text(), "the digits must hash the same everywhere"
    for task in ("taskA", "taskB"):
        found = json.loads((root / f"outputs/evaluation/{task}/results.json").read_text())
        assert found["overall_accuracy"] >= 95
        assert min(found["teacher_accuracy"].values()) >= 95
        assert len(found["per_class_accuracy"]) == 10
    assert Repository(root).repro() == set()
