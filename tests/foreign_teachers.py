"""Teachers made outside this project, for images of plain colours: an exported program, and a state dict of another library."""

from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from torch import Tensor, nn

from conftest import COLOURS

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


class NearestColour(nn.Module):
    """Knows a class by its colour; written down, not trained."""

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__()
        colours = torch.tensor([COLOURS[name] for name in classes]) / 255
        self.colours = nn.Parameter((colours - torch.tensor(MEAN)) / torch.tensor(STD))

    def forward(self, x: Tensor) -> Tensor:
        return -((x.mean((2, 3))[:, None] - self.colours) ** 2).sum(2)


def export_program(classes: Sequence[str], path: Path, resolution: int = 24, fixed: bool = False, training: bool = False) -> None:
    """One that takes two images alone if ``fixed``, and forgets at random if ``training``."""
    network = nn.Sequential(NearestColour(classes), nn.Dropout(0.3)).train(training)
    example = torch.zeros(2, 3, resolution, resolution)
    dynamic = None if fixed else ({0: torch.export.Dim.AUTO},)
    torch.export.save(torch.export.export(network, (example,), dynamic_shapes=dynamic), path)


def train_small(classes: Sequence[str], path: Path, resolution: int = 40) -> None:
    """A timm network that tells the colours apart, as a state dict."""
    torch.manual_seed(0)
    network = timm.create_model("test_efficientnet", num_classes=len(classes))
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    colours = torch.tensor([COLOURS[name] for name in classes]) / 255
    for _ in range(60):
        labels = torch.randint(0, len(classes), (16,))
        pixels = (colours[labels][:, :, None, None] + 0.15 * torch.randn(16, 3, resolution, resolution)).clamp(0, 1)
        loss = nn.functional.cross_entropy(network((pixels - 0.5) / 0.5), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    torch.save({"state_dict": network.state_dict()}, path)
