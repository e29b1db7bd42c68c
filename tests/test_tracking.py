"""MLflow on a real SQLite store."""

import multiprocessing
import os
import platform
import re
import signal
import sqlite3
import subprocess
import sys
import time
import uuid
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from amalgam.errors import UserError
from amalgam.interruption import interruptible
from amalgam.origin import code_is_dirty, committed_params, origin_tags
from amalgam.tracking.publish import attempt
from amalgam.tracking.run import training_run
from amalgam.tracking.store import connect, tracking_uri


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's repository, while the current folder is a temporary copy."""
    (tmp_path / "repository").mkdir()
    (tmp_path / "copy").mkdir()
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "repository"))
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "repository"


def one_run(task: str = "taskA") -> str:
    with training_run(task, "name", {"alpha": 0.5}, {"task": task} | origin_tags(), uuid.uuid4().hex) as tracker:
        for epoch in (1, 2):
            tracker.metrics({"val_accuracy": 10.0 * epoch}, epoch)
        return tracker.run_id


def test_a_training_is_one_finished_run_in_its_tasks_experiment(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_EXP_NAME", "brave-newt")
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "a1b2c3")
    run = connect().get_run(one_run())
    assert run.info.status == "FINISHED"
    assert run.data.params == {"alpha": "0.5"}
    assert run.data.tags["dvc.experiment"] == "brave-newt"
    assert run.data.tags["git.commit"] == "a1b2c3", "the code of a queued experiment is its baseline's, whatever HEAD is now"
    assert [m.value for m in connect().get_metric_history(run.info.run_id, "val_accuracy")] == [10.0, 20.0]
    assert connect().get_experiment(run.info.experiment_id).name == "taskA"


def test_store_and_artifacts_stand_in_the_users_repository(root: Path) -> None:
    with training_run("taskA", "name", {}, {}, "mark") as tracker:
        Path("student.json").write_text("{}")
        tracker.file(Path("student.json"))
    assert (root / "mlflow.db").is_file()
    assert [file.name for file in (root / "mlruns").rglob("*.json")] == ["student.json"]
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["student.json"]


def test_a_training_that_fails_is_marked_failed(root: Path) -> None:
    with pytest.raises(UserError), training_run("taskA", "name", {}, {}, "mark") as tracker:
        raise UserError("the loss is no longer finite")
    assert connect().get_run(tracker.run_id).info.status == "FAILED"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_told_to_end_while_it_says_that_it_failed_has_said_it(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """As the launcher does with the process that has just lost another."""
    original = MlflowClient.set_terminated

    def interrupted(client: MlflowClient, run_id: str, status: str) -> None:
        os.kill(os.getpid(), number)
        original(client, run_id, status)

    monkeypatch.setattr(MlflowClient, "set_terminated", interrupted)
    with pytest.raises(KeyboardInterrupt), interruptible(), training_run("taskA", "name", {}, {}, "mark") as tracker:
        raise RuntimeError("connection closed by peer")
    assert connect().get_run(tracker.run_id).info.status == "FAILED"


def test_a_training_that_was_broken_off_goes_on_in_its_run(root: Path) -> None:
    """Interrupted, it is marked killed; its mark finds it again. Deleted, it is left alone."""
    with pytest.raises(KeyboardInterrupt), training_run("taskA", "name", {"alpha": 0.5}, {}, "mine") as first:
        raise KeyboardInterrupt
    assert connect().get_run(first.run_id).info.status == "KILLED"
    with training_run("taskA", "another name", {"alpha": 0.5}, {"host": "here"}, "mine") as second:
        assert connect().get_run(first.run_id).info.status == "RUNNING"
    run = connect().get_run(first.run_id)
    assert (second.run_id, run.info.status, run.info.run_name) == (first.run_id, "FINISHED", "another name")
    assert run.data.tags["host"] == "here"
    connect().delete_run(first.run_id)
    with training_run("taskA", "name", {}, {}, "mine") as third:
        pass
    assert third.run_id != first.run_id


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def test_a_run_says_which_code_data_and_teachers_made_it(root: Path) -> None:
    """In the folder where it runs: commit, whether the code differs from it, what data.dvc and models.dvc pin."""
    git("init", "-q")
    git("config", "user.name", "Tester")
    git("config", "user.email", "tester@example.org")
    Path("src").mkdir()
    Path("src/code.py").write_text("a = 1\n")
    Path("params.yaml").write_text("alpha: 0.5\n")
    Path("data.dvc").write_text("outs:\n- md5: abc.dir\n  path: data\n")
    git("add", "-A")
    git("commit", "-qm", "first")
    assert code_is_dirty() is False
    Path("params.yaml").write_text("alpha: 0.9\n")
    assert code_is_dirty() is False, "parameters are recorded apart"
    assert committed_params() == "alpha: 0.5\n", "to the letter: a patch is made of it"
    Path("src/code.py").write_text("a = 2\n")
    tags = origin_tags()
    assert tags["git.commit"] == git("rev-parse", "HEAD")
    assert tags["git.dirty"] == "true"
    assert tags["dvc.data"] == "abc.dir"
    assert "dvc.models" not in tags
    assert tags["host"] == platform.node()


def test_without_git_a_run_is_tracked_all_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert "git.commit" not in origin_tags()
    assert connect().get_run(one_run()).info.status == "FINISHED"


def test_the_machines_load_is_logged_while_training_runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    with training_run("taskA", "name", {}, {}, "mark") as tracker:
        for _ in range(100):  # two samples, however busy the machine
            if "system/cpu_utilization_percentage" in connect().get_run(tracker.run_id).data.metrics:
                break
            time.sleep(0.2)
    metrics = connect().get_run(tracker.run_id).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= metrics.keys()


def test_any_name_of_a_teacher_or_class_can_be_logged(root: Path) -> None:
    with training_run("taskA", "name", {}, {}, "mark") as tracker:
        tracker.metrics({"teacher_weight/fruit+vegetables": 0.5, "test_accuracy/größe (m²)": 1.0})
    assert {"teacher_weight/fruit_vegetables", "test_accuracy/größe _m²_"} <= connect().get_run(tracker.run_id).data.metrics.keys()


def test_names_that_mlflow_cannot_tell_apart_are_numbered_and_long_ones_cut(root: Path) -> None:
    values = {"test_accuracy/C+": 10.0, "test_accuracy/C#": 90.0, "test_accuracy/" + 300 * "x": 1.0, "test_accuracy/" + 301 * "x": 2.0}
    with training_run("taskA", "name", {}, {}, "mark") as tracker:
        tracker.metrics(values)
    found = connect().get_run(tracker.run_id).data.metrics
    assert (found["test_accuracy/C_"], found["test_accuracy/C_ 2"]) == (10.0, 90.0)
    assert sorted(found.values()) == [1.0, 2.0, 10.0, 90.0]


@pytest.mark.parametrize("uri", ["sqlite:///own.db", "own"])
def test_a_relative_store_stands_in_the_repository_and_not_in_a_temporary_copy(
    uri: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with training_run("taskA", "name", {}, {}, "mark") as tracker:
        Path("student.json").write_text("{}")
        tracker.file(Path("student.json"))
    assert sorted(path.name for path in Path.cwd().iterdir()) == ["student.json"]
    assert [file.name for file in root.rglob("student.json")] == ["student.json"]


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", None),
        ("http://server:5000", "http://server:5000"),
        ("databricks", "databricks"),
        ("postgresql+psycopg2://me@server/runs", "postgresql+psycopg2://me@server/runs"),
        ("sqlite:////own/runs.db", "sqlite:////own/runs.db"),
        ("sqlite:///runs.db", "sqlite:///{root}/runs.db"),
        ("./own", "file://{root}/own"),
        ("file:///own", "file:///own"),
    ],
)
def test_where_a_store_of_ones_own_is(given: str, used: str | None, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert tracking_uri() == (used and used.format(root=root))


def test_whoever_has_no_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 54321")

    monkeypatch.setattr("getpass.getuser", nameless)
    assert origin_tags()["mlflow.user"] == str(os.getuid())


@pytest.mark.parametrize("error", [OSError("503 Server Error"), KeyError("region"), UserError("the store does not answer")])
def test_whatever_a_store_raises_costs_no_result(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def send() -> list[str]:
        raise error

    attempt(send, Path("runs/a"), "a command sends it")
    assert re.search(
        rf"not in MLflow: .*{re.escape(str(error))}; the results stand in runs/a, and a command sends it", capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("htp://tracking.example:5000", "the MLflow store htp://tracking.example:5000 does not answer"),
        ("own", r"the MLflow store file://\S+own does not answer \(The filesystem tracking backend"),
        ("postgresql+nothing://me:secret@db.example/runs", r"the MLflow store postgresql\+nothing://db.example/runs does not answer"),
        ("http://me:secret@127.0.0.1:9", r"the MLflow store http://127.0.0.1:9 does not answer"),
    ],
)
def test_what_is_no_store_is_refused_without_its_password(uri: str, said: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(UserError, match=said) as refused:
        connect()
    assert "correct MLFLOW_TRACKING_URI" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_database_of_another_mlflow_is_refused(root: Path) -> None:
    connect()
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
    program = "from amalgam.stage import run_stage; from amalgam.tracking.store import connect; run_stage(connect)"
    refused = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)  # another, as each stage is
    assert refused.returncode == 1
    assert re.search(r"error: the MLflow store /\S+/mlflow.db does not answer \(.*mlflow db upgrade", refused.stderr)
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(("name", "found"), [("My%20Repo", "%20"), ("mine?", "?")])
def test_a_repository_whose_database_would_lie_elsewhere_is_refused_before_any_work(
    name: str, found: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "from amalgam.stage import run_stage; run_stage(lambda: print('worked'))"
    command, environment = [sys.executable, "-c", program], {**os.environ, "DVC_ROOT": str(root / name)}
    refused = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert not refused.stdout
    assert f"MLflow can keep no database in a folder with {found} in its name; rename it, or set MLFLOW_TRACKING_URI" in refused.stderr
    elsewhere = environment | {"MLFLOW_TRACKING_URI": "http://localhost:5000"}
    assert subprocess.run(command, env=elsewhere, capture_output=True, text=True, check=True).stdout == "worked\n"


def test_a_training_whose_store_was_away_for_an_epoch_says_how_it_ended(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: object, **__: object) -> None:
        raise MlflowException("503")

    with training_run("taskA", "name", {}, {}, "mark") as tracker, monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_batch", away)
        tracker.metrics({"train_loss": 1.0}, 1)
    assert connect().get_run(tracker.run_id).info.status == "FINISHED"


def test_a_deleted_experiment_says_how_to_restore_it(root: Path) -> None:
    experiment = connect().get_run(one_run()).info.experiment_id
    connect().delete_experiment(experiment)
    with pytest.raises(UserError, match=f"mlflow experiments restore -x {experiment}"):
        one_run()


@pytest.mark.parametrize("uri", [None, "sqlite:///{root}/runs.db"])
def test_four_trainings_at_once_on_an_absent_database_all_succeed(uri: str | None, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("{root}", str(root)))
    with ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("spawn")) as pool:
        run_ids = list(pool.map(one_run, ["taskA", "taskB", "taskA", "taskB"]))
    assert len(set(run_ids)) == 4
    for run_id in run_ids:
        assert connect().get_run(run_id).info.status == "FINISHED"
    assert sorted(e.name for e in connect().search_experiments()) == ["Default", "taskA", "taskB"]


def test_a_given_tracking_uri_is_used(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run_id = one_run()
    assert MlflowClient(tracking_uri=uri).get_run(run_id).info.status == "FINISHED"
    assert not (root / "mlflow.db").exists()
    assert os.environ["MLFLOW_TRACKING_URI"] == uri


@pytest.mark.parametrize("uri", ["sqlite+pysqlite:///{root}/runs.db", "sqlite:///{root}/runs.db?timeout=20"])
def test_an_address_with_more_in_it_leaves_no_odd_file(uri: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.replace("{root}", str(root)))
    connect()
    assert (root / "runs.db").is_file()
    assert {path.name for path in root.iterdir() if path.name.endswith(".lock")} <= {"runs.db.lock"}
