"""Untrained teachers of the tests' colours, what they say of their images, and settings of a student that learns it."""

from pathlib import Path

import torch
from torch import nn

from amalgam.dataset import PreparedSplit
from amalgam.models import Classifier
from amalgam.networks import build_network
from amalgam.preprocessing import Preprocessing
from amalgam.targets import StoredTargets, ViewSettings, write_targets
from amalgam.teaching import Teaching
from conftest import SETS

NOISE = 0.05  # absolute and relative, of logits: bfloat16 in batches of another size
VIEWS = ViewSettings(views=3, crop=2, flip=True, data_seed=5)
TEACHING = Teaching(
    alpha=0.5,
    temperature=4.0,
    target="blocks",
    objective="kl",
    standardize_logits=False,
    confidence_temperature=1.0,
    label_fraction=1.0,
    label_smoothing=0.0,
    mixup=0.0,
    batch_size=8,
    seed=1,
)
SHARPER = 20.0
Teachers = dict[str, Classifier]


def untrained_teachers() -> Teachers:
    torch.manual_seed(0)
    made = {}
    for name, classes in SETS.teachers.items():
        how = Preprocessing((8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
        network = lively(build_network("ReferenceCNN", len(classes)))
        made[name] = Classifier("ReferenceCNN", network, classes, how, weights_sha256=f"sha-{name}")
    return made


def lively(network: nn.Module) -> nn.Module:
    """As it was built, it says nearly the same of all images; now it has seen noise, and its logits differ by some units."""
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # what it has seen is all that it knows
    linear = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        network.train()(torch.randn(256, 3, 8, 8))
        linear[-1].weight.mul_(SHARPER)
    return network.eval()


def stored(split: PreparedSplit, teachers: Teachers, folder: Path, covering: bool = False, views: ViewSettings = VIEWS) -> StoredTargets:
    write_targets(folder, split, SETS, teachers, views, "covering" if covering else "all")
    return StoredTargets.read(folder, split, SETS)
