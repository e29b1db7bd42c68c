"""``source: cifar100``: the 100 classes of CIFAR-100, 32 × 32 pixels, by torchvision's checked download."""

from pathlib import Path
from urllib.error import URLError

import numpy as np
from torchvision.datasets import CIFAR100

from amalgam.errors import UserError
from amalgam.files import scratch_folder
from amalgam.sources.raw import array_images, write_raw


class Download(CIFAR100):
    """CIFAR-100 from a given address; torchvision checks the archive's and each file's MD5 before it unpickles anything."""

    def __init__(self, root: Path, train: bool, url: str) -> None:
        self.url = url
        super().__init__(root=root, train=train, download=True)


def fetch(folder: Path, url: str) -> None:
    """Download, check and write CIFAR-100.

    Raises UserError if the address cannot be reached or what lies there is not CIFAR-100.
    """
    with scratch_folder(folder) as scratch:
        try:
            parts = {"train": Download(scratch, True, url), "test": Download(scratch, False, url)}
        except (URLError, TimeoutError, ConnectionError) as error:
            raise UserError(
                f"cannot download CIFAR-100 from {url} ({error}); check the network, or download it elsewhere and set "
                f"cifar100.fetch.url to file:///path/to/{CIFAR100.filename}"
            ) from error
        except RuntimeError as error:  # torchvision's word for a wrong hash
            raise UserError(
                f"what came from {url} is not the published CIFAR-100 archive ({error}); if the transfer broke off, repeat the command, "
                "else correct cifar100.fetch.url"
            ) from error
        splits = {name: array_images(part.data, np.array(part.targets), name) for name, part in parts.items()}
        write_raw(folder, "cifar100", parts["train"].classes, splits)
