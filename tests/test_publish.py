"""What stands in outputs/ can be brought to any MLflow store, whole and once."""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient, create_workspace
from mlflow.entities import Run
from PIL import Image

from amalgam.files import read_json, write_json
from amalgam.metrics import mcnemar
from amalgam.tracking.publish import publish_checkpoint, publish_evaluation, publish_training
from amalgam.tracking.registry import model_of
from amalgam.tracking.run import Tracker
from conftest import Repository, WebServer, make_repository


def client(repository: Repository) -> MlflowClient:
    uri = f"sqlite:///{repository.root / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def sync(repository: Repository, uri: str = "") -> str:
    return repository.run("python", "stages/sync.py", PYTHONPATH="src", MLFLOW_TRACKING_URI=uri).stdout


def run_id(repository: Repository, task: str = "taskA") -> str:
    found: str = json.loads((repository.root / f"outputs/students/{task}/run.json").read_text())["run_id"]
    return found


def runs(mlflow: MlflowClient, task: str = "taskA") -> list[Run]:
    return list(mlflow.search_runs([mlflow.get_experiment_by_name(task).experiment_id]))


def histories(mlflow: MlflowClient, run: Run) -> dict[str, list[tuple[int, float, int]]]:
    """Every metric but the machine's load, with step and time."""
    names = [name for name in run.data.metrics if not name.startswith("system/")]
    return {name: [(m.step, m.value, m.timestamp) for m in mlflow.get_metric_history(run.info.run_id, name)] for name in names}


def artifacts(mlflow: MlflowClient, run: Run) -> set[str]:
    folders = ("student", "evaluation")
    return {file.path for folder in folders for file in mlflow.list_artifacts(run.info.run_id, folder)}


def test_a_run_holds_all_that_its_page_is_to_show(tracked: Repository) -> None:
    run = client(tracked).get_run(run_id(tracked))
    assert run.data.metrics.keys() >= {"best_val_accuracy", "test_accuracy", "test_ece", "seconds", "images_per_second", "train_loss", "lr"}
    assert run.data.metrics.keys() >= {
        "within_teacher_errors",
        "across_teacher_errors",
        "unrouted_teachers_joint",
        "oracle_routed_teachers",
    }
    low, accuracy, high = (run.data.metrics[f"test_accuracy{end}"] for end in ("_low", "", "_high"))
    assert low < accuracy < high or low <= accuracy == 100
    assert run.data.tags.keys() >= {"task", "source", "student", "target", "dvc.data", "dvc.models", "git.commit", "git.dirty", "device"}
    pinned = run.data.tags["dvc.data"]
    datasets = {entry.tags[0].value: entry.dataset for entry in run.inputs.dataset_inputs}
    assert {context: data.digest for context, data in datasets.items()} == {"training": pinned, "testing": pinned}
    assert json.loads(datasets["training"].profile)["classes"] == 4
    sync(tracked)  # the store was moved: its paths are put right
    files = artifacts(client(tracked), run)
    assert {f"student/{name}" for name in ("best.safetensors", "last.safetensors", "student.json", "history.csv")} <= files
    assert {f"evaluation/{name}.png" for name in ("confusion_matrix", "reliability", "sample_predictions", "agreement")} <= files
    note = run.data.tags["mlflow.note.content"]
    assert "student/repeat.sh" in files
    for part in ("student, test images", "| actual \\ predicted | blue | green | red | yellow |", "git checkout", "dvc exp run"):
        assert part in note


def test_a_new_store_gets_every_run_whole_and_once(finished: Repository, finished_template: Path, tmp_path: Path) -> None:
    """Losing the database, or pulling the outputs elsewhere, costs only the machine's load."""
    old, new = client(Repository(finished_template)), client(finished)
    before = old.get_run(run_id(finished))
    expected = histories(old, before)
    shutil.rmtree(finished.root / "mlruns")
    assert "taskA: new champion, version 1: the first" in sync(finished)
    (run,) = runs(new)
    assert run.info.run_id != before.info.run_id
    restored = histories(new, run)
    assert restored.keys() == expected.keys()
    for name in ("train_loss", "val_accuracy", "epoch_seconds"):
        assert [entry[:2] for entry in restored[name]] == [entry[:2] for entry in expected[name]]
        times = [entry[2] for entry in restored[name]]
        assert times == sorted(times) and before.info.start_time <= times[0] and times[-1] <= before.info.end_time
    assert {name: values[-1][1] for name, values in restored.items()} == {name: values[-1][1] for name, values in expected.items()}
    assert run.data.params == before.data.params
    assert run.info.run_name == before.info.run_name
    assert run.info.status == "FINISHED"
    assert artifacts(new, run) == artifacts(old, before)
    assert new.get_experiment_by_name("taskB").artifact_location == (finished.root / "mlruns/taskB").as_uri()
    assert f"run {before.info.run_id} was not here" in run.data.tags["mlflow.note.content"]
    assert sync(finished).splitlines() == ["taskA: MLflow has all of it", "taskB: MLflow has all of it"]
    assert [r.info.run_id for r in runs(new)] == [run.info.run_id]
    assert histories(new, runs(new)[0]) == restored, "a second time sends nothing"


def test_two_that_publish_at_once_send_it_once(finished: Repository) -> None:
    shutil.rmtree(finished.root / "mlruns")
    program = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": program, "PYTHONPATH": "src", "MLFLOW_TRACKING_URI": ""}
    both = [subprocess.Popen([sys.executable, "stages/sync.py"], cwd=finished.root, env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    mlflow = client(finished)
    for task in ("taskA", "taskB"):
        (run,) = runs(mlflow, task)
        assert len(run.outputs.model_outputs) == 1
        assert all(len({step for step, _, _ in found}) == len(found) for found in histories(mlflow, run).values())


def test_what_stops_one_task_does_not_stop_the_others(finished: Repository) -> None:
    shutil.rmtree(finished.root / "mlruns")
    (finished.root / "outputs/students/taskA/best.safetensors").unlink()
    ended = finished.run("python", "stages/sync.py", PYTHONPATH="src", check=False)
    assert ended.returncode == 1
    assert "error: taskA: outputs/students/taskA/best.safetensors is missing; dvc repro makes it, dvc pull fetches it" in ended.stderr
    assert "taskB: new champion" in ended.stdout


def test_whatever_stops_one_task_does_not_stop_the_others(finished: Repository) -> None:
    shutil.rmtree(finished.root / "mlruns")
    (finished.root / "outputs/students/taskA/run.json").write_text("[]")
    ended = finished.run("python", "stages/sync.py", PYTHONPATH="src", check=False)
    assert ended.returncode == 1
    assert re.search(r"error: taskA: \w+Error: ", ended.stderr)
    assert "taskB: new champion" in ended.stdout
    ended = finished.run("python", "stages/sync.py", *(f"outputs/students/task{task}" for task in "AB"), PYTHONPATH="src", check=False)
    assert ended.returncode == 1
    assert re.search(r"error: outputs/students/taskA: \w+Error: ", ended.stderr)


def test_a_deleted_run_is_only_mentioned_until_it_is_asked_for(tracked: Repository) -> None:
    client(tracked).delete_run(run_id(tracked))
    tracked.edit("src/amalgam/evaluation.py", lambda text: text + "# a remark\n")
    said = tracked.run("dvc", "repro").stdout
    assert f"taskA: this MLflow store has no run {run_id(tracked)}, or it was deleted; make sync restores it" in said
    assert runs(client(tracked)) == []
    tracked.run("python", "stages/sync.py", "--no-restore", PYTHONPATH="src")  # as make ui does
    assert runs(client(tracked)) == []
    assert f"taskA: run {run_id(tracked)} was deleted, and is restored" in sync(tracked)
    assert [run.info.run_id for run in runs(client(tracked))] == [run_id(tracked)]


def test_a_model_that_was_deleted_is_logged_again(tracked: Repository) -> None:
    """One whose upload had broken off, say."""
    mlflow, run = client(tracked), client(tracked).get_run(run_id(tracked))
    (model,) = run.outputs.model_outputs
    mlflow.delete_logged_model(model.model_id)
    assert model_of(mlflow, run.info.run_id) is None
    mlflow.set_tag(run.info.run_id, "amalgam.training", "begun")
    sync(tracked)
    assert model_of(mlflow, run.info.run_id) not in (None, model.model_id)


@pytest.mark.filterwarnings("ignore")  # MLflow's own
def test_a_model_that_cannot_be_sent_leaves_the_training_finished(tracked: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow itself calls a run failed whose model it could not log."""
    monkeypatch.chdir(tracked.root)
    monkeypatch.setenv("DVC_ROOT", str(tracked.root))
    mlflow, run = client(tracked), client(tracked).get_run(run_id(tracked))
    mlflow.delete_logged_model(run.outputs.model_outputs[0].model_id)
    mlflow.set_tag(run.info.run_id, "amalgam.training", "begun")
    monkeypatch.setattr(MlflowClient, "log_model_artifacts", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        publish_training(tracked.root / "outputs/students/taskA")
    after = mlflow.get_run(run.info.run_id).info
    assert (after.status, after.end_time) == ("FINISHED", run.info.end_time)


def test_a_restoring_that_broke_off_is_finished(finished: Repository) -> None:
    shutil.rmtree(finished.root / "mlruns")
    sync(finished)
    mlflow = client(finished)
    (whole,) = runs(mlflow)
    old = whole.data.tags["amalgam.restored_from"]
    mlflow.set_tag(whole.info.run_id, "amalgam.restored_from", "another")
    tags = {"amalgam.restored_from": old, "mlflow.runName": "half"}
    begun = mlflow.create_run(whole.info.experiment_id, tags=tags).info.run_id
    sync(finished)
    assert mlflow.get_run(begun).data.params == whole.data.params != {}
    assert mlflow.get_run(begun).data.tags["amalgam.training"] == "complete"


def test_before_anything_ran_the_table_says_what_makes_it(tmp_path: Path) -> None:
    refused = make_repository(tmp_path / "new").run("python", "stages/results.py", check=False, PYTHONPATH="src")
    assert refused.returncode == 1
    assert "results.json is missing; if the pipeline makes it, dvc repro does" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_an_evaluation_is_of_the_student_that_it_judged(tracked: Repository) -> None:
    """Between a training and the next evaluation there is none of the new student."""
    before = json.loads((tracked.root / "outputs/evaluation/taskA/results.json").read_text())
    tracked.set_params(alpha=0.0)
    tracked.repro("train-taskA")
    assert "taskA: outputs/evaluation/taskA is of another student than outputs/students/taskA; dvc repro evaluates" in sync(tracked)
    metrics = client(tracked).get_run(run_id(tracked)).data.metrics
    assert "best_val_accuracy" in metrics
    assert "test_accuracy" not in metrics
    told = tracked.run("python", "stages/results.py", PYTHONPATH="src").stdout
    first, second = (line for line in told.splitlines() if line.startswith("task") and "student " not in line)
    assert "(one before the present one)" in first
    assert f"{before['overall_accuracy']}" in first
    assert run_id(tracked) not in first
    assert run_id(tracked, "taskB") in second
    tracked.repro()
    assert "test_accuracy" in client(tracked).get_run(run_id(tracked)).data.metrics


def test_an_evaluation_that_was_broken_off_on_its_way_goes_on_in_its_run(tracked: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tracked.root)
    monkeypatch.setenv("DVC_ROOT", str(tracked.root))
    evaluation = tracked.root / "outputs/evaluation/taskA"
    given = {"file": "x.pth", "place": "x.pth", "sha256": "0" * 64, "architecture": "MobileNetV3", "resolution": "64"}
    write_json(evaluation / "results.json", read_json(evaluation / "results.json") | {"checkpoint": given})
    before = len(runs(client(tracked)))
    with monkeypatch.context() as broken:
        broken.setattr(Tracker, "file", lambda *_: (_ for _ in ()).throw(OSError("no route to host")))
        with pytest.raises(OSError, match="no route"):
            publish_checkpoint(evaluation)
    (said,) = publish_checkpoint(evaluation)
    assert publish_checkpoint(evaluation) == []
    found = runs(client(tracked))
    assert len(found) == before + 1
    (run,) = (run for run in found if run.info.run_id in said)
    assert run.info.status == "FINISHED"
    assert "evaluation/results.json" in artifacts(client(tracked), run)
    assert run.data.metrics["mcnemar_p"] == 1, "it says what the champion says, of the same test images"
    assert all(len(found) == 1 for found in histories(client(tracked), run).values()), "nothing is logged twice"
    client(tracked).delete_run(run.info.run_id)
    assert publish_checkpoint(evaluation) == [f"taskA: run {run.info.run_id} was deleted; make sync restores it"]
    assert publish_checkpoint(evaluation, restore=True) == [f"taskA: run {run.info.run_id} was deleted, and is restored"]
    assert client(tracked).get_run(run.info.run_id).info.lifecycle_stage == "active"
    write_json(evaluation / "results.json", read_json(evaluation / "results.json") | {"test_content": "others"})
    (said,) = publish_checkpoint(evaluation)
    (run,) = (run for run in runs(client(tracked)) if run.info.run_id in said)
    assert "mcnemar_p" not in run.data.metrics


def test_a_champion_that_was_evaluated_later_is_compared_with_then(tracked: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one of several experiments that run side by side."""
    monkeypatch.chdir(tracked.root)
    monkeypatch.setenv("DVC_ROOT", str(tracked.root))
    mlflow, folders = client(tracked), (tracked.root / "outputs/students/taskA", tracked.root / "outputs/evaluation/taskA")
    other = mlflow.create_run(mlflow.get_experiment_by_name("taskA").experiment_id).info.run_id
    version = mlflow.create_model_version("amalgam-taskA", f"models:/{model_of(mlflow, run_id(tracked))}", other)
    mlflow.set_registered_model_alias("amalgam-taskA", "champion", version.version)
    assert publish_evaluation(*folders) == []
    assert "mcnemar_p" not in mlflow.get_run(run_id(tracked)).data.metrics
    mlflow.log_artifacts(other, str(folders[1]), "evaluation")
    assert publish_evaluation(*folders) == []
    run = mlflow.get_run(run_id(tracked))
    assert run.data.metrics["mcnemar_p"] == 1
    assert run.data.tags["mcnemar.against"] == f"champion version {version.version}, run {other}"


def test_what_an_earlier_evaluation_told_and_this_one_does_not_know_is_no_number(
    tracked: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The champion was judged on other test images than these; when it has been judged on them too, there is a number again."""
    monkeypatch.chdir(tracked.root)
    monkeypatch.setenv("DVC_ROOT", str(tracked.root))
    mlflow, evaluation = client(tracked), tracked.root / "outputs/evaluation/taskA"
    assert publish_evaluation(tracked.root / "outputs/students/taskA", evaluation) == []  # this finds the store where it lies now
    other = mlflow.create_run(mlflow.get_experiment_by_name("taskA").experiment_id).info.run_id
    version = mlflow.create_model_version("amalgam-taskA", f"models:/{model_of(mlflow, run_id(tracked))}", other)
    mlflow.set_registered_model_alias("amalgam-taskA", "champion", version.version)
    mlflow.log_artifacts(other, str(evaluation), "evaluation")

    def told(**changes: object) -> Run:
        write_json(evaluation / "results.json", read_json(evaluation / "results.json") | changes)
        fitted = {"unrouted_teachers_fitted": 71.0} if changes["test_images"] == 1 else {}
        numbers = read_json(evaluation / "metrics.json")["taskA"] | {"unrouted_teachers_fitted": None} | fitted
        write_json(evaluation / "metrics.json", {"taskA": {name: value for name, value in numbers.items() if value is not None}})
        assert publish_evaluation(tracked.root / "outputs/students/taskA", evaluation) == []
        return mlflow.get_run(run_id(tracked))

    teachers = read_json(evaluation / "results.json")["teacher_accuracy"]
    before = told(test_images=1, teacher_accuracy=teachers | {"old+one": 50.0})
    gone = ("mcnemar_p", "unrouted_teachers_fitted", "teacher_accuracy/old_one")
    assert [before.data.metrics[name] for name in gone] == [1, 71, 50]
    after = told(test_images=2, test_content="others", teacher_accuracy=teachers | {"new+one": 60.0})
    assert all(np.isnan(after.data.metrics[name]) for name in gone)
    assert [after.data.metrics[f"teacher_accuracy/{name}"] for name in (*teachers, "new_one")] == [*teachers.values(), 60]
    assert "mcnemar.against" not in after.data.tags
    assert after.data.metrics["test_accuracy"] == before.data.metrics["test_accuracy"]
    mlflow.log_artifacts(other, str(evaluation), "evaluation")
    again = told(test_images=2)
    assert again.data.metrics["mcnemar_p"] == 1
    assert again.data.tags["mcnemar.against"].startswith("champion")


def test_a_student_of_other_images_is_not_judged_by_hand(finished: Repository) -> None:
    finished.set_params(data_seed=7)
    finished.repro("preprocess")
    told = finished.run("python", "stages/evaluate.py", "--task", "A", check=False, PYTHONPATH="src")
    assert told.returncode == 1
    assert "outputs/students/taskA was trained on other images, or another split, than outputs/prepared/taskA holds" in told.stderr
    own = ("--checkpoint", "outputs/students/taskA/best.safetensors")
    told = finished.run("python", "stages/evaluate.py", "--task", "A", *own, check=False, PYTHONPATH="src")
    assert told.returncode == 1
    assert "best.safetensors was trained on other images, or another split, than the pipeline has now" in told.stderr
    shutil.copyfile(finished.root / own[1], finished.root / "copy.safetensors")
    manifest = json.loads((finished.root / "outputs/students/taskA/student.json").read_text())
    del manifest["training_images"]
    (finished.root / "student.json").write_text(json.dumps(manifest))
    bare = ("python", "stages/evaluate.py", "--task", "A", "--checkpoint", "copy.safetensors")
    told = finished.run(*bare, check=False, PYTHONPATH="src")
    assert told.returncode == 1, "nor are teachers, who may know what are test images now"
    assert re.search("teacher models/taskA/.* was trained on other images, or another split, than are prepared; run dvc repro", told.stderr)
    assert not list((finished.root / "runs").glob("*_evaluation*"))
    finished.repro("models.dvc")
    finished.run(*bare, PYTHONPATH="src")


def test_a_moved_stores_pictures_and_champions_open(tracked: Repository, tmp_path: Path) -> None:
    sync(tracked)
    tracked.root.rename(tmp_path / "moved again")
    moved = Repository(tmp_path / "moved again")
    assert run_id(moved) in moved.run("python", "stages/champion.py", PYTHONPATH="src").stdout
    mlflow = client(moved)
    picture = mlflow.download_artifacts(run_id(moved), "evaluation/confusion_matrix.png", str(tmp_path))
    assert Path(picture).read_bytes().startswith(b"\x89PNG")
    load = "import mlflow; print(mlflow.pyfunc.load_model('models:/amalgam-taskA@champion').metadata.run_id)"
    assert moved.run("python", "-c", load).stdout.split()[-1] == run_id(moved)


def test_champions_change_by_validation_accuracy_and_are_compared_on_test_images(tracked: Repository) -> None:
    """MobileNetV3 learns nothing in the two epochs of the first run; ResNet18 is quicker."""
    first = run_id(tracked)
    tracked.run("dvc", "exp", "run", "-S", "taskA.student_model=ResNet18", "-S", "taskA.num_epochs=6")
    second = client(tracked).get_run(run_id(tracked))
    before = client(tracked).get_run(first)
    assert second.data.metrics["best_val_accuracy"] > before.data.metrics["best_val_accuracy"]
    assert client(tracked).get_model_version_by_alias("amalgam-taskA", "champion").run_id == second.info.run_id
    assert second.data.tags["mcnemar.against"] == f"champion version 1, run {first}"
    right = []
    for run in (second, before):
        path = client(tracked).download_artifacts(run.info.run_id, "evaluation/predictions.csv", str(tracked.root / "mlruns"))
        rows = [line.split(",") for line in Path(path).read_text().splitlines()[1:]]
        right.append([row[1] == row[2] for row in rows])
    assert second.data.metrics["mcnemar_p"] == pytest.approx(mcnemar(np.array(right[0]), np.array(right[1])))


def test_a_student_from_the_run_cache_keeps_its_run_and_says_so(tracked: Repository) -> None:
    """Nothing is logged twice, and the table names the experiment that trained it."""
    tracked.run("dvc", "exp", "run", "-n", "original", "-S", "alpha=0.25")
    original = run_id(tracked)
    count = len(runs(client(tracked)))
    tracked.run("git", "checkout", "-q", ".")
    tracked.run("dvc", "checkout", "-q", "--force")
    assert run_id(tracked) != original
    tracked.run("dvc", "exp", "run", "-n", "again", "-S", "alpha=0.25")
    assert run_id(tracked) == original
    assert len(runs(client(tracked))) == count
    shown = tracked.run("python", "stages/results.py", PYTHONPATH="src").stdout
    assert [line.split()[-2:] for line in shown.splitlines() if line.startswith("taskA")] == [[original, "original"]]
    columns = tracked.run("dvc", "exp", "show", "--csv").stdout.splitlines()
    place = columns[0].split(",").index("taskA.mlflow_run")
    assert original in [line.split(",")[place] for line in columns[1:]]


# ── A tracking server ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WebServer]:
    """A tracking server, not yet started, with proxied artifacts and workspaces."""
    (tmp_path / "server").mkdir()
    store = ("--backend-store-uri", f"sqlite:///{tmp_path}/server/server.db", "--artifacts-destination", f"{tmp_path}/server/artifacts")
    found = WebServer(tmp_path / "server", "server", "--enable-workspaces", *store)
    yield found
    found.stop()


def test_a_tracking_server_takes_everything(finished: Repository, server: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the project's own workspace, and nothing into another's."""
    server.start(server.folder / "log")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    create_workspace("birds")
    monkeypatch.setenv("MLFLOW_WORKSPACE", "birds")
    finished.set_params(alpha=0.9)
    result = finished.run("dvc", "repro", MLFLOW_TRACKING_URI=server.uri)
    assert "taskA: new champion, version 1: the first" in result.stdout
    mlflow = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    (run,) = runs(mlflow)
    assert run.info.status == "FINISHED"
    assert run.data.metrics.keys() >= {"best_val_accuracy", "test_accuracy"}
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    assert {"student/best.safetensors", "evaluation/confusion_matrix.png"} <= artifacts(mlflow, run)
    assert mlflow.get_model_version_by_alias("amalgam-taskA", "champion").run_id == run.info.run_id
    assert not (finished.root / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_WORKSPACE", "default")
    assert mlflow.get_experiment_by_name("taskA") is None


def test_a_server_that_is_down_is_named_before_any_work(finished: Repository) -> None:
    finished.set_params(alpha=0.9)
    result = finished.run("dvc", "repro", MLFLOW_TRACKING_URI="http://127.0.0.1:9", check=False)
    assert result.returncode != 0
    assert "error: the MLflow store http://127.0.0.1:9 does not answer" in result.stderr
    assert "Traceback" not in result.stderr
    assert "epoch" not in result.stdout


def test_a_server_that_goes_away_costs_no_result(finished: Repository, server: WebServer) -> None:
    """It is killed during the training; the student is the same, and what was missed is sent when it is back."""
    server.start(server.folder / "log")
    finished.set_params(taskA__num_epochs=40, taskA__run="alone")
    command = [str(Path(sys.executable).parent / "dvc"), "repro", "-s", "train-taskA", "evaluate"]
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": server.uri,
    }
    mlflow = MlflowClient(tracking_uri=server.uri, registry_uri=server.uri)
    with subprocess.Popen(
        command, cwd=finished.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as training:
        while training.poll() is None:
            if mlflow.get_experiment_by_name("taskA") and runs(mlflow) and "lr" in runs(mlflow)[0].data.metrics:
                break
            time.sleep(0.1)
        assert training.poll() is None, training.communicate()
        server.stop()
        output, errors = training.communicate()
    assert training.returncode == 0, output + errors
    assert "training goes on; what is missing is sent at its end" in errors
    assert errors.count("MLflow does not take epoch") == 1
    assert "student taskA: epoch" in output
    server.start(server.folder / "log")
    assert "taskA: new champion" in sync(finished, server.uri)
    (run,) = runs(mlflow)
    assert run.info.run_id == run_id(finished)
    assert run.info.status == "FINISHED"
    assert [step for step, _, _ in histories(mlflow, run)["train_loss"]] == list(range(1, 41)), "every epoch, and each once"
    assert "test_accuracy" in run.data.metrics


# ── Serving ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_champion_is_served_over_http(tracked: Repository, tmp_path: Path) -> None:
    """A real PNG, in base64 as JSON carries it, and its pixels: the same answer, and that of the evaluation."""
    sync(tracked)
    image = next((tracked.root / "images/test/red").iterdir())
    pixels = np.asarray(Image.open(image)).tolist()
    server = WebServer(tracked.root, "models", "serve", "--env-manager", "local", "--model-uri", "models:/amalgam-taskA@champion")
    server.start(tmp_path / "log")
    try:
        rows = {"dataframe_records": [{"image": base64.b64encode(image.read_bytes()).decode()}, {"image": pixels}]}
        request = urllib.request.Request(f"{server.uri}/invocations", json.dumps(rows).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as response:
            first, second = json.load(response)["predictions"]
    finally:
        server.stop()
    assert first == second
    assert sum(first["probabilities"].values()) == pytest.approx(1)
    evaluated = (tracked.root / "outputs/evaluation/taskA/predictions.csv").read_text()
    (line,) = [line.split(",") for line in evaluated.splitlines() if f"red/{image.name}" in line]
    assert first["class"] == line[2]
    assert first["probability"] == pytest.approx(float(line[3]), abs=1e-3)
