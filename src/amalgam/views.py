"""Views: the augmented versions of an image that teacher and student both see.

What happens to image i in view v follows from (seed, v, i) alone, so a view need not be stored to be seen again.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

DRAWS = 3  # random numbers an image: two shifts, one mirror


@dataclass(frozen=True)
class View:
    """How each image of a set is shown."""

    shift_y: npt.NDArray[np.int64]  # (N,) pixels
    shift_x: npt.NDArray[np.int64]  # (N,) pixels
    mirror: npt.NDArray[np.bool_]  # (N,)

    def render(self, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """The images of ``rows`` as this view shows them: uint8 (B, height, width, 3), from (N, height, width, 3).

        Pixels shifted in from outside mirror those inside the edge.
        """
        height, width = images.shape[1:3]
        y = _reflect(np.arange(height) + self.shift_y[rows, None], height)  # (B, height)
        x = np.where(self.mirror[rows, None], np.arange(width)[::-1], np.arange(width))
        x = _reflect(x + self.shift_x[rows, None], width)  # (B, width)
        return images[rows[:, None, None], y[:, :, None], x[:, None, :]]


def _reflect(position: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Fold positions beyond 0 … size − 1 back inside, the edge pixel not repeated."""
    if size == 1:
        return np.zeros_like(position)
    folded = np.abs(position) % (2 * size - 2)
    return np.where(folded < size, folded, 2 * size - 2 - folded)


def draw_view(count: int, index: int, seed: int, crop: int, flip: bool) -> View:
    """View ``index`` of ``count`` images: shifts of up to ``crop`` pixels either way, half of them mirrored if ``flip``.

    Image i's numbers are the i-th draws of a counter-based generator keyed by (seed, index): they do not depend on count.
    """
    uniform = np.random.Generator(np.random.Philox(key=[seed, index])).random((count, DRAWS))
    shifts = np.floor(uniform[:, :2] * (2 * crop + 1)).astype(np.int64) - crop
    return View(shifts[:, 0], shifts[:, 1], (uniform[:, 2] < 0.5) & flip)


def plain_view(count: int) -> View:
    """Every image as it is."""
    zeros = np.zeros(count, dtype=np.int64)
    return View(zeros, zeros, np.zeros(count, dtype=bool))
