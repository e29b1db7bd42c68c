"""``source: digits``: scikit-learn's 1,797 handwritten digits (UCI), 8 × 8 pixels, ten classes; no download."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from amalgam.sources.raw import array_images, write_raw

SPLIT_SEED = 0  # the digits come without a test split: this one is the same for everybody


def fetch(folder: Path, test_fraction: float) -> None:
    """Write the digits, a stratified ``test_fraction`` of them as the test split."""
    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # (N, 8, 8), ink from 0 to 16
    pixels = np.repeat(grey[..., None], 3, axis=-1)
    train, test = train_test_split(np.arange(len(pixels)), test_size=test_fraction, random_state=SPLIT_SEED, stratify=digits.target)
    splits = {
        name: array_images(pixels[rows], digits.target[rows], "digits")
        for name, rows in (("train", np.sort(train)), ("test", np.sort(test)))
    }
    write_raw(folder, "digits", [str(digit) for digit in range(10)], dict(splits))
