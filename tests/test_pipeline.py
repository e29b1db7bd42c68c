"""The pipeline on tiny images, with real DVC and real MLflow: what runs, what does not, and what comes of it."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient

from amalgam.models import save_weights
from amalgam.networks import build_network
from amalgam.params_file import load_params
from amalgam.stage import check_stages
from conftest import ROOT, Repository, stages_run, write_images

ALL = {"fetch", "weights", "preprocess", "teachers", "targets-taskA", "targets-taskB", "train-taskA", "train-taskB", "evaluate"}
TRAINING = {"train-taskA", "train-taskB", "evaluate"}
METRICS = {"test_accuracy", "test_loss", "test_ece", "oracle_routed_teachers", "unrouted_teachers", "unrouted_teachers_joint"}
DETERMINISTIC = ("best.safetensors", "last.safetensors", "student.json", "history.csv", "metrics.json")


def client(repository: Repository) -> MlflowClient:
    return MlflowClient(tracking_uri=f"sqlite:///{repository.root / 'mlflow.db'}")


def runs_of(repository: Repository, task: str = "taskA") -> list:  # type: ignore[type-arg]
    mlflow = client(repository)
    experiment = mlflow.get_experiment_by_name(task)
    return list(mlflow.search_runs([experiment.experiment_id])) if experiment else []


def read(repository: Repository, path: str) -> dict:  # type: ignore[type-arg]
    return json.loads((repository.root / path).read_text())  # type: ignore[no-any-return]


def append_comment(text: str) -> str:
    return text + "# a remark\n"


def test_the_graph_is_the_documented_one(finished: Repository) -> None:
    output = finished.run("dvc", "repro", "--dry", "--force").stdout
    stages = [name or f"{pinned}.dvc" for name, pinned in re.findall(r"Running stage '(.+)'|Importing '.+' -> '(.+)'", output)]
    order = {name: stages.index(name) for name in stages}
    chain = ["fetch", "data.dvc", "preprocess", "teachers", "models.dvc"]
    assert order["weights"] < order["teachers"], "what does not fit is refused before anything is trained"
    assert [name for name in stages if name in chain] == chain
    for task in ("taskA", "taskB"):
        assert order["models.dvc"] < order[f"targets-{task}"] < order[f"train-{task}"] < order["evaluate"]


def test_nothing_runs_twice(finished: Repository) -> None:
    assert finished.repro() == set()


def test_alpha_re_runs_training_and_evaluation_alone(finished: Repository) -> None:
    finished.set_params(alpha=0.9)
    assert finished.repro() == TRAINING


def test_one_tasks_alpha_re_runs_that_tasks_training(finished: Repository) -> None:
    result = finished.run("dvc", "exp", "run", "--set-param", "taskA.alpha=0.25")
    assert stages_run(result.stdout) == {"train-taskA", "evaluate"}
    assert read(finished, "outputs/students/taskA/student.json")["settings"]["alpha"] == 0.25
    assert read(finished, "outputs/students/taskB/student.json")["settings"]["alpha"] == 0.5


def test_readme_and_neutral_code_re_run_nothing(finished: Repository) -> None:
    finished.edit("README.md", append_comment)
    finished.edit("src/amalgam/tracking/run.py", append_comment)
    finished.edit("src/amalgam/params.py", append_comment)
    assert finished.repro() == set()


def test_an_edit_of_the_plots_re_runs_evaluation_alone(finished: Repository) -> None:
    finished.edit("src/amalgam/plots.py", append_comment)
    assert finished.repro() == {"evaluate"}


def test_an_edit_of_the_losses_re_runs_no_teacher(finished: Repository) -> None:
    for module in ("losses", "objectives", "soft_targets", "blocks"):
        finished.edit(f"src/amalgam/{module}.py", append_comment)
    assert finished.repro() == TRAINING


def test_a_class_of_one_task_re_runs_no_training_of_the_other(finished: Repository) -> None:
    tasks = yaml.safe_load((finished.root / "params.yaml").read_text())["folder"]["tasks"]
    tasks["taskB"]["second"] = ["green", "blue", "grey"]
    finished.set_params(folder__tasks=tasks)
    store = finished.root / ".amalgam" / "teachers"
    before = len(list(store.glob("*/manifest.json")))
    assert finished.repro() == ALL - {"fetch", "targets-taskA", "train-taskA"}
    assert len(list(store.glob("*/manifest.json"))) == before + 1, "one teacher's classes changed, and it alone was trained"


def test_more_views_re_run_targets_but_no_teacher(finished: Repository) -> None:
    finished.set_params(taskB__views=3)
    assert finished.repro() == {"targets-taskB", "train-taskB", "evaluate"}


def test_a_third_task_is_the_lines_of_the_example_and_runs_nothing_of_the_others(finished: Repository) -> None:
    patch = ROOT / "examples" / "third_task.patch"
    finished.run("git", "apply", "--include=dvc.yaml", str(patch))
    params = yaml.safe_load((finished.root / "params.yaml").read_text())
    tasks = params["folder"]["tasks"] | {"taskC": {"reddish": ["red", "yellow"], "greenish": ["green", "yellow"]}}
    finished.set_params(taskC=params["overrides"], folder__tasks=tasks)
    # The store holds the others' teachers, DVC their trainings.
    assert finished.repro() == {"preprocess", "weights", "teachers", "targets-taskC", "train-taskC", "evaluate"}
    assert read(finished, "outputs/evaluation/taskC/results.json")["test_images"] == 12
    assert len(runs_of(finished, "taskC")) == 1
    shown = finished.run("dvc", "exp", "run", "--set-param", "taskC.alpha=0.25").stdout
    assert stages_run(shown) == {"train-taskC", "evaluate"}


@pytest.mark.parametrize(("patch", "tasks"), [("third_task", ["taskA", "taskB", "taskC"]), ("one_task", ["taskA"])])
def test_an_example_of_other_tasks_fits_the_shipped_files(patch: str, tasks: list[str], tmp_path: Path) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    subprocess.run(["git", "apply", str(ROOT / "examples" / f"{patch}.patch")], cwd=tmp_path, check=True)
    params = load_params(tmp_path / "params.yaml")
    assert params.task_names == tasks
    check_stages(params, tmp_path / "dvc.yaml")
    subprocess.run([sys.executable, "-m", "dvc", "init", "--no-scm", "--quiet"], cwd=tmp_path, check=True)
    subprocess.run([sys.executable, "-m", "dvc", "stage", "list"], cwd=tmp_path, check=True)


def test_a_single_task_goes_on_from_what_both_had_made(finished: Repository) -> None:
    finished.run("git", "apply", "--include=dvc.yaml", str(ROOT / "examples" / "one_task.patch"))
    params = yaml.safe_load((finished.root / "params.yaml").read_text())
    del params["taskB"], params["folder"]["tasks"]["taskB"], params["evaluate"]["checkpoint"]["taskB"]
    (finished.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    assert "train-taskA" not in finished.repro()
    assert not (finished.root / "outputs/evaluation/taskB").exists()
    assert read(finished, "outputs/evaluation/taskA/results.json")["test_images"] > 0


def test_the_same_inputs_give_the_same_bits_whatever_ran_before(finished: Repository) -> None:
    """Everything again, from an empty store and cache, after another experiment."""
    before = {name: (finished.root / "outputs/students/taskA" / name).read_bytes() for name in DETERMINISTIC}
    tested = read(finished, "outputs/evaluation/taskA/results.json")
    pinned = [(finished.root / name).read_text() for name in ("data.dvc", "models.dvc")]
    finished.run("dvc", "exp", "run", "-S", "taskA.alpha=0.25")
    finished.run("git", "checkout", "-q", "--", ".")
    for name in (".amalgam", "outputs", "fetched", "data", "models", ".dvc/cache"):
        shutil.rmtree(finished.root / name)
    assert finished.repro() == ALL
    assert {name: (finished.root / "outputs/students/taskA" / name).read_bytes() for name in DETERMINISTIC} == before
    assert read(finished, "outputs/evaluation/taskA/results.json") == tested
    assert [(finished.root / name).read_text() for name in ("data.dvc", "models.dvc")] == pinned


def test_a_clone_without_the_committed_results_uses_its_own_run_cache(finished: Repository, tmp_path: Path) -> None:
    """What the commit pins was never in this clone's cache. A stage's dependency on a part of an output would ask for it."""
    finished.run("git", "clone", "-q", str(finished.root), str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone")
    shutil.copytree(finished.root / "images", clone.root / "images")
    change = ("-S", "val_fraction=0.4", "-S", "num_epochs=1")
    clone.run("dvc", "exp", "run", *change)
    clone.run("git", "checkout", "-q", ".")
    again = clone.run("dvc", "exp", "run", *change).stdout
    assert stages_run(again) == set()
    assert "Stage 'evaluate' is cached" in again


@pytest.mark.parametrize("earlier", [False, True])
def test_an_experiment_travels_through_a_bare_repository(finished: Repository, tmp_path: Path, earlier: bool) -> None:
    """Its commit through git, its files through the DVC remote; applied elsewhere, it leaves nothing to run.

    One that was run ``earlier`` than its remote was committed needs this said on both sides.
    """
    remote = ("dvc", "remote", "add", "--default", "here", str(tmp_path / "remote"))
    experiment = ("dvc", "exp", "run", "--temp", "--name", "brave-newt", "-S", "taskA.alpha=0.25")
    local = (*remote[:3], "--local", *remote[3:])
    push = ("dvc", "exp", "push", "origin", "brave-newt")
    finished.run("git", "init", "-q", "--bare", str(tmp_path / "bare.git"))
    finished.run("git", "remote", "add", "origin", str(tmp_path / "bare.git"))
    if earlier:
        finished.run(*experiment)
    finished.run(*remote)
    finished.commit("remote")
    finished.run("git", "push", "-q", "origin", "HEAD:main")
    finished.run(*(push if earlier else experiment))
    assert not list((tmp_path / "remote").rglob("*")), "else README need not say what follows"
    if earlier:
        finished.run(*local)
    finished.run(*push)
    finished.run("git", "clone", "-q", "--branch", "main", str(tmp_path / "bare.git"), str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone")
    if earlier:
        clone.run(*local)
    clone.run("dvc", "exp", "pull", "origin", "brave-newt")
    clone.run("dvc", "exp", "apply", "brave-newt")
    assert clone.repro() == set()
    assert read(clone, "outputs/students/taskA/student.json")["settings"]["alpha"] == 0.25
    finished.run("dvc", "exp", "apply", "brave-newt")
    for repository in (finished, clone):
        repository.run("git", "restore", ".dvc/config")
        assert "here" in repository.run("dvc", "config", "--project", "--list").stdout
    result = "outputs/evaluation/taskA/results.json"
    assert read(clone, result) == read(finished, result)


def test_two_trainings_run_side_by_side_as_the_readme_says(finished: Repository) -> None:
    finished.set_params(alpha=0.75)
    commands = "dvc repro -q --single-item train-taskA & dvc repro -q --single-item train-taskB & wait"
    finished.run("bash", "-c", commands)
    assert finished.repro() == {"evaluate"}
    for task in ("taskA", "taskB"):
        assert read(finished, f"outputs/students/{task}/student.json")["settings"]["alpha"] == 0.75
    finished.set_params(val_fraction=0.5)
    refused = finished.run("dvc", "repro", "--single-item", "train-taskA", "--force", check=False)
    assert "taskA/trainval was made with val_fraction 0.2, params.yaml says 0.5; run dvc repro models.dvc" in refused.stderr
    finished.set_params(val_fraction=0.2, teacher__lr=0.5)
    refused = finished.run("dvc", "repro", "--single-item", "train-taskA", "--force", check=False)
    assert "was trained with lr 0.002, params.yaml says 0.5; run dvc repro models.dvc" in refused.stderr


def test_pull_in_a_fresh_clone_leaves_nothing_to_run(finished: Repository, tmp_path: Path) -> None:
    finished.run("dvc", "remote", "add", "--default", "here", str(tmp_path / "remote"))
    finished.commit("remote")
    finished.run("dvc", "push")
    finished.run("git", "clone", "-q", str(finished.root), str(tmp_path / "clone"))
    clone = Repository(tmp_path / "clone")
    clone.run("dvc", "pull")
    assert clone.repro() == set()
    assert clone.run("git", "status", "--porcelain").stdout == ""
    for name in ("outputs/evaluation/taskA/results.json", "models/taskB/first/weights.safetensors"):
        assert (clone.root / name).read_bytes() == (finished.root / name).read_bytes()


def test_evaluation_prints_a_table_and_writes_what_dvc_shows(finished: Repository) -> None:
    output = finished.run("dvc", "repro", "--force", "--single-item", "evaluate").stdout
    for task in ("taskA", "taskB"):
        found, run = read(finished, f"outputs/evaluation/{task}/results.json"), read(finished, f"outputs/students/{task}/run.json")
        row = next(line for line in output.splitlines() if line.startswith(f"{task}  "))
        assert run["run_id"] in row
        assert str(found["overall_accuracy"]) in row
        assert all(f"{name} {value:g}" in row for name, value in found["teacher_accuracy"].items())
    shown = json.loads(finished.run("dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert shown["outputs/evaluation/taskA/metrics.json"]["data"]["taskA"].keys() == METRICS
    page = finished.run("dvc", "plots", "show").stdout.strip()
    html = Path(page.removeprefix("file://")).read_text()
    for expected in ("learning curve", "predictions.csv", "confusion_matrix.png"):
        assert expected in html


def test_the_users_files_in_the_pipelines_folders_are_not_removed(finished: Repository) -> None:
    """Nor those in data/, though git and DVC are told to care for nothing else there."""
    shutil.rmtree(finished.root / "data")
    photo = finished.root / "data/train/cat/1.png"
    photo.parent.mkdir(parents=True)
    photo.write_bytes(b"the only copy")
    finished.set_params(source="folder", folder__fetch__path="data")
    refused = finished.run("dvc", "repro", check=False)
    assert "folder.fetch.path: " in refused.stderr
    assert "lies in data/, which the pipeline empties" in refused.stderr
    finished.set_params(folder__fetch__path="photos.zip")
    assert "data/train: the pipeline fills data/ and models/ itself" in finished.run("dvc", "repro", check=False).stderr
    assert photo.read_bytes() == b"the only copy"


def test_every_row_of_exp_show_has_its_metrics(finished: Repository) -> None:
    for alpha in ("0.1", "0.9"):
        finished.run("dvc", "exp", "run", "-S", f"alpha={alpha}")
    header, *rows = finished.run("dvc", "exp", "show", "--csv", "--drop", "src|stages|images").stdout.splitlines()
    names = header.split(",")
    for column in ("taskA.val_accuracy", "taskA.test_accuracy", "taskB.test_accuracy", "alpha"):
        assert column in names
    index = names.index("taskA.test_accuracy")
    assert len(rows) == 4, "workspace, main and two experiments"
    assert all(row.split(",")[index] not in ("", "!", "-") for row in rows)
    difference = json.loads(finished.run("dvc", "metrics", "diff", "--all", "--json").stdout)
    assert "outputs/students/taskA/metrics.json" in difference


def test_a_forced_training_gets_its_own_run_with_test_results(finished: Repository) -> None:
    first = read(finished, "outputs/students/taskA/run.json")["run_id"]
    finished.run("dvc", "repro", "--force", "--single-item", "train-taskA")
    second = read(finished, "outputs/students/taskA/run.json")["run_id"]
    assert second != first
    assert finished.repro() == {"evaluate"}
    run = client(finished).get_run(second)
    assert run.data.metrics["test_accuracy"] == read(finished, "outputs/evaluation/taskA/results.json")["overall_accuracy"]
    assert run.info.status == "FINISHED"


def test_a_run_holds_all_that_is_promised(finished: Repository) -> None:
    finished.set_params(seed=7, run="again")
    finished.repro()
    (run,) = runs_of(finished)
    assert run.info.run_name == "MobileNetV3 α0.5 T4 blocks s7 again"
    note = run.data.tags["mlflow.note.content"]
    assert "-S seed=7 -S run=again" in note
    assert f"git checkout {finished.run('git', 'rev-parse', 'HEAD').stdout.strip()}" in note
    assert "**student, test images**" in note
    assert {
        "alpha",
        "temperature",
        "lr",
        "source",
        "student_model",
        "teacher.num_epochs",
        "views",
        "val_fraction",
    } <= run.data.params.keys()
    mlflow = client(finished)
    for name in (
        "train_loss",
        "train_accuracy",
        "val_loss",
        "val_accuracy",
        "lr",
        "images_per_second",
        "train_loss_distillation",
        "teacher_agreement/warm",
    ):
        assert [point.step for point in mlflow.get_metric_history(run.info.run_id, name)] == [1, 2], name
    for name in ("best_val_accuracy", "seconds", "test_accuracy", "test_accuracy/red", "teacher_accuracy/warm"):
        assert name in run.data.metrics
    files = {file.path for folder in ("student", "evaluation") for file in mlflow.list_artifacts(run.info.run_id, folder)}
    assert {"student/best.safetensors", "evaluation/confusion_matrix.png", "evaluation/confusion_matrix.csv"} <= files
    assert run.info.artifact_uri.startswith(f"file://{finished.root}/mlruns/")


def test_a_temporary_copy_reads_from_the_repository_and_logs_to_it(finished: Repository) -> None:
    """A relative data path, the MLflow store, its champions and the store of teachers all belong to the main repository."""
    result = finished.run("dvc", "exp", "run", "--temp", "-S", "folder.fetch.max_gigabytes=1", "-S", "alpha=0.7")
    assert stages_run(result.stdout) == {"fetch"} | TRAINING
    (run,) = runs_of(finished)
    assert run.data.params["alpha"] == "0.7"
    assert "test_accuracy" in run.data.metrics
    assert run.info.artifact_uri.startswith(f"file://{finished.root}/mlruns/")
    assert "not in MLflow" not in result.stdout + result.stderr
    assert client(finished).get_model_version_by_alias("amalgam-taskA", "champion").run_id == run.info.run_id


def test_a_temporary_copy_runs_its_own_code(finished: Repository) -> None:
    """The code of the experiment, not that of the installed package or of the workspace's later state."""
    finished.edit("src/amalgam/summary.py", lambda text: text.replace('"─"', '"="'))
    result = finished.run("dvc", "exp", "run", "--temp", "-S", "taskA.alpha=0.7")
    assert "====" in result.stdout


def test_two_workers_of_the_queue_lose_nothing(finished: Repository) -> None:
    finished.run("dvc", "exp", "run", "--queue", "-S", "alpha=0.2,0.8")
    finished.run("dvc", "queue", "start", "-j", "2")
    for _ in range(300):  # a worker that died must not hang the test
        status = finished.run("dvc", "queue", "status").stdout
        if "Running" not in status and "Queued" not in status:
            break
        time.sleep(2)
    assert status.count("Success") == 2, status
    for task in ("taskA", "taskB"):
        assert sorted(run.data.params["alpha"] for run in runs_of(finished, task)) == ["0.2", "0.8"]
        assert all("test_accuracy" in run.data.metrics for run in runs_of(finished, task))


def test_a_wrong_parameter_ends_in_one_message_before_any_work(finished: Repository) -> None:
    before = (finished.root / "outputs/students/taskB/run.json").read_bytes()
    result = finished.run("dvc", "exp", "run", "-S", "taskA.alpha=1.5", check=False)
    assert result.returncode != 0
    output = result.stdout + result.stderr
    assert "taskA.alpha: '1.5' is refused: input should be less than or equal to 1" in output
    assert "Traceback" not in output
    assert not (finished.root / "outputs/students/taskA").exists()
    assert (finished.root / "outputs/students/taskB/run.json").read_bytes() == before


def test_a_student_that_cannot_be_is_found_before_any_teacher_is_asked(finished: Repository) -> None:
    checkpoints = finished.root / "torch/hub/checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "mobilenet_v3_small-047dcff4.pth").write_bytes(b"half a download")
    finished.set_params(teacher__seed=8, views=3)  # new teachers, who would be asked anew
    shipped = (finished.root / "params.yaml").read_text()
    for changes, message in (
        ({"student_model": "timm/tf_efficientnet_litte0"}, "timm has no model 'tf_efficientnet_litte0'; did you mean"),
        ({"student_model": "timm/vit_tiny_patch16_224"}, "does not take images of 32 x 32 pixels"),
        ({"pretrained": True}, "mobilenet_v3_small-047dcff4.pth is damaged"),
    ):
        (finished.root / "params.yaml").write_text(shipped)
        finished.set_params(**{f"taskB__{name}": value for name, value in changes.items()})
        for stage in (("teachers.py",), ("targets.py", "--task", "taskB")):
            home = str(finished.root / "torch")
            refused = finished.run("python", f"stages/{stage[0]}", *stage[1:], check=False, PYTHONPATH="src", TORCH_HOME=home)
            assert (refused.returncode, refused.stdout) == (1, "")
            assert message in refused.stderr
            assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("stage", ["fetch", "weights", "preprocess", "teachers", "targets", "train", "evaluate"])
def test_every_stage_validates_all_parameters_first(finished: Repository, stage: str) -> None:
    finished.edit("params.yaml", lambda text: text + "alpah: 1\n")
    task = ("--task", "A") if stage in ("targets", "train") else ()
    result = finished.run("python", f"stages/{stage}.py", *task, check=False, PYTHONPATH="src")
    assert result.returncode == 1
    assert result.stderr.strip().endswith("alpah: unknown key; did you mean 'alpha'?")
    assert "Traceback" not in result.stderr


def test_a_source_that_does_not_exist_is_answered_with_those_that_do(finished: Repository) -> None:
    result = finished.run("dvc", "exp", "run", "-S", "source=mnist", check=False)
    assert result.returncode != 0
    assert "source: 'mnist' is refused: input should be 'digits', 'cifar100', 'folder' or 'gdrive'" in result.stdout + result.stderr


def test_a_task_without_stages_and_stages_without_a_task_stop_the_first_stage(finished: Repository) -> None:
    params = yaml.safe_load((finished.root / "params.yaml").read_text())
    tasks = params["folder"]["tasks"]
    finished.set_params(taskC=params["taskA"], folder__tasks={**tasks, "taskC": tasks["taskA"]})
    result = finished.run("dvc", "repro", check=False)
    assert "folder.tasks.taskC: dvc.yaml has no stages for it; add what stands there of taskB once more" in result.stderr
    finished.run("git", "checkout", "-q", "params.yaml")
    finished.edit("params.yaml", lambda text: re.sub(r"(?ms)^taskB:.*?(?=^\S)", "", text))
    finished.set_params(folder__tasks={"taskA": tasks["taskA"]})
    result = finished.run("dvc", "repro", check=False)
    assert result.returncode != 0
    assert "folder.tasks has no 'taskB', for which dvc.yaml has stages" in result.stdout + result.stderr


def test_a_task_that_does_not_exist_is_named(finished: Repository) -> None:
    result = finished.run("python", "stages/train.py", "--task", "Z", check=False, PYTHONPATH="src")
    assert result.returncode == 1
    assert "there is no taskZ; the tasks are taskA, taskB" in result.stderr


def test_dvc_finds_its_environment_without_activation(finished: Repository) -> None:
    """Called by its path, with a PATH that knows neither dvc nor this python."""
    finished.set_params(run="elsewhere")
    dvc = Path(sys.executable).parent / "dvc"
    environment = {name: value for name, value in os.environ.items() if name not in ("PATH", "VIRTUAL_ENV")}
    result = subprocess.run(
        [str(dvc), "repro", "train-taskA"],
        cwd=finished.root,
        env=environment | {"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert stages_run(result.stdout) == {"train-taskA"}


def test_a_changed_archive_is_noticed_by_the_documented_command(finished: Repository) -> None:
    shutil.copyfile(finished.root / "images/train/red/000.png", finished.root / "images/train/red/new.png")
    assert finished.repro() == set()
    assert stages_run(finished.run("dvc", "repro", "--force", "--single-item", "fetch").stdout) == {"fetch"}
    assert finished.repro() == ALL - {"fetch", "weights"}


def test_stages_are_silent_in_a_log(finished: Repository) -> None:
    finished.set_params(taskA__run="log")
    result = finished.run("dvc", "repro")
    assert "\r" not in result.stdout + result.stderr
    assert "step/s" not in result.stdout + result.stderr


def test_a_training_that_diverges_names_the_step_and_keeps_the_best_weights(finished: Repository) -> None:
    """A learning rate so high that the loss overflows sooner or later."""
    wild = ("lr=10", "optimizer=sgd", "scheduler=step", "num_epochs=60")
    result = finished.run("dvc", "exp", "run", *(word for setting in wild for word in ("-S", setting)), check=False)
    assert result.returncode != 0
    output = result.stdout + result.stderr
    when = r"(?:in epoch \d+,|after epoch \d+, which ended with) step \d+"
    found = re.search(rf"no longer finite {when} \(labels \S+, distillation \S+\); lower lr; .* kept in (\S+)", output)
    assert found or "no epoch was finished before" in output, output
    if found:
        assert Path(found.group(1)).is_file()
    assert not (finished.root / "outputs/students/taskA").exists()
    assert [run.info.status for run in runs_of(finished)] == ["FAILED"]


def test_students_from_images_without_any_label(finished: Repository) -> None:
    """A folder of unlabelled images beside, and no label used of the others."""
    write_images(finished.root / "more", {"train": 3})
    (finished.root / "more" / "train").rename(finished.root / "images" / "unlabeled")
    finished.set_params(label_fraction=0, stored_teachers="all", folder__fetch__max_gigabytes=1)
    finished.set_params(taskA__target="balanced", taskA__temperature=1, taskB__target="joint")
    finished.repro()
    for task, target in (("taskA", "balanced"), ("taskB", "joint")):
        settings = read(finished, f"outputs/students/{task}/student.json")["settings"]
        assert (settings["label_fraction"], settings["target"]) == (0, target)
    labels = np.load(finished.root / "outputs/prepared/taskA/trainval/labels.npy")
    assert (labels == -1).sum() == 15
    found = read(finished, "outputs/evaluation/taskA/results.json")
    assert {"unrouted_teachers", "oracle_routed_teachers", "interval_95"} <= found.keys()
    assert found["unrouted_teachers_fitted"] == runs_of(finished)[0].data.metrics["unrouted_teachers_fitted"] > 0
    assert read(finished, "outputs/evaluation/taskB/results.json")["unrouted_teachers_fitted"] is None, "joint is not fitted"


def brought(finished: Repository, task: str) -> dict[str, dict[str, object]]:
    """The finished repository's teachers, as a user would bring them who has nothing else of them."""
    given = {}
    for manifest in sorted((finished.root / "models" / task).glob("*/manifest.json")):
        about, weights = json.loads(manifest.read_text()), f"{task}-{manifest.parent.name}.safetensors"
        shutil.copyfile(manifest.parent / "weights.safetensors", finished.root / weights)
        seen = about["preprocessing"]
        given[manifest.parent.name] = {
            "weights": weights,
            "architecture": "ReferenceCNN",
            "resolution": seen["size"][0],
            "min_accuracy": 0,
        } | {name: seen[name] for name in ("mean", "std")}
    return given


def test_teachers_alone_and_a_heap_of_images(finished: Repository) -> None:
    """Their training images are gone: no label but those of the test images. What needs one is refused, by name."""
    (finished.root / "images" / "train").rename(finished.root / "images" / "unlabeled")
    supplied = {task: brought(finished, task) for task in ("taskA", "taskB")}
    supplied["taskA"][next(iter(supplied["taskA"]))]["min_accuracy"] = 50
    finished.set_params(folder__supplied=supplied, folder__fetch__max_gigabytes=1)

    refused = finished.run("dvc", "repro", check=False).stderr
    assert "cannot be held to its min_accuracy 50: no training image of its classes has a label" in refused
    supplied["taskA"][next(iter(supplied["taskA"]))]["min_accuracy"] = 0
    finished.set_params(folder__supplied=supplied)
    refused = finished.run("dvc", "repro", check=False).stderr
    assert "error: taskA: no training image of the task has a label; set label_fraction to 0" in refused
    assert not (finished.root / "outputs/targets/taskA").exists(), "the teachers ran for nothing"

    finished.set_params(label_fraction=0, stored_teachers="all", target="balanced", temperature=1, taskB__target="joint")
    finished.repro()
    labels = np.load(finished.root / "outputs/prepared/taskA/trainval/labels.npy")
    assert (labels == -1).all()
    for task in ("taskA", "taskB"):
        assert "val_accuracy" not in read(finished, f"outputs/students/{task}/metrics.json")[task]
        assert read(finished, f"outputs/students/{task}/metrics.json")[task]["best_epoch"] == 2
        assert read(finished, f"outputs/evaluation/{task}/results.json")["test_images"] == 16
        assert [run.info.status for run in runs_of(finished, task)] == ["FINISHED"]


def test_a_student_starts_from_a_file_of_weights(finished: Repository) -> None:
    """The file is copied, so that others can train from it too; one that does not exist stops before any work."""
    save_weights(build_network("timm/test_efficientnet", 5).state_dict(), finished.root / "start.safetensors")
    settings = {"student_model": "timm/test_efficientnet", "pretrained": True, "student_weights": "start.safetensors"}
    finished.set_params(**{f"taskA__{name}": value for name, value in settings.items()})
    assert finished.repro() == {"weights", "train-taskA", "evaluate"}
    assert read(finished, "fetched/weights/taskA/supplied.json")["file"] == "start.safetensors"
    save_weights(build_network("timm/test_efficientnet", 6).state_dict(), finished.root / "start.safetensors")
    finished.set_params(taskA__lr=1e-3)
    stale = finished.run("dvc", "repro", check=False)
    assert stale.returncode != 0
    assert "start.safetensors has changed since it was copied" in stale.stderr
    shutil.copyfile(finished.root / "start.safetensors", finished.root / "other.safetensors")
    finished.set_params(taskA__student_weights="other.safetensors")
    other = finished.run("dvc", "repro", "--single-item", "train-taskA", check=False)
    assert (
        "fetched/weights/taskA was copied from start.safetensors, params.yaml says other.safetensors; run dvc repro weights" in other.stderr
    )
    finished.set_params(taskA__student_weights="start.safetensors")
    (finished.root / "start.safetensors").unlink()
    assert finished.repro() == {"train-taskA", "evaluate"}
    finished.set_params(taskA__student_weights="absent.pth")
    result = finished.run("dvc", "repro", check=False)
    assert "absent.pth do not exist" in result.stderr
