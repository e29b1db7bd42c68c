"""Who comes from the reference system: its archives through the pipeline, its weights by their names, its commands by hand."""

import csv
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image
from safetensors.torch import load_file

from amalgam.files import sha256_of_file
from amalgam.networks import build_network
from amalgam.student_files import is_chosen, own_manifest
from conftest import Repository, make_repository, stages_run
from fake_drive import STUDENT, TASK_A, TEACHER, data_files, model_files, saved, serving, write_zip


def read(path: Path) -> dict:  # type: ignore[type-arg]
    return json.loads(path.read_text())  # type: ignore[no-any-return]


def runs_of(repository: Repository, task: str) -> list:  # type: ignore[type-arg]
    client = MlflowClient(tracking_uri=f"sqlite:///{repository.root / 'mlflow.db'}")
    experiment = client.get_experiment_by_name(task)
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def content_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "live" not in path.parts
    }


@pytest.fixture(scope="module")
def arrived(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """The published archives, in small, from a server through the whole pipeline."""
    place = tmp_path_factory.mktemp("published")
    repository = make_repository(place / "repository")
    data, models = write_zip(place / "data.zip", data_files()), write_zip(place / "models.zip", model_files())
    with serving(data.read_bytes()) as images, serving(models.read_bytes()) as weights:
        repository.set_params(
            source="gdrive",
            gdrive__fetch__data=images.address,
            gdrive__fetch__models=weights.address,
            num_epochs=1,
            views=1,
            teacher__num_epochs=1,
        )
        output = repository.run("dvc", "repro").stdout
        (repository.root / "first_output.txt").write_text(output)
    repository.commit("arrived")
    return repository


def test_the_archives_go_through_the_pipeline(arrived: Repository) -> None:
    output = (arrived.root / "first_output.txt").read_text()
    pins = re.findall(r"under gdrive\.fetch:\n  (\w+): ([0-9a-f]{64})", output)
    assert [name for name, _ in pins] == ["data_sha256", "models_sha256"]
    assert f"fetched/models/{STUDENT}\n  fetched/models/{TEACHER}" in output
    for task, classes in (("taskA", 15), ("taskB", 12)):
        results = read(arrived.root / "outputs/evaluation" / task / "results.json")
        assert len(results["per_class_accuracy"]) == classes
        assert results["checkpoint"] is None
        images = np.load(arrived.root / "outputs/prepared" / task / "test/images.npy", mmap_mode="r")
        assert images.shape[1:] == ((32, 32, 3) if task == "taskA" else (64, 64, 3))
        assert not (arrived.root / "outputs/live" / task / "learning_curve.png").exists()


def test_once_pinned_nothing_is_fetched_again_and_another_hash_is_refused(arrived: Repository, tmp_path: Path) -> None:
    repository = copy(arrived, tmp_path)
    output = (arrived.root / "first_output.txt").read_text()
    (pin,) = re.findall(r"  data_sha256: ([0-9a-f]{64})", output)
    repository.set_params(gdrive__fetch__data_sha256=pin)  # the servers are gone by now
    assert repository.repro() == {"fetch"}
    repository.set_params(gdrive__fetch__data_sha256="0" * 64)
    result = repository.run("dvc", "repro", check=False)
    assert result.returncode != 0
    assert f"has the sha256 {pin}, but gdrive.fetch.data_sha256 is {'0' * 64}" in result.stderr


def copy(repository: Repository, tmp_path: Path) -> Repository:
    shutil.copytree(repository.root, tmp_path / "repository", symlinks=True, ignore=shutil.ignore_patterns("mlflow.db*"))
    return Repository(tmp_path / "repository")


def test_a_published_student_is_evaluated_in_place_of_the_trained_one(arrived: Repository, tmp_path: Path) -> None:
    repository = copy(arrived, tmp_path)
    result = repository.run("dvc", "exp", "run", "-S", f"evaluate.checkpoint.taskA=fetched/models/{STUDENT}")
    assert stages_run(result.stdout) == {"weights", "evaluate"}, "no student is trained for it"
    found = read(repository.root / "outputs/evaluation/taskA/results.json")
    assert found["checkpoint"]["file"] == "student_model_epoch57_acc81.27.pth"
    assert found["checkpoint"]["architecture"] == "MobileNetV3", "by its weights' names and shapes"
    assert read(repository.root / "outputs/evaluation/taskB/results.json")["checkpoint"] is None
    assert re.search(r"taskA +MobileNetV3 \(student_model_epoch57_acc81\.27\.pth\) +15 .* – ", result.stdout)
    (run,) = runs_of(repository, "taskA")
    assert run.data.tags["checkpoint.file"] == "student_model_epoch57_acc81.27.pth"
    assert run.data.metrics["test_accuracy"] == found["overall_accuracy"]
    assert f"| **student, test images** | **{found['overall_accuracy']:g}**" in run.data.tags["mlflow.note.content"]
    assert f"evaluate.py --task taskA --checkpoint fetched/models/{STUDENT} --resolution 64\n" in run.data.tags["mlflow.note.content"]
    assert not (repository.root / "outputs/evaluation/taskA/learning_curve.png").exists()
    repository.run("python", "stages/sync.py")
    runs = runs_of(repository, "taskA")
    assert len(runs) == 2, "the trained student's run, which this database lacked, is written anew"
    assert [("test_accuracy" in run.data.metrics) for run in runs if "checkpoint.file" not in run.data.tags] == [False]
    repository.run("dvc", "plots", "diff", "--json")


def test_a_published_student_answers_as_the_reference_would_ask_it(arrived: Repository, tmp_path: Path) -> None:
    """Resized to 64 × 64, normalised by the statistics of all training images, its outputs in the documented order."""
    repository = copy(arrived, tmp_path)
    repository.run("dvc", "exp", "run", "-S", f"evaluate.checkpoint.taskA=fetched/models/{STUDENT}")
    prepared = repository.root / "outputs/prepared/taskA"
    training = np.load(prepared / "trainval/images.npy") / 255
    mean, std = training.mean((0, 1, 2)), training.reshape(-1, 3).std(0)
    network = build_network("MobileNetV3", 15)
    network.load_state_dict(torch.load(repository.root / "fetched/models" / STUDENT, weights_only=True))
    images = torch.from_numpy(np.load(prepared / "test/images.npy") / 255).permute(0, 3, 1, 2).float()
    resized = torch.nn.functional.interpolate(images, (64, 64), mode="bilinear", antialias=True)
    shift, scale = (torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1) for values in (mean, std))
    with torch.inference_mode():
        expected = network.eval()((resized - shift) / scale).argmax(1).numpy()
    classes = read(prepared / "test/classes.json")["classes"]
    lines = (repository.root / "outputs/evaluation/taskA/predictions.csv").read_text().splitlines()[1:]
    agree = np.mean([line.split(",")[2] == classes[guess] for line, guess in zip(lines, expected, strict=True)])
    assert agree == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"the weights .*nothing\.pth do not exist"),
        (build_network("MobileNetV3", 12).state_dict(), "is none of the students of 15 classes"),
        (build_network("ReferenceCNN", 15).state_dict(), "is none of the students of 15 classes"),
    ],
)
def test_a_checkpoint_that_is_missing_or_another_network_is_refused(
    content: object, message: str, arrived: Repository, tmp_path: Path
) -> None:
    repository = copy(arrived, tmp_path)
    if content is not None:
        (repository.root / "nothing.pth").write_bytes(saved(content))
    before = content_of(repository.root / "outputs")
    result = repository.run("dvc", "exp", "run", "-S", "evaluate.checkpoint.taskA=nothing.pth", check=False)
    assert result.returncode != 0
    assert re.search(message, result.stderr)
    assert content_of(repository.root / "outputs") == before


def test_a_published_teacher_takes_its_place(arrived: Repository, tmp_path: Path) -> None:
    repository = copy(arrived, tmp_path)
    given = {
        "weights": f"fetched/models/{TEACHER}",
        "architecture": "ReferenceCNN",
        "resolution": 32,
        "mean": None,
        "std": None,
        "min_accuracy": 0,
    }
    repository.set_params(gdrive__supplied={"taskA": {"trees": given}})
    assert {"weights", "teachers", "targets-taskA", "train-taskA"} <= repository.repro()
    manifest = read(repository.root / "models/taskA/trees/manifest.json")
    assert (manifest["origin"], manifest["file"]) == ("supplied", "data1_73.60_epoch12.pth")
    pixels = np.load(repository.root / "outputs/prepared/taskA/trainval/images.npy")
    labels = np.load(repository.root / "outputs/prepared/taskA/trainval/labels.npy")
    classes = read(repository.root / "outputs/prepared/taskA/trainval/classes.json")["classes"]
    own = pixels[[classes[label].endswith("_tree") for label in labels]] / 255
    assert len(own) == len(TASK_A[1]) * 10
    np.testing.assert_allclose(manifest["preprocessing"]["mean"], own.mean((0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(manifest["preprocessing"]["std"], own.reshape(-1, 3).std(0), atol=1e-6)
    repository.set_params(gdrive__supplied={"taskA": {"trees": given | {"weights": "fetched/models/weights/A/data2.pth"}}})
    result = repository.run("dvc", "repro", check=False)
    assert result.returncode != 0
    assert "the weights fetched/models/weights/A/data2.pth do not exist" in result.stderr


# ── By hand ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def only_run(repository: Repository, ending: str) -> Path:
    (found,) = (path for path in (repository.root / "runs").iterdir() if path.name.endswith(ending))
    return found


def test_a_training_by_hand_leaves_the_pipeline_as_it_was(finished: Repository) -> None:
    before, lock = content_of(finished.root / "outputs"), (finished.root / "dvc.lock").read_bytes()
    flags = ("--lr", "0.005", "--temperature", "3.0", "--alpha", "0.25", "--num-epochs", "3", "--views", "1", "--run", "first try")
    output = finished.run("python", "stages/train.py", "--task", "B", *flags).stdout
    assert content_of(finished.root / "outputs") == before
    assert (finished.root / "dvc.lock").read_bytes() == lock
    folder = only_run(finished, "_taskB_first-try")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_taskB_first-try", folder.name)
    student, metrics = read(folder / "student.json"), read(folder / "metrics.json")["taskB"]
    settings = student["settings"]
    assert [settings[name] for name in ("lr", "temperature", "alpha", "num_epochs", "views")] == [0.005, 3.0, 0.25, 3, 1]
    assert settings["batch_size"] == 16, "the others are those of params.yaml"
    named = folder / f"student_model_epoch{student['best_epoch']}_acc{metrics['val_accuracy']:.2f}.pth"
    state = torch.load(named, weights_only=True)
    assert all(name.startswith("backbone.") for name in state)
    assert (folder / "last.safetensors").exists()
    lines = (folder / "training.log").read_text().splitlines()
    assert [line.split("  ")[0] for line in lines] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    with Image.open(folder / "learning_curve.png") as picture:
        assert picture.width > 500
    (run,) = runs_of(finished, "taskB")
    assert run.data.tags["one_off"] == folder.name
    assert run.data.params["lr"] == "0.005"
    assert run.info.run_name.endswith("first try")
    assert f"--checkpoint {named.relative_to(finished.root)}" in output
    assert finished.repro() == set()

    shown = finished.run("python", "stages/evaluate.py", "--task", "B", "--checkpoint", str(named.relative_to(finished.root))).stdout
    assert content_of(finished.root / "outputs") == before
    evaluation = only_run(finished, "_evaluation") / "taskB"
    found = read(evaluation / "results.json")
    assert set(found) >= {"task", "model_path", "overall_accuracy", "per_class_accuracy"}
    assert found["model_path"].endswith(named.name)
    assert named.name in shown
    for picture_name in ("sample_predictions", "responsibility", "learning_curve"):
        assert (evaluation / f"{picture_name}.png").is_file()
    (run,) = runs_of(finished, "taskB")
    assert run.data.metrics["test_accuracy"] == found["overall_accuracy"], "it is added to the run that trained the student"
    assert finished.repro() == set()
    note = run.data.tags["mlflow.note.content"]
    assert "python stages/train.py --task B --lr 0.005" in note
    assert "git checkout" in note


def test_a_history_beside_a_student_that_is_not_its_own_is_not_drawn(finished: Repository) -> None:
    folder = finished.root / "mine"
    folder.mkdir()
    shutil.copyfile(finished.root / "outputs/students/taskB/best.safetensors", folder / "student.safetensors")
    (folder / "history.csv").write_text("epoch,loss\n1,0.5\n")
    finished.run("python", "stages/evaluate.py", "--task", "B", "--checkpoint", "mine/student.safetensors")
    evaluation = only_run(finished, "_evaluation") / "taskB"
    assert (evaluation / "reliability.png").is_file()
    assert not (evaluation / "learning_curve.png").exists()


def test_a_trainings_last_weights_are_known_and_not_taken_for_the_student_that_it_chose(tmp_path: Path) -> None:
    best, last, foreign = (tmp_path / name for name in ("best.safetensors", "last.safetensors", "foreign.pth"))
    for file in (best, last, foreign):
        file.write_bytes(file.name.encode())
    made_of = {"architecture": "MobileNetV3", "classes": ["oak", "elm"], "preprocessing": {"size": [64, 64]}}
    told = {"weights_sha256": sha256_of_file(best), "last_sha256": sha256_of_file(last)} | made_of
    (tmp_path / "student.json").write_text(json.dumps(told))
    assert [is_chosen(sha256_of_file(file), tmp_path) for file in (best, last, foreign)] == [True, False, False]
    assert [own_manifest(file) for file in (best, last, foreign)] == [told, told, {}]


def test_the_same_settings_by_hand_and_in_the_pipeline_give_the_same_student(finished: Repository) -> None:
    finished.run("python", "stages/train.py", "--task", "A")
    folder = only_run(finished, "_taskA")
    assert (folder / "best.safetensors").read_bytes() == (finished.root / "outputs/students/taskA/best.safetensors").read_bytes()
    assert (folder / "history.csv").read_bytes() == (finished.root / "outputs/students/taskA/history.csv").read_bytes()


def test_an_evaluation_by_hand_of_all_tasks(finished: Repository) -> None:
    before = content_of(finished.root / "outputs")
    shown = finished.run("python", "stages/evaluate.py", "--run", "again").stdout
    folder = only_run(finished, "_evaluation_again")
    for task in ("taskA", "taskB"):
        by_hand, pipeline = (read(root / task / "results.json") for root in (folder, finished.root / "outputs/evaluation"))
        assert by_hand == pipeline
        assert task in shown
    assert content_of(finished.root / "outputs") == before


def test_what_a_fitted_target_makes_of_other_teachers_is_left_out(finished: Repository) -> None:
    flags = ("--num_epochs", "1", "--target", "stacked", "--stored_teachers", "all")
    finished.run("python", "stages/train.py", "--task", "A", *flags)
    weights = f"runs/{only_run(finished, '_taskA').name}/best.safetensors"

    def evaluated() -> tuple[str, dict[str, Any]]:
        shown = finished.run("python", "stages/evaluate.py", "--task", "A", "--checkpoint", weights).stdout
        return shown, read(sorted((finished.root / "runs").glob("*_evaluation*"))[-1] / "taskA/results.json")

    shown, found = evaluated()
    assert found["unrouted_teachers_fitted"] is not None
    assert "left out" not in shown
    assert finished.run("python", "stages/evaluate.py", "--task", "A").returncode == 0

    student = finished.root / weights.replace("best.safetensors", "student.json")
    own = read(student)
    assert len(own["taught_by"]) > 1
    student.write_text(json.dumps(own | {"taught_by": dict(reversed(own["taught_by"].items()))}))
    shown, found = evaluated()
    assert "by these in another order" in shown, "what was fitted belongs to their answers side by side"
    assert found["unrouted_teachers_fitted"] is None
    student.write_text(json.dumps(own))

    manifest = next((finished.root / "models/taskA").glob("*/manifest.json"))
    changed = read(manifest)
    changed["preprocessing"]["mean"][0] += 0.1  # the same weights, shown other pixels
    manifest.unlink()  # it may be a link into DVC's cache
    manifest.write_text(json.dumps(changed))
    shown, found = evaluated()
    told = "was taught by other teachers than models/taskA holds, by these in another order, or as they saw other pixels: what they reach"
    assert told in shown
    assert found["unrouted_teachers_fitted"] is None
    refused = finished.run("python", "stages/evaluate.py", "--task", "A", check=False)
    assert refused.returncode != 0
    assert "outputs/students/taskA was taught by other teachers than models/taskA holds" in refused.stderr
    assert "run dvc repro" in refused.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train.py", "--task", "B", "--lr", "fast"), "error: --lr: 'fast' is refused: input should be a valid number"),
        (("train.py", "--task", "B", "--student_model", "VGG"), "error: --student_model: 'VGG' is refused: it should be MobileNetV3"),
        (("train.py", "--task", "Z"), "error: there is no taskZ; the tasks are taskA, taskB"),
        (("train.py", "--task", "B", "--label_fraction", "0.5"), "set stored_teachers to all"),
        (("train.py", "--scheduler_step", "20"), "--scheduler_step has no effect with --scheduler one_cycle; take --scheduler step"),
        (("train.py", "--views", "0", "--view_zoom", "0.5"), "view_zoom 0.5 has no effect with views 0"),
        (("train.py", "--learning_rate", "1"), "unrecognized arguments: --learning_rate"),
        (("evaluate.py", "--checkpoint", "x.pth"), "error: --checkpoint is a student of one task; say which"),
        (("evaluate.py", "--task", "A", "--checkpoint", "x.pth"), "x.pth do not exist"),
        (("evaluate.py", "--task", "Z"), "error: there is no taskZ"),
        (
            ("evaluate.py", "--task", "A", "--checkpoint", "x.pth", "--resolution", "8"),
            "error: --resolution: 8 is refused: Input should be",
        ),
    ],
)
def test_a_mistake_on_the_command_line_is_named_and_leaves_nothing(words: tuple[str, ...], message: str, finished: Repository) -> None:
    script, *flags = words
    result = finished.run("python", f"stages/{script}", *flags, check=False)
    assert result.returncode != 0
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not (finished.root / "runs").exists()


def test_without_images_or_teachers_the_message_says_what_makes_them(finished: Repository) -> None:
    shutil.rmtree(finished.root / "models")
    assert "models/taskB is missing; dvc repro models.dvc" in finished.run("python", "stages/train.py", check=False).stderr
    shutil.rmtree(finished.root / "outputs")
    assert (
        "outputs/prepared/taskB/trainval is missing; dvc repro preprocess" in finished.run("python", "stages/train.py", check=False).stderr
    )


def test_a_training_by_hand_needs_images_and_teachers_that_the_parameters_describe(finished: Repository) -> None:
    finished.set_params(data_seed=7)
    told = finished.run("python", "stages/train.py", check=False)
    assert told.returncode == 1
    assert "outputs/prepared/taskB/trainval was made with data_seed 0, params.yaml says 7; run dvc repro models.dvc" in told.stderr
    brought = {"weights": "first.pt2", "resolution": 32, "mean": [0.5] * 3, "std": [0.5] * 3, "min_accuracy": 70}
    for change, message in (
        ({"teacher__num_epochs": 400}, "teacher models/taskB/first was trained with num_epochs 2, params.yaml says 400"),
        (
            {"folder__tasks__taskB__second": ["blue", "grey"]},
            "outputs/prepared/taskB/trainval was made for other teachers, or other",
        ),
        (
            {"folder__fetch__path": "others"},
            "folder.fetch is not what it was when the pipeline's stage fetch ran last",
        ),
        (
            {"folder__supplied": {"taskB": {"first": brought}}},
            "folder.supplied is not what it was when the pipeline's stage weights ran",
        ),
    ):
        before = (finished.root / "params.yaml").read_text()
        finished.set_params(data_seed=0, **change)
        told = finished.run("python", "stages/train.py", check=False)
        assert message in told.stderr
        (finished.root / "params.yaml").write_text(before)
    finished.repro("preprocess")
    told = finished.run("python", "stages/train.py", check=False)
    assert told.returncode == 1
    assert "teacher models/taskB/first was trained on other images, or another split, than are prepared" in told.stderr
    assert not (finished.root / "runs").exists()


def test_the_reference_protocol_chooses_by_the_test_images_and_says_so(finished: Repository) -> None:
    command = ("python", "stages/train.py", "--protocol", "reference", "--task", "A")
    flags = ("--pretrained", "false", "--student_model", "MobileNetV3", "--num_epochs", "3", "--student_resolution", "32")
    output = finished.run(*command, *flags).stdout
    assert "accuracy on the test images (optimistic)" in output
    folder = only_run(finished, "_taskA")
    student, metrics = read(folder / "student.json"), read(folder / "metrics.json")["taskA"]
    assert student["selected_on"] == "test images (optimistic)"
    assert "val_score" not in (folder / "history.csv").read_text(), "no fewer labels than all choose, and no margin"
    with (folder / "history.csv").open() as file:
        assert metrics["val_accuracy"] == max(float(row["val_accuracy"]) for row in csv.DictReader(file)), "however few images choose"
    assert (student["settings"]["target"], student["settings"]["views"], student["settings"]["alpha"]) == ("mean", 0, 0.1)
    training = np.load(finished.root / "outputs/prepared/taskA/trainval/images.npy") / 255
    np.testing.assert_allclose(student["preprocessing"]["mean"], training.mean((0, 1, 2)), atol=1e-6)
    shown = finished.run("python", "stages/evaluate.py", "--task", "A", "--checkpoint", f"runs/{folder.name}/best.safetensors").stdout
    assert "chosen on test images (optimistic)" in shown
    found = read(only_run(finished, "_evaluation") / "taskA/results.json")
    assert found["overall_accuracy"] == metrics["val_accuracy"], "the accuracy that chose the epoch is the one that is reported"
    (run,) = runs_of(finished, "taskA")
    assert run.data.tags["selected_on"] == "test images (optimistic)"
    assert "| student, test images (optimistic), which chose the epoch |" in run.data.tags["mlflow.note.content"]
    client = MlflowClient(tracking_uri=f"sqlite:///{finished.root / 'mlflow.db'}", registry_uri=f"sqlite:///{finished.root / 'mlflow.db'}")
    assert client.search_registered_models() == [], "it is never champion"


def test_a_training_by_hand_that_was_broken_off_goes_on(finished: Repository) -> None:
    command = [sys.executable, "stages/train.py", "--task", "A", "--num_epochs", "60"]
    process = subprocess.Popen(command, cwd=finished.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    log = finished.root / "runs"
    while process.poll() is None and not any(path.read_text().count("\n") >= 2 for path in log.glob("*/training.log")):
        time.sleep(0.05)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it was killed in mid-training"
    (broken,) = log.iterdir()
    output = finished.run(*command).stdout
    assert re.search(r"goes on after epoch \d+ of 60", output)
    (whole,) = (path for path in log.iterdir() if path != broken and (path / "history.csv").exists())
    assert len((whole / "history.csv").read_text().splitlines()) == 61
    assert len((whole / "training.log").read_text().splitlines()) == 60, "those before the break too"
    (run,) = runs_of(finished, "taskA")
    assert run.info.status == "FINISHED"


def test_help_is_a_good_text(finished: Repository) -> None:
    text = " ".join(finished.run("python", "stages/train.py", "--help").stdout.split())
    assert "Learning rate (the peak under scheduler one_cycle), usually 0.0001 to 0.01." in text
    assert text.index("--lr VALUE") < text.index("--pretrained")
    for name in ("batch_size", "num_epochs", "weight_decay", "temperature", "alpha", "scheduler_step", "scheduler_gamma", "student_model"):
        assert f"--{name} VALUE" in text
    (finished.root / "params.yaml").unlink()
    assert "runs/" in finished.run("python", "stages/evaluate.py", "--help").stdout


def test_a_student_saved_here_is_one_that_the_reference_could_load(finished: Repository) -> None:
    finished.run("python", "stages/train.py", "--task", "A")
    (path,) = only_run(finished, "_taskA").glob("student_model_*.pth")
    network = build_network("MobileNetV3", 4)
    network.load_state_dict(torch.load(path, weights_only=True))
    ours = load_file(path.with_name("best.safetensors"))
    assert all(torch.equal(ours[name], value) for name, value in network.state_dict().items())
