"""The images of the published tables, ``images.zip``: of CIFAR-100 the classes of params.yaml's block ``folder``, as PNG files.

    PYTHONPATH=src:. python benchmarks/photographs.py cifar-100-python.tar.gz images.zip

Reads the archive that CIFAR-100 is published as (torchvision and ``source: cifar100`` name its address), by its MD5. Files are named as the
data set names its images: their order, and so a seed's split, follows from it.
"""

import argparse
import io
import pickle
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import check_integrity

from amalgam.params_file import load_params
from amalgam.whole import new_whole_file

ROOT = Path(__file__).parent.parent
FOLDER = "cifar-100-python"
SIDE = 32


def wanted_classes() -> set[str]:
    tasks = load_params(ROOT / "params.yaml").folder.tasks
    return {name for teachers in tasks.values() for known in teachers.values() for name in known}


def read(archive: tarfile.TarFile, name: str) -> dict[str, Any]:
    """One of the published archive's files; it is a pickle, which the archive's MD5 vouches for."""
    member = archive.extractfile(f"{FOLDER}/{name}")
    assert member
    found: dict[str, Any] = pickle.load(member, encoding="latin1")
    return found


def files(archive: tarfile.TarFile, classes: set[str]) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each image of these classes, by split, class and name."""
    names = read(archive, "meta")["fine_label_names"]
    for split in ("train", "test"):
        part = read(archive, split)
        images = np.asarray(part["data"], np.uint8).reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)
        for label, name, pixels in sorted(zip(part["fine_labels"], part["filenames"], images, strict=True), key=lambda image: image[:2]):
            if names[label] in classes:
                buffer = io.BytesIO()
                Image.fromarray(pixels).save(buffer, "PNG")
                yield f"{split}/{names[label]}/{name}", buffer.getvalue()


def write(source: Path, target: Path, classes: set[str]) -> None:
    """Write the archive of images, whole or not at all. Exits if the source is not the published archive."""
    if not check_integrity(str(source), CIFAR100.tgz_md5):
        raise SystemExit(f"{source} is not the published CIFAR-100 archive (its MD5 is not {CIFAR100.tgz_md5}): {CIFAR100.url} has it")
    with new_whole_file(target) as file, tarfile.open(source) as archive, zipfile.ZipFile(file, "w") as images:
        for name, content in files(archive, classes):
            images.writestr(zipfile.ZipInfo(name), content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="cifar-100-python.tar.gz")
    parser.add_argument("target", type=Path, help="the .zip to write")
    arguments = parser.parse_args()
    write(arguments.source, arguments.target, wanted_classes())


if __name__ == "__main__":
    main()
