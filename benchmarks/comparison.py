"""Comparing rows of accuracies on the same test images, over several seeds."""

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

RESAMPLES = 10_000

Right = npt.NDArray[np.bool_]


def packed(right: Right) -> str:
    """Which images (N,) were classified rightly, as text."""
    return np.packbits(right).tobytes().hex()


def right_images(found: dict[str, Any], kept: str = "right") -> Right:
    """(N,) of an entry that holds them packed, as ``kept``, and their number, as ``images``."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(found[kept]), np.uint8), count=found["images"]).astype(bool)


def interval(first: Right, second: Right) -> tuple[float, float, float]:
    """Difference of the accuracies, in percent, of two rows (seeds, images), and its 95 % bootstrap interval over seeds and images."""
    difference = 100 * (first.astype(float) - second)
    random = np.random.default_rng(0)
    seeds, images = difference.shape
    means = [difference[random.integers(0, seeds, seeds)][:, random.integers(0, images, images)].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(difference.mean()), float(low), float(high)


def t_interval(first: Right, second: Right) -> tuple[float, float]:
    """95 % interval, in percent, of the difference of two rows (seeds, images) by Student's t over the seeds alone."""
    _, low, high = by_student(100 * (first.astype(float) - second).mean(axis=1))
    return low, high


def by_student(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean and its 95 % interval by Student's t, the whole line for a single value.

    It takes the values (N,) for draws from a normal distribution, of which nothing is known but they.
    """
    mean, count = float(values.mean()), len(values)
    half = float(stats.t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count)) if count > 1 else np.inf
    return mean, mean - half, mean + half


def gain(first: Right, second: Right) -> str:
    return "{:+.1f} ({:+.1f} … {:+.1f})".format(*interval(first, second))


def with_spread(values: npt.NDArray[np.float64]) -> str:
    """Mean and standard deviation over seeds."""
    return f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")
