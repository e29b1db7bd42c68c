"""From stored pixels to a network's input."""

from dataclasses import asdict, dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from amalgam.views import Images

Channels = tuple[float, float, float]  # a number for each of red, green and blue

STATISTICS_PIXELS = 1 << 20  # at a time
ENLARGED_BY_PRODUCTS = 64  # side in pixels up to which that is the faster way


@dataclass(frozen=True)
class Preprocessing:
    """From stored pixels to a network's input."""

    size: tuple[int, int]  # (height, width) in pixels
    mean: Channels  # of pixels scaled to 0 … 1
    std: Channels

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> "Preprocessing":
        return cls(**{name: tuple(numbers) for name, numbers in values.items()})

    def plain(self) -> dict[str, list[float]]:
        """As manifests hold it."""
        return {name: list(numbers) for name, numbers in asdict(self).items()}

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised float (B, 3, *size), channels last, of uint8 images (B, height, width, 3)."""
        mean, std = (torch.tensor(values).to(images.device, non_blocking=True) for values in (self.mean, self.std))
        pixels = torch.addcmul(-mean / std, images.float(), 1 / (255 * std))  # of the stored size: it is the smaller, as a rule
        return resized(pixels, self.size).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Float images (B, height, width, 3), bilinearly brought to ``size``; where they shrink, averaged (antialiased) too.

    Small images are enlarged by two matrix products, for which a CPU needs half the time, or less, of torch's loop over three channels;
    a GPU would have to be sent the matrices.
    """
    count, height, width, channels = pixels.shape
    if (height, width) == size:
        return pixels
    shrinks = size[0] < height or size[1] < width
    if shrinks or max(height, width) > ENLARGED_BY_PRODUCTS or pixels.is_cuda:
        return _interpolated(pixels.permute(0, 3, 1, 2), size, shrinks).permute(0, 2, 3, 1)
    products = (_enlargement(height, size[0], 1), _enlargement(width, size[1], channels))
    rows, columns = map(torch.from_numpy, products)
    wide = pixels.reshape(count * height, width * channels) @ columns.T
    return (rows @ wide.reshape(count, height, -1)).reshape(count, *size, channels)


def _interpolated(images: Tensor, size: tuple[int, int], shrinks: bool) -> Tensor:
    if shrinks:
        return nn.functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    # What interpolate calls, but on a GPU under deterministic algorithms: there it takes a slow way that is for gradients alone.
    enlarged: Tensor = torch.ops.aten.upsample_bilinear2d(images, size, False)
    return enlarged


@cache
def _enlargement(own: int, wanted: int, channels: int) -> npt.NDArray[np.float32]:
    """What bilinear interpolation makes of a line of ``own`` pixels: a matrix (wanted · channels, own · channels).

    No tensor: one made while a network is exported would be of no use to anything else.
    """
    places = (np.arange(wanted) + 0.5) * own / wanted - 0.5  # pixels' centres; beyond the first and last, these
    line = np.stack([np.interp(places, np.arange(own), unit) for unit in np.eye(own)], axis=1)
    return np.kron(line, np.eye(channels)).astype(np.float32)


def channel_statistics(images: Images, rows: npt.NDArray[np.int64]) -> tuple[Channels, Channels]:
    """Mean and standard deviation a channel, of pixels scaled to 0 … 1, over the images of ``rows``; the latter at least 1/255."""
    values, counts = np.arange(256) / 255, np.zeros((3, 256), dtype=np.int64)
    chunk = max(STATISTICS_PIXELS // (images.shape[1] * images.shape[2]), 1)
    for start in range(0, len(rows), chunk):
        pixels = images[rows[start : start + chunk]].reshape(-1, 3)
        counts += [np.bincount(channel, minlength=256) for channel in pixels.T]
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    std = np.sqrt(np.maximum(shares @ values**2 - mean**2, 0)).clip(1 / 255)
    return cast(Channels, tuple(map(float, mean))), cast(Channels, tuple(map(float, std)))
