"""The reference system's way to train and to choose, for comparison alone: it is optimistic.

It trains on all training images, chooses the epoch by the test images that it then reports, and shows every network, teachers too, the
same pixels: those of the student's resolution, normalised by the statistics of all training images.
"""

import numpy as np

from amalgam.dataset import PreparedSplit
from amalgam.files import sha256_of_arrays
from amalgam.preprocessing import Preprocessing, channel_statistics

NAME = "reference"
SELECTED_ON = "test images (optimistic)"
SETTINGS = {  # what it sets where the command line does not
    "student_model": "EfficientNet",
    "pretrained": "true",
    "student_resolution": "64",
    "alpha": "0.1",
    "temperature": "2",
    "target": "mean",
    "objective": "kl",
    "standardize_logits": "false",
    "label_fraction": "1",
    "label_smoothing": "0",
    "mixup": "0",
    "lr": "0.001",
    "batch_size": "32",
    "num_epochs": "100",
    "weight_decay": "0.0005",
    "optimizer": "adam",
    "scheduler": "step",
    "warmup_epochs": "0",
    "scheduler_step": "30",
    "scheduler_gamma": "0.5",
    "ema_decay": "0",
    "clip_norm": "null",
    "compile": "false",
    "seed": "42",
    "views": "0",
    "view_zoom": "1",
    "view_colour": "0",
    "stored_teachers": "covering",
}


def concatenated(training: PreparedSplit, test: PreparedSplit) -> PreparedSplit:
    """All training images to train on, and the test images to choose by."""
    images = np.concatenate([training.images, test.images])
    labels = np.concatenate([training.labels, test.labels])
    held_out = np.arange(len(images)) >= len(training.images)
    names = [*training.names, *test.names]
    return PreparedSplit(images, labels, held_out, names, sha256_of_arrays(images, labels, held_out))


def common_preprocessing(split: PreparedSplit, resolution: int) -> Preprocessing:
    """What every network sees."""
    return Preprocessing((resolution, resolution), *channel_statistics(split.images, split.training_rows))


def applied(training: PreparedSplit, test: PreparedSplit, resolution: int) -> tuple[PreparedSplit, Preprocessing, dict[str, str]]:
    """The images, what every network sees of them, and what the manifest and the run say of it."""
    split = concatenated(training, test)
    return split, common_preprocessing(split, resolution), {"protocol": NAME, "selected_on": SELECTED_ON}
