"""What a stage depends on is what DVC is told."""

import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from amalgam.errors import UserError
from amalgam.params import Params
from amalgam.provenance import NEUTRAL, PACKAGE, code_hash, fingerprint, import_closure, imported_modules, module_file, thread_count
from amalgam.student_settings import StudentSettings
from conftest import ROOT


def pipeline_stages() -> dict[str, Any]:
    """dvc.yaml's stages, each with its own task's name put in."""
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    return {name: yaml.safe_load(yaml.safe_dump(stage).replace("${task}", name.rpartition("-")[2])) for name, stage in stages.items()}


STAGES = pipeline_stages()
AUGMENTATION = "${source}.augmentation"
TARGET_KEYS = {"views", "view_zoom", "view_colour", "stored_teachers"}


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_the_code_it_imports(name: str) -> None:
    stage = STAGES[name]
    script = re.search(r"stages/\w+\.py", stage["cmd"]).group()  # type: ignore[union-attr]
    files = [module_file(module) for module in import_closure(imported_modules(ROOT / script))]
    expected = {script} | {str(file.relative_to(PACKAGE.parent.parent)) for file in files if file.name != "__init__.py"}
    assert {dep for dep in stage["deps"] if dep.endswith(".py")} == expected


def test_package_files_without_code_are_the_only_ones_left_out() -> None:
    for file in PACKAGE.rglob("__init__.py"):
        assert re.fullmatch(r'""".*"""\n', file.read_text(), re.DOTALL), f"{file} has code, so stages must depend on it"


def test_neutral_modules_exist() -> None:
    for name in NEUTRAL:
        assert module_file(name).is_file()


def test_evaluation_alone_sees_test_images() -> None:
    assert {name for name, stage in STAGES.items() if any(dep.endswith("/test") for dep in stage["deps"])} == {"evaluate"}


def test_each_tasks_stages_are_given_its_name() -> None:
    for name, stage in STAGES.items():
        kind, _, task = name.rpartition("-")
        if kind:
            assert stage["vars"] == [{"task": task}]


def listed(stage: str) -> set[str]:
    return set(STAGES[stage].get("params", []))


def test_trainings_depend_on_every_student_setting_and_targets_on_theirs() -> None:
    for task in ("taskA", "taskB"):
        assert listed(f"train-{task}") == set(StudentSettings.model_fields) - TARGET_KEYS | {task}
        assert listed(f"targets-{task}") == {"data_seed", AUGMENTATION} | TARGET_KEYS | {f"{task}.{key}" for key in TARGET_KEYS}
    assert listed("teachers") == {"teacher", AUGMENTATION}


def test_every_parameter_re_runs_something() -> None:
    every = set().union(*(listed(stage) for stage in STAGES))
    for name in Params.model_fields:
        if name in ("digits", "cifar100", "folder", "gdrive"):
            assert {f"{name}.fetch"} | {f"${{source}}.{key}" for key in ("resolution", "augmentation", "tasks")} <= every
        else:
            assert name in every or name in ("tasks", "overrides"), name


def test_the_closure_follows_imports_but_not_into_neutral_modules() -> None:
    closure = import_closure(["teacher_training"])
    assert {"teacher_training", "teachers", "trainer", "models", "views", "dataset"} <= set(closure)
    assert {"dataset", "sources.raw", "serving.pixels"} <= set(import_closure(["preparing"]))
    assert not {"losses", "objectives", "soft_targets", "blocks"} & set(closure)
    assert not NEUTRAL & set(closure)
    assert code_hash("amalgam.teacher_training") != code_hash("amalgam.targets")


def test_how_anything_is_trained_changes_nothing_that_teachers_say() -> None:
    trained = {"trainer", "optimization", "compiling", "whole_batch"}
    assert not (trained | {"teacher_training"}) & set(import_closure(imported_modules(ROOT / "stages/targets.py")))
    assert not trained & set(import_closure(imported_modules(ROOT / "stages/evaluate.py")))


SLOW = {"torch", "torchvision", "timm", "mlflow"}  # a second each to load
LOADED = {"champion": {"mlflow"}, "teachers": {"torch"}, "targets": {"torch"}}
LOADED |= {script: {"torch", "mlflow"} for script in ("train", "evaluate", "sync", "clean")}


@pytest.mark.parametrize("script", sorted(path.stem for path in (ROOT / "stages").glob("*.py")))
def test_a_script_loads_what_it_needs_alone(script: str) -> None:
    """Networks of torchvision and timm are loaded by what builds one."""
    code = f"import sys; sys.path.insert(0, 'stages'); import {script}; print(*sorted({SLOW} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(found.stdout.split()) == LOADED.get(script, set())


def test_float32_is_float32_on_a_gpu_too() -> None:
    """Without TF32; and PyTorch has nothing to say against how this is set. In a process of its own: the settings are the process's."""
    code = (
        "import torch, warnings; warnings.simplefilter('error'); from amalgam import provenance; provenance.configure_execution(); "
        "print(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32, torch.get_float32_matmul_precision())"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "src", capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("False False highest\n", "")


def test_fingerprints_differ_by_value_and_name() -> None:
    assert fingerprint(a=1, b=2) == fingerprint(b=2, a=1)
    assert len({fingerprint(a=1), fingerprint(a=2), fingerprint(b=1)}) == 3


@pytest.mark.parametrize("value", ["0", "two", "-1"])
def test_an_impossible_number_of_threads_is_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMALGAM_THREADS", value)
    with pytest.raises(UserError, match=f"AMALGAM_THREADS is '{value}'"):
        thread_count()


def test_threads_default_to_the_usable_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AMALGAM_THREADS")
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr("amalgam.provenance.available_cores", lambda: 7)
    assert thread_count() == 7
    for processes, threads in ((2, 3), (7, 1), (9, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))
        assert thread_count() == threads
