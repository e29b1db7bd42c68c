"""Views: the augmented versions of an image that teacher and student both see.

What happens to image i in view v follows from (seed, v, i) alone, so a view need not be stored to be seen again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

DRAWN_AT_A_TIME = 1 << 16  # images
DRAWS = 3  # random numbers an image: two shifts, one mirror
STRONG_DRAWS = 6  # area, place (2), brightness, contrast, saturation
STRONG = 1 << 32  # added to a view's key for its strong draws: no view has such a number
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Selected:
    """Some rows of an array of images (N, height, width, 3), as an array of their own that copies nothing before it is indexed."""

    source: npt.NDArray[np.uint8]
    rows: Rows  # (N,)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self.rows), *self.source.shape[1:]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Rows) -> npt.NDArray[np.uint8]:
        found: npt.NDArray[np.uint8] = self.source[self.rows[index]]
        return found


Images = npt.NDArray[np.uint8] | Selected


@dataclass(frozen=True)
class Strong:
    """What goes beyond shifting and mirroring, an entry an image."""

    side: Floats  # (N,) share of the image's side that is shown, enlarged to all of it
    top: Floats  # (N,) 0 … 1: where the shown part lies
    left: Floats  # (N,)
    brightness: Floats  # (N,) factors around 1
    contrast: Floats  # (N,)
    saturation: Floats  # (N,)

    def apply(self, images: Tensor, rows: Rows) -> Tensor:
        """uint8 (B, height, width, 3), the images of ``rows``, in the same shape."""
        pixels = images.permute(0, 3, 1, 2).float()
        pixels = self._colour(self._zoom(pixels, rows), rows)
        return pixels.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()

    def _zoom(self, pixels: Tensor, rows: Rows) -> Tensor:
        side = torch.from_numpy(self.side[rows])
        if bool((side == 1).all()):
            return pixels
        centre_y, centre_x = ((2 * torch.from_numpy(place[rows]) - 1) * (1 - side) for place in (self.top, self.left))
        none = torch.zeros_like(side)
        corners = torch.stack([torch.stack([side, none, centre_x], 1), torch.stack([none, side, centre_y], 1)], 1)  # (B, 2, 3)
        grid = functional.affine_grid(corners.to(pixels.device, non_blocking=True), list(pixels.shape), align_corners=False)
        return functional.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)

    def _colour(self, pixels: Tensor, rows: Rows) -> Tensor:
        brightness, contrast, saturation = (
            _on(pixels.device, factor[rows]).view(-1, 1, 1, 1) for factor in (self.brightness, self.contrast, self.saturation)
        )
        pixels = pixels * brightness
        grey = (pixels * torch.tensor(LUMA).to(pixels.device, non_blocking=True).view(1, 3, 1, 1)).sum(1, keepdim=True)
        pixels = grey + saturation * (pixels - grey)
        mean = grey.mean((2, 3), keepdim=True)
        return mean + contrast * (pixels - mean)


@dataclass(frozen=True)
class View:
    """How each image of a set is shown."""

    shift_y: npt.NDArray[np.int16]  # (N,) pixels
    shift_x: npt.NDArray[np.int16]  # (N,) pixels
    mirror: npt.NDArray[np.bool_]  # (N,)
    strong: Strong | None = None

    def apply(self, images: Tensor, rows: Rows) -> Tensor:
        """uint8 (B, height, width, 3), the images of ``rows``, as this view shows them; on whatever device they are.

        Pixels shifted in from outside mirror those inside the edge.
        """
        shown = images if self._is_plain(rows) else self._moved(images, rows)
        return shown if self.strong is None else self.strong.apply(shown, rows)

    def _is_plain(self, rows: Rows) -> bool:
        return not (self.shift_y[rows].any() or self.shift_x[rows].any() or self.mirror[rows].any())

    def _moved(self, images: Tensor, rows: Rows) -> Tensor:
        height, width = images.shape[1:3]
        y = _reflect(np.arange(height) + self.shift_y[rows, None].astype(np.int64), height)  # (B, height)
        x = np.where(self.mirror[rows, None], np.arange(width)[::-1], np.arange(width))
        x = _reflect(x + self.shift_x[rows, None].astype(np.int64), width)  # (B, width)
        number = np.arange(len(rows))[:, None, None]
        first, second, third = (_on(images.device, part) for part in (number, y[:, :, None], x[:, None, :]))
        return images[first, second, third]


def _on(device: torch.device, values: npt.NDArray[Any]) -> Tensor:
    return torch.from_numpy(values).to(device, non_blocking=True)


def _reflect(position: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Fold positions beyond 0 … size − 1 back inside, the edge pixel not repeated."""
    if size == 1:
        return np.zeros_like(position)
    folded = np.abs(position) % (2 * size - 2)
    return np.where(folded < size, folded, 2 * size - 2 - folded)


def draw_view(count: int, index: int, seed: int, crop: int, flip: bool, zoom: float = 1.0, colour: float = 0.0) -> View:
    """View ``index`` of ``count`` images: shifts of up to ``crop`` pixels either way, half of them mirrored if ``flip``; at least
    the share ``zoom`` of an image's area is shown, and its colours change by up to ``colour``.

    Image i's numbers are the i-th draws of counter-based generators keyed by (seed, index): they do not depend on count.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, index]))
    shifts, mirror = np.empty((2, count), dtype=np.int16), np.empty(count, dtype=bool)
    for some in _parts(count):
        uniform = generator.random((some.stop - some.start, DRAWS))
        shifts[:, some] = np.floor(uniform[:, :2].T * (2 * crop + 1)) - crop
        mirror[some] = (uniform[:, 2] < 0.5) & flip
    strong = _draw_strong(count, index, seed, zoom, colour) if zoom < 1 or colour > 0 else None
    return View(shifts[0], shifts[1], mirror, strong)


def _draw_strong(count: int, index: int, seed: int, zoom: float, colour: float) -> Strong:
    generator = np.random.Generator(np.random.Philox(key=[seed, STRONG + index]))
    drawn = np.empty((STRONG_DRAWS, count), dtype=np.float32)
    for some in _parts(count):
        uniform = generator.random((some.stop - some.start, STRONG_DRAWS)).T
        drawn[0, some] = np.sqrt(zoom + (1 - zoom) * uniform[0])
        drawn[1:3, some] = uniform[1:3]
        drawn[3:, some] = 1 + colour * (2 * uniform[3:] - 1)
    return Strong(*drawn)


def _parts(count: int) -> Iterator[slice]:
    for start in range(0, count, DRAWN_AT_A_TIME):
        yield slice(start, min(start + DRAWN_AT_A_TIME, count))


def plain_view(count: int) -> View:
    """Every image as it is."""
    zeros = np.zeros(count, dtype=np.int16)
    return View(zeros, zeros, np.zeros(count, dtype=bool))
