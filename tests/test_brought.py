"""Files that become others under the same name."""

import json
import shutil
from pathlib import Path

import pytest

from amalgam.brought import beside, copied_weights, refuse_changed, refuse_emptied, refuse_misplaced, refuse_strays
from amalgam.errors import UserError
from amalgam.files import sha256_of_file
from amalgam.params import Params
from amalgam.params_file import load_params
from amalgam.places import brought_file
from shipped import SHIPPED

TEACHER = """
    taskA:
      low:
        weights: low.pt2
        resolution: 8
        mean: null
        std: null
        min_accuracy: 0
"""
NAMED = {
    "student_weights of taskB": ("start.pth", "weights/taskB/supplied.json", "sha256"),
    "digits.supplied.taskA.low": ("low.pt2", "teachers/taskA/low/manifest.json", "file_sha256"),
    "evaluate.checkpoint.taskA": ("given.pth", "checkpoints/taskA/checkpoint.json", "sha256"),
}


@pytest.fixture
def params(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Settings that name a file of each kind, in a folder where each was copied."""
    monkeypatch.chdir(root)
    text = SHIPPED.replace("  supplied: {}\n", f"  supplied:{TEACHER}", 1)
    text = text.replace("\ntaskB:\n", "\ntaskB:\n  pretrained: true\n  student_weights: start.pth\n")
    (tmp_path / "params.yaml").write_text(text.replace("    taskA: null\n", "    taskA: given.pth\n", 1))
    for file, about, kept in NAMED.values():
        (tmp_path / file).write_text(file)
        (tmp_path / "fetched" / about).parent.mkdir(parents=True)
        (tmp_path / "fetched" / about).write_text(json.dumps({"file": file, kept: sha256_of_file(tmp_path / file)}))
    return load_params(tmp_path / "params.yaml")


def test_what_is_as_it_was_copied_or_gone_is_fine(params: Params, tmp_path: Path) -> None:
    """Each is refused once it is there again as another."""
    refuse_changed(params)
    for file, _, _ in NAMED.values():
        (tmp_path / file).unlink()
    refuse_changed(params)
    for file, _, _ in NAMED.values():
        (tmp_path / file).write_text("new")
        with pytest.raises(UserError, match=file):
            refuse_changed(params)
        (tmp_path / file).unlink()


@pytest.mark.parametrize("what", NAMED)
def test_a_file_that_became_another_is_refused_with_the_remedy(what: str, params: Params, tmp_path: Path) -> None:
    (tmp_path / NAMED[what][0]).write_text("new")
    with pytest.raises(
        UserError, match=f"{what}: .*/{NAMED[what][0]} has changed since it was copied.* dvc repro --force --single-item weights"
    ):
        refuse_changed(params)


def test_before_anything_was_copied_nothing_can_have_changed(params: Params, tmp_path: Path) -> None:
    (tmp_path / "start.pth").write_text("new")
    with pytest.raises(UserError, match=r"start\.pth"):
        refuse_changed(params)
    shutil.rmtree(tmp_path / "fetched")
    refuse_changed(params)


@pytest.mark.parametrize(
    "named",
    [
        "data",
        "data/photos.zip",
        "file://{root}/data/photos.zip",
        "./models/flowers.pth",
        "models/taskA/trees/mine.pth",
        "outputs",
        "outputs/students/taskA/best.safetensors",
        "fetched/photos",
        "models/../data/train",
    ],
)
def test_what_lies_where_the_pipeline_would_remove_it_is_refused(named: str, root: Path) -> None:
    with pytest.raises(UserError, match=r"^folder\.fetch\.path: .* lies in \w+/, which the pipeline empties; copy it elsewhere"):
        refuse_emptied(named.replace("{root}", str(root)), "folder.fetch.path")


def test_the_home_of_nobody_is_refused_by_name(root: Path) -> None:
    for look in (lambda: refuse_emptied("~nobody-here/x.zip", "folder.fetch.path"), lambda: brought_file("~nobody-here/x.zip")):
        with pytest.raises(UserError, match=r"~nobody-here/x\.zip begins with the home of someone who has none here"):
            look()


def test_weights_that_no_stage_has_copied_yet_are_missed_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fetched/weights/taskA").mkdir(parents=True)
    (tmp_path / "fetched/weights/taskA/supplied.json").write_text("null")
    with pytest.raises(
        UserError, match=r"fetched/weights/taskA was copied from no file, params\.yaml says new\.pth; run dvc repro weights"
    ):
        copied_weights("taskA", "new.pth")


def test_what_lies_beside_a_student_counts_too(params: Params, tmp_path: Path) -> None:
    """A student.json that says how it sees images, copied there after it was guessed."""
    about = tmp_path / "fetched/checkpoints/taskA/checkpoint.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"beside": beside(tmp_path / "given.pth")}))
    refuse_changed(params)
    (tmp_path / "student.json").write_text("{}")
    with pytest.raises(UserError, match=r"evaluate\.checkpoint\.taskA: .*/student\.json has changed since it was copied"):
        refuse_changed(params)


@pytest.mark.parametrize(
    "named",
    [
        "photos",
        "photos/data",
        "/elsewhere/data",
        "https://data/x.zip",
        "fetched/models/weights/A/x.pth",
        "models/taskA/trees/weights.safetensors",
    ],
)
def test_what_lies_elsewhere_or_what_the_pipeline_made_may_be_named(named: str, root: Path) -> None:
    refuse_emptied(named, "folder.fetch.path")


def test_every_named_file_is_looked_at(params: Params) -> None:
    refuse_misplaced(params)
    params.evaluate.checkpoint["taskA"] = "models/given.pth"
    with pytest.raises(UserError, match=r"^evaluate\.checkpoint\.taskA: .*models/given\.pth lies in models/"):
        refuse_misplaced(params)


def test_files_of_the_users_in_the_pipelines_folders_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refuse_strays()
    (tmp_path / "models" / "taskA" / "trees").mkdir(parents=True)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / ".DS_Store").touch()
    refuse_strays()
    (tmp_path / "models" / "flowers.pth").touch()
    (tmp_path / "data" / "train").mkdir()
    with pytest.raises(UserError, match=r"^data/train, models/flowers\.pth: the pipeline fills data/ and models/ itself"):
        refuse_strays()
    (tmp_path / "models" / "flowers.pth").unlink()
    (tmp_path / "data" / "dataset.json").touch()
    refuse_strays()
