"""Sources: everything ends in the canonical layout, or in a message that names what is wrong."""

import hashlib
import http.server
import io
import pickle
import re
import shutil
import tarfile
import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from torchvision.datasets import CIFAR100

from amalgam.errors import UserError
from amalgam.sources import cifar100, digits, folder
from amalgam.sources.raw import RawSplit, array_images, read_classes, read_split, write_raw
from archives import GIGABYTE, fetch, files_of, pack_zip
from conftest import COLOURS


def test_what_was_written_is_what_is_read(images_folder: Path, tmp_path: Path) -> None:
    target = fetch(images_folder, tmp_path)
    assert read_classes(target) == sorted(COLOURS)
    split = read_split(target, "test")
    assert len(split.labels) == 4 * len(COLOURS)
    for index, name in enumerate(split.names):
        with Image.open(images_folder / name) as image:
            np.testing.assert_array_equal(split.decode(index), np.asarray(image))
        assert name.split("/")[1] == sorted(COLOURS)[split.labels[index]]


def test_a_relative_path_counts_from_the_root(images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert files_of(fetch(Path(images_folder.name), tmp_path)) == files_of(fetch(images_folder, tmp_path))


def test_a_truncated_image_is_named(images_folder: Path, tmp_path: Path) -> None:
    victim = images_folder / "train" / "blue" / "003.png"
    victim.write_bytes(victim.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"train/blue/003\.png: not a readable image"):
        fetch(images_folder, tmp_path)


def test_all_images_of_a_split_that_cannot_be_read_are_named_at_once(images_folder: Path, tmp_path: Path) -> None:
    for number in range(7):
        for name in ("blue", "green", "red"):
            (images_folder / "train" / name / f"{number:03}.png").write_bytes(b"dark")
    with pytest.raises(UserError) as refused:
        fetch(images_folder, tmp_path)
    lines = str(refused.value).splitlines()
    assert len(lines) == 21
    assert lines[0].startswith("train/blue/000.png: not a readable image")
    assert lines[-1] == "and 1 more of train"


def test_a_file_that_is_no_image_is_named(images_folder: Path, tmp_path: Path) -> None:
    for content, reason in ((b"hello", "none of PNG, JPEG, .*; convert it"), (b"", "the file is empty")):
        (images_folder / "test" / "blue" / "notes.txt").write_bytes(content)
        with pytest.raises(UserError, match=rf"test/blue/notes\.txt: not a readable image \({reason}\); remove or replace it"):
            fetch(images_folder, tmp_path)


def test_a_missing_split_is_named(images_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(images_folder / "test")
    with pytest.raises(UserError, match="has no test images; they must stand at test/<class>/<image>"):
        fetch(images_folder, tmp_path)


def test_a_test_split_is_drawn_from_the_training_images(images_folder: Path, tmp_path: Path) -> None:
    """Of each class the same share; whatever container they come in, and whatever else comes beside them."""
    shutil.rmtree(images_folder / "test")
    drawn = fetch(images_folder, tmp_path, test_fraction=0.25)
    training, test = (read_split(drawn, split) for split in ("train", "test"))
    each = len(list((images_folder / "train/blue").iterdir()))
    assert np.bincount(test.labels).tolist() == [round(each / 4)] * len(COLOURS)
    names = {name.partition("/")[2] for name in test.names}
    assert {name.partition("/")[2] for name in training.names} | names == {
        str(file.relative_to(images_folder / "train")) for file in images_folder.rglob("*.png")
    }
    assert files_of(fetch(pack_zip(images_folder, tmp_path / "images.zip", reverse=True), tmp_path, test_fraction=0.25)) == files_of(drawn)
    (images_folder / "train" / "blue" / "more.png").write_bytes((images_folder / "train" / "red" / "000.png").read_bytes())
    again = {name.partition("/")[2] for name in read_split(fetch(images_folder, tmp_path, test_fraction=0.25), "test").names}
    assert len(names - again) <= 1, "of the new image's class alone one may have moved"


def test_equal_files_fall_to_the_same_side(images_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of one class, and of two."""
    shutil.rmtree(images_folder / "test")
    files = sorted((images_folder / "train" / "blue").iterdir())
    for file in files:
        shutil.copyfile(file, file.with_name(f"again-{file.name}"))
        shutil.copyfile(file, images_folder / "train" / "red" / f"blue-{file.name}")
    for fraction in (0.2, 0.3, 0.5):
        drawn = fetch(images_folder, tmp_path, test_fraction=fraction)
        training, test = ({split.decode(i).tobytes() for i in range(len(split.labels))} for split in splits_of(drawn))
        assert not training & test
    assert "training images too" not in capsys.readouterr().out


def test_what_is_drawn_for_the_test_is_learnt_without_a_label_neither(
    images_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(images_folder / "test")
    (images_folder / "unlabeled").mkdir()
    for file in (images_folder / "train").rglob("*.png"):
        shutil.copyfile(file, images_folder / "unlabeled" / f"{file.parent.name}-{file.name}")
    drawn = fetch(images_folder, tmp_path, test_fraction=0.2)
    splits = [read_split(drawn, split) for split in ("train", "test", "unlabeled")]
    training, test, unlabeled = ({split.decode(i).tobytes() for i in range(len(split.labels))} for split in splits)
    assert training == unlabeled
    assert not test & unlabeled
    said = capsys.readouterr().out
    assert f": {len(splits[1].labels)} images of unlabeled/ are left out: they equal images drawn for the test" in said
    assert "training images too" not in said


def test_a_class_of_copies_leaves_nothing_to_train_on(images_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(images_folder / "test")
    first, *others = sorted((images_folder / "train" / "blue").iterdir())
    for file in others:
        shutil.copyfile(first, file)
    with pytest.raises(UserError, match=r"of blue no image is left to train on: all \d+ equal one that folder\.fetch\.test_fraction draws"):
        fetch(images_folder, tmp_path, test_fraction=0.2)


def test_copies_among_the_training_images_are_told(images_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One may be held out and another learnt."""
    for number in range(7):
        shutil.copyfile(images_folder / "train" / "blue" / "000.png", images_folder / "train" / "blue" / f"x{number}.png")
    fetch(images_folder, tmp_path)
    said = capsys.readouterr().out
    pairs = r"(train/blue/\w+\.png = train/blue/\w+\.png(, )?){5}"
    assert re.search(rf": 7 of the training images are copies of others, byte for byte, as {pairs} and 2 more; where one is held out", said)


def splits_of(folder: Path) -> list[RawSplit]:
    return [read_split(folder, split) for split in ("train", "test")]


@pytest.mark.parametrize("place", ["train/red", "unlabeled"])
def test_test_images_that_are_learnt_from_are_told(
    place: str, images_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(images_folder, tmp_path)
    assert "training images too" not in capsys.readouterr().out
    (images_folder / place).mkdir(exist_ok=True)
    shutil.copyfile(images_folder / "test" / "blue" / "000.png", images_folder / place / "copy.png")
    fetch(images_folder, tmp_path)
    said = capsys.readouterr().out
    assert f": 1 of the test images are training images too, byte for byte, as test/blue/000.png = {place}/copy.png; " in said


def test_links_to_nothing_are_named_all_at_once(images_folder: Path, tmp_path: Path) -> None:
    """Folders that are hidden, or no user's, are not entered, whoever may."""
    for hidden in (".snapshot", "lost+found"):
        (images_folder / hidden).mkdir(mode=0)
    fetch(images_folder, tmp_path)
    for name in ("a", "b"):
        (images_folder / "train" / "red" / f"{name}.png").symlink_to("gone.png")
    with pytest.raises(UserError, match=r"train/red/a\.png → gone\.png, train/red/b\.png → gone\.png: links to nothing, or no files; mend"):
        fetch(images_folder, tmp_path)


def test_a_test_split_is_not_drawn_beside_another(images_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folder\.fetch\.test_fraction is 0\.2, but \S+ has test images of its own; set it to null"):
        fetch(images_folder, tmp_path, test_fraction=0.2)


def test_of_one_image_no_test_is_drawn(images_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(images_folder / "test")
    for file in sorted((images_folder / "train" / "blue").iterdir())[1:]:
        file.unlink()
    with pytest.raises(UserError, match=r"blue has one image in train/, and folder\.fetch\.test_fraction needs two of a class"):
        fetch(images_folder, tmp_path, test_fraction=0.5)


@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_a_class_without_images_in_one_split_is_named(images_folder: Path, tmp_path: Path, split: str, other: str) -> None:
    for file in (images_folder / split / "green").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=f"no {split} images of green"):
        fetch(images_folder, tmp_path)


def test_images_outside_a_class_are_named(images_folder: Path, tmp_path: Path) -> None:
    shutil.copyfile(images_folder / "train" / "red" / "000.png", images_folder / "train" / "stray.png")
    with pytest.raises(UserError, match=r"train/stray\.png' belongs to no class"):
        fetch(images_folder, tmp_path)


@pytest.mark.parametrize("spelled", ["unlabelled", "Unlabeled"])
def test_a_folder_that_would_be_left_out_for_its_spelling_is_named(spelled: str, images_folder: Path, tmp_path: Path) -> None:
    (images_folder / spelled).mkdir()
    shutil.copyfile(images_folder / "train" / "red" / "000.png", images_folder / spelled / "a.png")
    with pytest.raises(UserError, match=f"{spelled}/a.png' would be left out: images without label stand in unlabeled/, so spelled"):
        fetch(images_folder, tmp_path)


@pytest.mark.parametrize("spelled", ["Train", "TEST"])
def test_a_split_in_other_letters_is_named_and_not_left_out(spelled: str, images_folder: Path, tmp_path: Path) -> None:
    """Above all where images without label would stand in for those of train."""
    (images_folder / "unlabeled").mkdir()
    shutil.copyfile(images_folder / "train" / "red" / "000.png", images_folder / "unlabeled" / "a.png")
    (images_folder / spelled.lower()).rename(images_folder / "moved")
    (images_folder / "moved").rename(images_folder / spelled)
    with pytest.raises(UserError, match=f"'{spelled}/.*' would be left out: images stand in {spelled.lower()}/<class>/, so spelled"):
        fetch(images_folder, tmp_path)


@pytest.mark.parametrize("name", ["val", "Validation"])
def test_a_folder_of_validation_images_is_said_not_to_be_read(
    name: str, images_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images_folder / "test", images_folder / name)
    fetch(images_folder, tmp_path)
    count = sum(1 for path in (images_folder / name).rglob("*") if path.is_file())
    assert (
        f"{count} files below val or valid or validation are not read; validation images are drawn from train/" in capsys.readouterr().out
    )


def test_class_names_are_the_same_however_their_letters_are_composed(images_folder: Path, tmp_path: Path) -> None:
    """As archives packed on a Mac have them, decomposed."""
    for split in ("train", "test"):
        (images_folder / split / "red").rename(images_folder / split / unicodedata.normalize("NFD", "café"))
    assert unicodedata.normalize("NFC", "café") in read_classes(fetch(images_folder, tmp_path))


def test_names_of_images_are_the_same_however_their_letters_are_composed(images_folder: Path, tmp_path: Path) -> None:
    """They say in which order images stand, and so which are held out."""
    found = []
    for form in ("NFC", "NFD"):
        folder = tmp_path / form
        shutil.copytree(images_folder, folder)
        for number, file in enumerate(sorted((folder / "train" / "red").iterdir())):
            file.rename(file.with_name(unicodedata.normalize(form, f"{'eéz'[number % 3]}{number}.png")))
        found.append(files_of(fetch(folder, tmp_path)))
    assert found[0] == found[1]


@pytest.mark.parametrize("where", ["fold2", ".", "fold1/old"])
def test_several_data_sets_in_one_archive_are_refused(where: str, images_folder: Path, tmp_path: Path) -> None:
    """Of cross-validation's folds, one's test images are another's training images."""
    both = tmp_path / "both"
    for name in ("fold1", where):
        shutil.copytree(images_folder, both / name, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"both holds several data sets: '.*' and '.*' stand in .* of different folders"):
        fetch(both, tmp_path)


def test_images_too_deep_are_named(images_folder: Path, tmp_path: Path) -> None:
    (images_folder / "train" / "red" / "more").mkdir()
    shutil.copyfile(images_folder / "train" / "red" / "000.png", images_folder / "train" / "red" / "more" / "a.png")
    with pytest.raises(UserError, match=r"train/red/more/a\.png' lies too deep"):
        fetch(images_folder, tmp_path)


def test_a_path_must_be_set_and_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs folder\.fetch\.path"):
        folder.fetch(tmp_path, tmp_path, None, None, GIGABYTE)
    with pytest.raises(UserError, match="nowhere does not exist"):
        folder.fetch(tmp_path, tmp_path, "nowhere", None, GIGABYTE)


def test_the_digits_are_all_there_split_and_stratified(tmp_path: Path) -> None:
    digits.fetch(tmp_path, 0.2)
    train, test = read_split(tmp_path, "train"), read_split(tmp_path, "test")
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    seen = sorted(part.decode(i)[..., 0].tobytes() for part in (train, test) for i in range(len(part.labels)))
    assert seen == sorted(np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images)
    assert np.bincount(test.labels).min() >= 34


def test_a_class_without_images_is_never_written(tmp_path: Path) -> None:
    images = array_images(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 0]), "x")
    with pytest.raises(UserError, match="no train images of b"):
        write_raw(tmp_path, "array", ["a", "b"], {"train": images, "test": images})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which it is served."""
    served = tmp_path / "served"
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(served))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield served, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def published_layout(served: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """The pixels of an archive laid out as the published one, two images a split, whose hashes torchvision is told to expect."""
    random = np.random.default_rng(0)
    pixels = {name: random.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8) for name in ("train", "test")}
    contents = {name: pickle.dumps({"data": images.reshape(2, -1), "fine_labels": [1, 0]}) for name, images in pixels.items()} | {
        "meta": pickle.dumps({"fine_label_names": ["apple", "bear"]})
    }
    with tarfile.open(served / "c.tar.gz", "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5((served / "c.tar.gz").read_bytes()).hexdigest())
    monkeypatch.setattr(CIFAR100, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]})
    return {name: images.transpose(0, 2, 3, 1) for name, images in pixels.items()}


def test_cifar100_is_downloaded_checked_and_written(server: tuple[Path, str], root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once: it is kept."""
    served, address = server
    expected = published_layout(served, monkeypatch)
    target = root / "raw"
    cifar100.fetch(target, root, f"{address}/c.tar.gz")
    (served / "c.tar.gz").unlink()
    cifar100.fetch(root / "again", root, f"{address}/c.tar.gz")
    assert files_of(root / "again") == files_of(target)
    assert read_classes(target) == ["apple", "bear"]
    for name, images in expected.items():
        split = read_split(target, name)
        np.testing.assert_array_equal(split.labels, [0, 1])
        np.testing.assert_array_equal([split.decode(row) for row in range(2)], images[::-1])  # by class: the second image is the apple


def test_another_archive_is_not_cifar100(server: tuple[Path, str], root: Path) -> None:
    served, address = server
    (served / "c.tar.gz").write_bytes(b"another archive")
    with pytest.raises(UserError, match=r"is not the published CIFAR-100 archive .*; remove \S+file to have it fetched anew, or correct"):
        cifar100.fetch(root / "raw", root, f"{address}/c.tar.gz")


def test_without_network_cifar100_says_what_to_do(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amalgam.sources.download.RETRIES", 0)
    with pytest.raises(UserError, match=r"^cifar100\.fetch\.url: http://127\.0\.0\.1:9/x cannot be fetched .* set cifar\S+ to file://"):
        cifar100.fetch(root / "raw", root, "http://127.0.0.1:9/x")
