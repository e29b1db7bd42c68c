"""Untrained teachers of the tests' colours, and what they say of their images."""

from pathlib import Path

import torch

from amalgam.dataset import PreparedSplit
from amalgam.models import Classifier, Preprocessing
from amalgam.networks import build_network
from amalgam.targets import StoredTargets, ViewSettings, write_targets
from conftest import SETS

VIEWS = ViewSettings(views=3, crop=2, flip=True, data_seed=5)
Teachers = dict[str, tuple[Classifier, str]]


def untrained_teachers() -> Teachers:
    torch.manual_seed(0)
    made = {}
    for name, classes in SETS.teachers.items():
        how = Preprocessing((8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
        made[name] = (Classifier("ReferenceCNN", build_network("ReferenceCNN", len(classes)), classes, how), f"sha-{name}")
    return made


def stored(split: PreparedSplit, teachers: Teachers, folder: Path, covering: bool = False, views: ViewSettings = VIEWS) -> StoredTargets:
    write_targets(folder, split, SETS, teachers, views, covering)
    return StoredTargets.read(folder, split, SETS)
