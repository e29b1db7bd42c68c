"""The classifier: a network together with its classes and its own preprocessing; in memory and on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_file, whole_file, write_json
from amalgam.networks import PROGRAM, build_network, precision_of, pretrained_statistics
from amalgam.programs import read_program
from amalgam.views import Images

STATISTICS_PIXELS = 1 << 20  # at a time
ENLARGED_BY_PRODUCTS = 64  # side in pixels up to which that is the faster way


@dataclass(frozen=True)
class Preprocessing:
    """From stored pixels to a network's input."""

    size: tuple[int, int]  # (height, width) in pixels
    mean: tuple[float, float, float]  # of pixels scaled to 0 … 1
    std: tuple[float, float, float]

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float (B, 3, *size), channels last, of uint8 images (B, height, width, 3)."""
        mean, std = (torch.tensor(values).to(images.device, non_blocking=True) for values in (self.mean, self.std))
        pixels = torch.addcmul(-mean / std, images.float(), 1 / (255 * std))  # of the stored size: it is the smaller, as a rule
        return resized(pixels, self.size).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Float images (B, height, width, 3), bilinearly brought to ``size``; where they shrink, averaged (antialiased) too.

    Small images are enlarged by two matrix products, for which a CPU needs half the time, or less, of torch's loop over three channels.
    """
    count, height, width, channels = pixels.shape
    if (height, width) == size:
        return pixels
    shrinks = size[0] < height or size[1] < width
    if shrinks or max(height, width) > ENLARGED_BY_PRODUCTS:
        moved = nn.functional.interpolate(pixels.permute(0, 3, 1, 2), size, mode="bilinear", antialias=shrinks, align_corners=False)
        return moved.permute(0, 2, 3, 1)
    products = (_enlargement(height, size[0], 1), _enlargement(width, size[1], channels))
    rows, columns = (torch.from_numpy(product).to(pixels.device, non_blocking=True) for product in products)
    wide = pixels.reshape(count * height, width * channels) @ columns.T
    return (rows @ wide.reshape(count, height, -1)).reshape(count, *size, channels)


@cache
def _enlargement(own: int, wanted: int, channels: int) -> npt.NDArray[np.float32]:
    """What bilinear interpolation makes of a line of ``own`` pixels: a matrix (wanted · channels, own · channels).

    No tensor: one made while a network is exported would be of no use to anything else.
    """
    places = (np.arange(wanted) + 0.5) * own / wanted - 0.5  # pixels' centres; beyond the first and last, these
    line = np.stack([np.interp(places, np.arange(own), unit) for unit in np.eye(own)], axis=1)
    return np.kron(line, np.eye(channels)).astype(np.float32)


def channel_statistics(images: Images, rows: npt.NDArray[np.int64]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation a channel, of pixels scaled to 0 … 1, over the images of ``rows``; the latter at least 1/255."""
    values, counts = np.arange(256) / 255, np.zeros((3, 256), dtype=np.int64)
    chunk = max(STATISTICS_PIXELS // (images.shape[1] * images.shape[2]), 1)
    for start in range(0, len(rows), chunk):
        pixels = images[rows[start : start + chunk]].reshape(-1, 3)
        counts += [np.bincount(channel, minlength=256) for channel in pixels.T]
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0)).clip(1 / 255)
    return tuple(map(float, mean)), tuple(map(float, std))


@dataclass
class Classifier:
    """A network, the classes its logits stand for, and the preprocessing it was trained with."""

    architecture: str
    network: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    order: tuple[int, ...] | None = None  # the network's output for each class; None: as they stand

    def to(self, device: torch.device) -> "Classifier":
        self.network.to(device)
        return self

    def logits(self, images: Tensor) -> Tensor:
        """float32 (B, classes) of uint8 images (B, height, width, 3), in the architecture's precision."""
        device = images.device.type
        precision = precision_of(self.architecture, device)
        inputs = self.preprocessing(images)
        with torch.autocast(device, dtype=precision, enabled=precision != torch.float32):
            output: Tensor = self.network(inputs)
        return output.float() if self.order is None else output.float()[:, list(self.order)]

    def manifest(self) -> dict[str, Any]:
        order = {} if self.order is None else {"output_order": list(self.order)}
        return order | {
            "architecture": self.architecture,
            "classes": list(self.classes),
            "preprocessing": {
                "size": list(self.preprocessing.size),
                "mean": list(self.preprocessing.mean),
                "std": list(self.preprocessing.std),
            },
        }


def save_classifier(classifier: Classifier, weights: Path, manifest: Path, extra: dict[str, Any]) -> None:
    """Write weights (safetensors) and manifest (JSON: the classifier's own entries, the weights' sha256, ``extra``)."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_weights(classifier.network.state_dict(), weights)
    write_json(manifest, classifier.manifest() | {"weights_sha256": sha256_of_file(weights)} | extra)


def save_weights(state: dict[str, Tensor], path: Path) -> None:
    """A safetensors file, there whole or not at all, for all whom the user's mask lets read it: the library's own is for its owner alone.

    Raises OSError that names it.
    """
    whole_file(path, save({name: _own(tensor) for name, tensor in state.items()}))


def _own(tensor: Tensor) -> Tensor:
    """A copy in plain layout: names may share memory, which the file's format does not know."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def weights_file(folder: Path) -> Path:
    """A teacher's: an exported program, if it is one."""
    program = folder / f"{PROGRAM}.pt2"
    return program if program.exists() else folder / "weights.safetensors"


def load_classifier(weights: Path, manifest: Path) -> Classifier:
    """Read what ``save_classifier`` wrote. Raises UserError if files are missing or do not belong together."""
    for file in (weights, manifest):
        if not file.is_file():
            raise UserError(f"{file} is missing; dvc repro makes it, dvc pull fetches it")
    entry = read_json(manifest)
    if sha256_of_file(weights) != entry["weights_sha256"]:
        raise UserError(f"{weights} is not the file that {manifest} describes (sha256 differs); restore both with dvc checkout")
    architecture, classes, own = entry["architecture"], tuple(entry["classes"]), entry["preprocessing"]
    preprocessing = Preprocessing(_pair(own["size"]), three(own["mean"]), three(own["std"]))
    order = tuple(entry["output_order"]) if "output_order" in entry else None
    return Classifier(architecture, _load_network(architecture, len(classes), weights), classes, preprocessing, order)


def _load_network(architecture: str, num_classes: int, weights: Path) -> nn.Module:
    if architecture == PROGRAM:
        return read_program(weights)
    network = build_network(architecture, num_classes)
    try:
        network.load_state_dict(load_file(weights))
    except RuntimeError as error:
        raise UserError(f"{weights} does not fit a {architecture} of {num_classes} classes: {error}") from error
    return network


def _pair(values: Sequence[int]) -> tuple[int, int]:
    height, width = values
    return height, width


def three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def student_preprocessing(
    architecture: str, resolution: int, pretrained: bool, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]
) -> Preprocessing:
    """The statistics that pre-trained weights expect, else those of the training images."""
    mean, std = pretrained_statistics(architecture) if pretrained else channel_statistics(images, rows)
    return Preprocessing((resolution, resolution), three(mean), three(std))
