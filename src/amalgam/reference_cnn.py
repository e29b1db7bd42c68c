"""The teachers' architecture: a small residual CNN for small images, about 1.4 M parameters.

Module names follow the published checkpoints, so that their state dicts load by name.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn


class ConvBlock(nn.Module):
    """Convolution without bias, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(x)))


class Residual(nn.Module):
    """ReLU(blocks + 1 × 1-convolution shortcut)."""

    def __init__(self, in_channels: int, out_channels: int, depth: int) -> None:
        super().__init__()
        widths = [in_channels] + [out_channels] * depth
        self.main_path = nn.Sequential(*(ConvBlock(a, b) for a, b in pairwise(widths)))
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.main_path(x) + self.shortcut(x))


class DepthwiseSeparable(nn.Module):
    """Depthwise 3 × 3, pointwise 1 × 1, batch norm."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, padding=1, groups=in_channels)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.pointwise(self.depthwise(x)))
        return y


class ReferenceCNN(nn.Module):
    """Logits (B, classes) of images (B, 3, height, width), at least 4 × 4 pixels."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = ConvBlock(3, 64)
        self.residual1 = Residual(64, 128, depth=1)
        self.residual2 = Residual(128, 256, depth=2)
        self.conv2 = ConvBlock(256, 512, kernel_size=1)
        self.conv3 = nn.Sequential(DepthwiseSeparable(512, 512), nn.Dropout(0.5), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Linear(512, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.residual1(self.conv1(x)))
        x = self.pool(self.residual2(x))
        logits: Tensor = self.classifier(self.conv3(self.conv2(x)))
        return logits
