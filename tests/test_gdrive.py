"""``source: gdrive``: the published layout gives the documented tasks; what can go wrong on the way ends in a message that helps."""

import hashlib
import os
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from amalgam.dataset import LabelSets
from amalgam.errors import UserError
from amalgam.params_file import load_params
from amalgam.sources import gdrive
from amalgam.sources.arrays import read_images
from amalgam.sources.download import obtain
from amalgam.sources.raw import read_classes, read_split
from amalgam.sources.seam import OVERLAP
from conftest import ROOT
from fake_drive import (
    STUDENT,
    TASK_A,
    TASK_B,
    TEACHER,
    Server,
    data_files,
    drive_certificate,
    model_files,
    pictures,
    saved,
    serving,
    write_zip,
)

GIGABYTE = 10**9
DRIVE = "https://drive.google.com/file/d/12KVxl9n577vwoZ1WPn6U70jD37_UA0y-/view"
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def own_store(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root))  # gdown keeps cookies there


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_zip(tmp_path_factory.mktemp("published") / "data.zip", data_files())


def fetch(archive: Path, tmp_path: Path) -> Path:
    target = tmp_path / "raw"
    target.mkdir()
    gdrive.fetch(target, archive, GIGABYTE)
    return target


def test_the_tasks_are_the_documented_ones(archive: Path, tmp_path: Path) -> None:
    classes = read_classes(fetch(archive, tmp_path))
    tasks = load_params(ROOT / "params.yaml").gdrive.tasks
    a, b = (LabelSets.of_task(tasks[task], classes, "gdrive", task) for task in ("taskA", "taskB"))
    assert b.classes == (
        *("African_elephant", "hyena", "zebra", "collie", "golden_retriever", "boxer"),
        *("patas", "baboon", "Arctic_fox", "Chihuahua", "lynx", "African_hunting_dog"),
    )
    assert [set(b.columns(name)) for name in b.teachers] == [{1, 7, 8, 9, 10}, {0, 1, 2, 6, 11}, {3, 4, 5, 9, 11}]
    assert a.classes == (
        *("apple", "maple_tree", "mushroom", "oak_tree", "orange", "orchid", "palm_tree", "pear", "pine_tree"),
        *("poppy", "rose", "sunflower", "sweet_pepper", "tulip", "willow_tree"),
    )
    for sets, numbered, task in ((a, TASK_A, "TaskA"), (b, TASK_B, "TaskB")):
        for (name, known), numbers in zip(sets.teachers.items(), numbered.values(), strict=True):
            assert set(known) == {gdrive.CLASSES[task][number] for number in numbers}, name
        assert list(gdrive.CLASSES[task]) == sorted(gdrive.CLASSES[task])


def test_a_shared_class_keeps_the_first_teachers_copy_alone(archive: Path, tmp_path: Path) -> None:
    raw = fetch(archive, tmp_path)
    classes = read_classes(raw)
    for split, each in (("train", 10), ("test", 3)):
        found = read_split(raw, split)
        assert np.bincount(found.labels).tolist() == [each] * 27
        copies = {
            name: {int(found.decode(i)[0, 0, 0]) for i in np.flatnonzero(found.labels == label).tolist()}
            for label, name in enumerate(classes)
        }
        assert copies["hyena"] == copies["Chihuahua"] == {1}
        assert copies["African_hunting_dog"] == {2}
        assert copies["collie"] == copies["apple"] == {3}


def test_pixels_arrive_unchanged_at_native_size(archive: Path, tmp_path: Path) -> None:
    found = read_split(fetch(archive, tmp_path), "test")
    apples = pictures(TASK_A[3], 3, 32, 3, 3)[0][:3]
    np.testing.assert_array_equal([found.decode(row) for row in range(3)], apples)
    assert found.decode(0).shape == (32, 32, 3)
    assert found.decode(len(found.labels) - 1).shape == (64, 64, 3)


def test_an_unpacked_folder_and_a_wrapped_archive_are_the_same(archive: Path, tmp_path: Path) -> None:
    expected = read_split(fetch(archive, tmp_path), "train").blob.tobytes()
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(tmp_path / "unpacked")
    for number, other in enumerate(
        (tmp_path / "unpacked", write_zip(tmp_path / "w.zip", {f"a/b/{k}": v for k, v in data_files().items()}))
    ):
        gdrive.fetch(tmp_path / f"again{number}", other, GIGABYTE)
        assert read_split(tmp_path / f"again{number}", "train").blob.tobytes() == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("data/TaskB/val_dataB_model_3.pth"), "lacks 1 of the 12 files of images, as the test images of TaskB's"),
        (lambda files: files.update({"x/TaskB/train_dataB_model_1.pth": b""}), "two files of the same images"),
        (
            lambda files: files.update({"data/TaskB/train_dataB_model_1.pth": saved({"data": PIXELS, "labels": [1, 2, 3, 4]})}),
            "TaskB has no class of the number 1, 2, 3, 4; it has 24 (African_elephant)",
        ),
        (lambda files: files.update({"data/TaskB/train_dataB_model_1.pth": b"garbage"}), "TaskB/train_dataB_model_1.pth is damaged"),
        (lambda files: files.update({"../outside": b"x"}), "points outside the archive"),
    ],
)
def test_an_archive_of_another_layout_is_refused_by_name(change, message: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    files = data_files(2, 1)
    change(files)
    with pytest.raises(UserError, match=re.escape(message)):
        fetch(write_zip(tmp_path / "data.zip", files), tmp_path)


def test_what_unpacks_to_too_much_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unpacks to more than 1e-05 GB; raise gdrive\.fetch\.max_gigabytes"):
        gdrive.fetch(tmp_path / "raw", archive, 10_000)
    with pytest.raises(UserError, match=r"gdrive\.fetch\.max_gigabytes"):
        gdrive.fetch_weights(tmp_path / "weights", write_zip(tmp_path / "models.zip", model_files()), 10_000)


# ── Files of images ──────────────────────────────────────────────────────────────────────────────────────────────────


def images_of(content: object, tmp_path: Path) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    (tmp_path / "images.pth").write_bytes(saved(content))
    return read_images(tmp_path / "images.pth", "images.pth")


FIRST = PIXELS.transpose(0, 3, 1, 2)


@pytest.mark.parametrize(
    "data",
    [
        *(PIXELS, FIRST, PIXELS.astype(np.int64), PIXELS.astype(np.float32), PIXELS / 255, (FIRST / 255).astype(np.float32)),
        *(torch.from_numpy(PIXELS.copy()), torch.from_numpy(FIRST.copy()), torch.from_numpy(PIXELS.copy()) / 255),
    ],
)
@pytest.mark.parametrize("labels", [[5, 6, 7, 5], np.array([5, 6, 7, 5]), torch.tensor([5, 6, 7, 5]), list(np.array([5, 6, 7, 5]))])
def test_either_kind_of_file_is_read(data: object, labels: object, tmp_path: Path) -> None:
    pixels, numbers = images_of({"data": data, "labels": labels, "indices": [0, 1, 2, 3]}, tmp_path)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, PIXELS)
    np.testing.assert_array_equal(numbers, [5, 6, 7, 5])


def test_files_of_older_versions_of_numpy_and_torch_are_read(tmp_path: Path) -> None:
    old = pickle.dumps({"data": FIRST, "labels": [np.int64(1), np.int64(2), 3, 4]}, protocol=2).replace(b"numpy._core", b"numpy.core")
    buffer = saved(0)
    with zipfile.ZipFile(tmp_path / "images.pth", "w") as new, zipfile.ZipFile(__import__("io").BytesIO(buffer)) as given:
        for name in given.namelist():
            new.writestr(name, old if name.endswith("/data.pkl") else given.read(name))
    pixels, labels = read_images(tmp_path / "images.pth", "images.pth")
    np.testing.assert_array_equal(pixels, PIXELS)
    assert labels.tolist() == [1, 2, 3, 4]
    torch.save({"data": FIRST, "labels": [1, 2, 3, 4]}, tmp_path / "legacy.pth", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_images(tmp_path / "legacy.pth", "legacy.pth")[0], PIXELS)


@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (np.zeros((4, 3, 5, 3), np.uint8), [0] * 4, "both could be the 3 colours"),
        (np.zeros((4, 1, 5, 5), np.uint8), [0] * 4, "none is the 3 colours"),
        (np.zeros((4, 5), np.uint8), [0] * 4, "must be images of 3 colours"),
        (torch.zeros((0, 3, 5, 5)), [], "must be images of 3 colours"),
        (PIXELS / 128.0 - 1, [0] * 4, "not normalised"),
        (PIXELS * np.float32("nan"), [0] * 4, "not normalised"),
        (PIXELS.astype(np.int16) + 200, [0] * 4, "they must be 0 … 255"),
        (PIXELS, [0] * 3, "4 images and 3 labels"),
        (PIXELS, [0.5] * 4, "labels must be one row of whole numbers"),
        (PIXELS, np.zeros((4, 2), int), "labels must be one row of whole numbers"),
        ("text", [0] * 4, "neither an array nor a tensor"),
        (np.array([b"x"] * 4), [0] * 4, "holds more than arrays and numbers"),
    ],
)
def test_what_can_be_read_in_two_ways_or_none_is_refused(data: object, labels: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        images_of({"data": data, "labels": labels}, tmp_path)


def test_a_file_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no dict of images, 'data', and 'labels'"):
        images_of({"data": PIXELS}, tmp_path)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch was-run",)


@pytest.mark.parametrize("place", ["data", "labels", "indices"])
def test_a_pickle_that_would_run_code_is_refused_and_runs_none(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"data": PIXELS, "labels": [0] * 4, "indices": [0] * 4, place: Malicious()}
    with pytest.raises(UserError, match=r"images\.pth is damaged, or holds more than arrays and numbers, which could run code"):
        images_of(content, tmp_path)
    (tmp_path / "array.pth").write_bytes(saved({"data": np.array([Malicious()], dtype=object), "labels": [0]}))
    with pytest.raises(UserError, match="could run code"):
        read_images(tmp_path / "array.pth", "array.pth")
    (tmp_path / "data.zip").unlink(missing_ok=True)
    bad = write_zip(tmp_path / "models.zip", {STUDENT: saved({"weight": torch.zeros(1), "x": Malicious()})})
    with pytest.raises(UserError, match="is damaged, or holds more than weights"):
        gdrive.fetch_weights(tmp_path / "weights", bad, GIGABYTE)
    assert not (tmp_path / "was-run").exists()


# ── Weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_published_weights_are_copied_as_they_are(tmp_path: Path) -> None:
    files = model_files()
    archive = write_zip(tmp_path / "models.zip", {f"published/{name}": content for name, content in files.items()} | {"README.md": b"x"})
    assert [str(place) for place in gdrive.fetch_weights(tmp_path / "models", archive, GIGABYTE)] == [STUDENT, TEACHER]
    for name, content in files.items():
        assert (tmp_path / "models" / name).read_bytes() == content


def test_two_weights_of_one_place_are_refused(tmp_path: Path) -> None:
    files = {f"{folder}/{name}": content for folder in ("old", "new") for name, content in model_files().items()}
    with pytest.raises(UserError, match="twice, the second time as new/"):
        gdrive.fetch_weights(tmp_path / "models", write_zip(tmp_path / "models.zip", files), GIGABYTE)


def test_an_archive_without_weights_is_refused(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no weights below best_models/ or weights/"):
        gdrive.fetch_weights(tmp_path, archive, GIGABYTE)


# ── The way here ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(os.urandom(3_000_000)) as found:
        yield found


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Google Drive's hosts as this machine emulates them: gdown reaches them through a proxy, over TLS."""
    tls, authority = drive_certificate(tmp_path)
    with serving(os.urandom(100_000), tls) as found:
        monkeypatch.setenv("HTTPS_PROXY", found.address.removesuffix("/published.zip"))
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority))
        yield found


def got(address: str, tmp_path: Path, sha256: str | None = None) -> Path:
    return obtain(address, sha256, tmp_path, "gdrive.fetch.data")


def test_a_file_comes_once_and_its_hash_is_told(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = got(server.address, tmp_path)
    assert path.read_bytes() == server.content
    found = hashlib.sha256(server.content).hexdigest()
    assert f"under gdrive.fetch:\n  data_sha256: {found}\n" in capsys.readouterr().out
    assert got(server.address, tmp_path, found) == path
    assert capsys.readouterr().out == ""
    assert len(server.requests) == 1
    with pytest.raises(UserError, match=f"has the sha256 {found}, but gdrive.fetch.data_sha256 is {'0' * 64}.*; remove {path} to have it"):
        got(server.address, tmp_path, "0" * 64)


def test_a_path_is_as_good_as_an_address(tmp_path: Path) -> None:
    (tmp_path / "my data.zip").write_bytes(b"content")
    for named in ("my data.zip", str(tmp_path / "my data.zip"), (tmp_path / "my data.zip").as_uri()):
        assert got(named, tmp_path) == tmp_path / "my data.zip"
    with pytest.raises(UserError, match=r"gdrive\.fetch\.data: .*nothing\.zip does not exist"):
        got("nothing.zip", tmp_path)


def test_a_transfer_that_breaks_off_goes_on(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amalgam.sources.download.RETRIES", 0)
    server.behaviour = "breaks off"
    with pytest.raises(UserError, match=r"did not come whole.* bytes are kept, repeat the command to go on"):
        got(server.address, tmp_path)
    with pytest.raises(UserError, match="1,507,328 bytes are kept"):
        got(server.address, tmp_path)
    server.behaviour = "well"
    assert got(server.address, tmp_path).read_bytes() == server.content
    assert server.requests[-1][1] == f"bytes={1_507_328 - OVERLAP}-", "it asked for the rest, and a little that has to be the same"
    assert [path.name for path in (tmp_path / ".amalgam" / "downloads").glob("*/*")] == ["file"]


def test_a_break_within_one_command_is_bridged(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amalgam.sources.download.RETRIES", 1)
    server.behaviour = "breaks off"
    with pytest.raises(UserError, match="1,572,864 bytes are kept"):
        got(server.address, tmp_path)
    assert [asked for _, asked in server.requests] == [None, "bytes=1048576-"]


def test_where_a_server_cannot_go_on_the_transfer_begins_anew(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amalgam.sources.download.RETRIES", 0)
    server.behaviour = "breaks off"
    with pytest.raises(UserError):
        got(server.address, tmp_path)
    server.behaviour = "no ranges"
    assert got(server.address, tmp_path).read_bytes() == server.content


@pytest.mark.parametrize("behaviour", ["no ranges", "well"])
@pytest.mark.parametrize("size", [500_000, 2_000_000, 3_000_000])
def test_another_file_at_the_same_address_is_never_spliced_on(
    behaviour: str, size: int, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amalgam.sources.download.RETRIES", 0)
    server.behaviour = "breaks off"
    with pytest.raises(UserError):
        got(server.address, tmp_path)
    server.behaviour, server.content = behaviour, os.urandom(size)
    assert got(server.address, tmp_path).read_bytes() == server.content


def test_another_file_is_noticed_also_where_its_transfer_broke_off_too(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amalgam.sources.download.RETRIES", 0)
    server.behaviour = "breaks off"
    with pytest.raises(UserError):
        got(server.address, tmp_path)
    server.content = os.urandom(2_000_000)
    with pytest.raises(UserError):
        got(server.address, tmp_path)
    server.behaviour = "well"
    assert got(server.address, tmp_path).read_bytes() == server.content


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [("missing", "answers 404.*fetch it by hand"), ("web page", "gave a web page instead of an archive; is it the address of the file")],
)
def test_what_a_web_server_says_instead(behaviour: str, message: str, server: Server, tmp_path: Path) -> None:
    server.behaviour = behaviour
    with pytest.raises(UserError, match=f"gdrive.fetch.data: {server.address} {message}.*set gdrive.fetch.data to file:///path/of/it"):
        got(server.address, tmp_path)
    server.behaviour = "well"
    assert got(server.address, tmp_path).read_bytes() == server.content, "nothing of the wrong answer was kept"


def test_what_is_kept_goes_when_its_successor_has_come(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As make refetch asks for."""
    before, server.content = got(server.address, tmp_path).read_bytes(), os.urandom(1000)
    assert got(server.address, tmp_path).read_bytes() == before
    monkeypatch.setenv("AMALGAM_REFETCH", "1")
    server.behaviour = "missing"
    with pytest.raises(UserError):
        got(server.address, tmp_path)
    monkeypatch.delenv("AMALGAM_REFETCH")
    assert got(server.address, tmp_path).read_bytes() == before
    monkeypatch.setenv("AMALGAM_REFETCH", "1")
    server.behaviour = "well"
    assert got(server.address, tmp_path).read_bytes() == server.content


def test_no_message_holds_an_addresss_password(server: Server, tmp_path: Path) -> None:
    server.behaviour = "missing"
    with pytest.raises(UserError, match=r"gdrive\.fetch\.data: http://127") as error:
        got(server.address.replace("http://", "http://me:secret@"), tmp_path)
    assert "secret" not in str(error.value)


def test_without_a_network_the_message_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amalgam.sources.download.RETRIES", 0)
    with serving(b"") as gone:
        address = gone.address
    with pytest.raises(UserError, match=r"cannot be fetched \(.*refused.*; check the address and the network, or fetch it by hand"):
        got(address, tmp_path)


@pytest.mark.parametrize("behaviour", ["well", "confirm"])
def test_a_link_to_google_drive_is_followed(behaviour: str, drive: Server, tmp_path: Path) -> None:
    drive.behaviour = behaviour
    assert got(DRIVE, tmp_path).read_bytes() == drive.content
    assert drive.requests[0][0].endswith("/uc?id=12KVxl9n577vwoZ1WPn6U70jD37_UA0y-")


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("quota", "does not hand out .*Too many users have viewed or downloaded this file recently.*try again tomorrow"),
        ("web page", "does not hand out .*is not shared with everyone"),
        ("forbidden", "(answers 403|does not hand out)"),
        ("missing", "(answers 404|does not hand out)"),
    ],
)
def test_what_google_drive_says_instead(behaviour: str, message: str, drive: Server, tmp_path: Path) -> None:
    drive.behaviour = behaviour
    with pytest.raises(UserError, match=f"{message}.*fetch it by hand, with a browser say, and set gdrive.fetch.data"):
        got(DRIVE, tmp_path)
