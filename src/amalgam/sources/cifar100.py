"""``source: cifar100``: the 100 classes of CIFAR-100, 32 × 32 pixels, read by torchvision."""

from pathlib import Path

import numpy as np
from torchvision.datasets import CIFAR100
from torchvision.datasets.utils import check_integrity

from amalgam.errors import UserError
from amalgam.sources.download import is_remote, reach
from amalgam.sources.raw import array_images, write_raw
from amalgam.whole import scratch_folder


def fetch(folder: Path, root: Path, url: str) -> None:
    """Bring, check and write CIFAR-100; nothing of the archive is read, and unpickled, but under its published MD5.

    Raises UserError if the address cannot be reached or what lies there is not CIFAR-100.
    """
    archive = reach(url, root, "cifar100.fetch.url").resolve()
    if not check_integrity(str(archive), CIFAR100.tgz_md5):
        remedy = f"remove {archive} to have it fetched anew, or correct" if is_remote(url) else "correct"
        raise UserError(f"{url} is not the published CIFAR-100 archive (its MD5 is not {CIFAR100.tgz_md5}); {remedy} cifar100.fetch.url")
    with scratch_folder(folder / "unpacked") as scratch:
        (scratch / CIFAR100.filename).symlink_to(archive)  # where torchvision looks before it downloads anything
        parts = {name: CIFAR100(scratch, train=name == "train", download=True) for name in ("train", "test")}
        splits = {name: array_images(part.data, np.array(part.targets), name) for name, part in parts.items()}
        write_raw(folder, "cifar100", parts["train"].classes, splits)
