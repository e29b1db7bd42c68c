"""The published tables' images, from the archive that CIFAR-100 is published as."""

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from benchmarks import photographs
from torchvision.datasets import CIFAR100

from amalgam.sources import folder
from amalgam.sources.raw import read_classes, read_split


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, np.ndarray]:
    """An archive laid out as the published one, four images a split, which counts as it; and the pixels (2, 4, 32, 32, 3) of both."""
    pixels = np.random.default_rng(0).integers(0, 256, (2, 4, 3, 32, 32), dtype=np.uint8)
    names = {
        "fine_labels": [1, 0, 1, 2],
        "filenames": ["bear_2.png", "apple_1.png", "bear_1.png", "cup_1.png"],
    }
    train, test = ({"data": images.reshape(4, -1)} | names for images in pixels)
    contents = {"train": train, "test": test, "meta": {"fine_label_names": ["apple", "bear", "cup"]}}
    path = tmp_path / "cifar-100-python.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(pickled := pickle.dumps(content))
            archive.addfile(info, io.BytesIO(pickled))
    monkeypatch.setattr(CIFAR100, "tgz_md5", hashlib.md5(path.read_bytes()).hexdigest())
    return path, pixels.transpose(0, 1, 3, 4, 2)


def test_chosen_classes_are_images_that_the_source_folder_reads(published: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    path, pixels = published
    photographs.write(path, tmp_path / "images.zip", {"apple", "bear"})
    folder.fetch(tmp_path / "raw", tmp_path, "images.zip", None, 1_000_000)
    assert read_classes(tmp_path / "raw") == ["apple", "bear"]
    for split, images in zip(("train", "test"), pixels, strict=True):
        found = read_split(tmp_path / "raw", split)
        assert found.labels.tolist() == [0, 1, 1]
        assert [Path(name).name for name in found.names] == ["apple_1.png", "bear_1.png", "bear_2.png"]
        np.testing.assert_array_equal([found.decode(row) for row in range(3)], images[[1, 2, 0]])


def test_another_archive_is_refused_before_it_is_read(published: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    published[0].write_bytes(b"another")
    with pytest.raises(SystemExit, match="is not the published CIFAR-100 archive"):
        photographs.write(published[0], tmp_path / "images.zip", {"apple"})
    assert not (tmp_path / "images.zip").exists()


def test_classes_are_those_of_both_tasks() -> None:
    assert len(photographs.wanted_classes()) == 27
