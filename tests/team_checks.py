"""What test_team.py runs in several processes: python team_checks.py <check> <processes>. Each compares a team with a single process."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from amalgam.distilling import train_student
from amalgam.errors import UserError
from amalgam.history import Fit
from amalgam.inference import predict_logits
from amalgam.models import Classifier
from amalgam.networks import build_network
from amalgam.optimization import Optimization
from amalgam.preprocessing import Preprocessing
from amalgam.provenance import configure_execution
from amalgam.targets import StoredTargets, ViewSettings, write_targets
from amalgam.team import SOLO, Team, joined
from amalgam.transfer_set import TransferSet
from amalgam.whole_batch import as_whole_batch, data_parallel
from conftest import SETS, colour_split
from untrained_teachers import TEACHING

IMAGES, CLASSES, STEPS = 11, 5, 3  # eleven images: neither two nor three have equal shares
BATCH = 32  # as students are trained
AS_NEAR = 1.5  # times as far from what double precision makes of the same steps as one process's result, a team's may be
CHECKS: dict[str, Callable[[Team], None]] = {}


def check(function: Callable[[Team], None]) -> Callable[[Team], None]:
    CHECKS[function.__name__] = function
    return function


class InDouble(nn.Module):
    """A network in double precision, for inputs in single: float32's rounding grows over a few ill-conditioned steps."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(x.double())
        return logits


class EveryKind(nn.Module):
    """All that relates images to each other or is drawn at random, in one small network."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(8, momentum=None), nn.BatchNorm2d(8, affine=False, track_running_stats=False)])
        self.flat = nn.BatchNorm1d(8)
        self.dropouts = nn.ModuleList([nn.Dropout(0.3), nn.Dropout(0.3, inplace=True), nn.Dropout2d(0.3)])
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norms[1](torch.relu(self.norms[0](self.conv(x))))
        for dropout in self.dropouts:
            x = dropout(x)
        x = functional.dropout3d(x.unsqueeze(2), 0.2, self.training).squeeze(2)
        flat = functional.dropout1d(x.flatten(2), 0.2, self.training)
        pieces = functional.dropout(flat.transpose(1, 2).reshape(-1, 8), 0.2, self.training)  # many rows an image
        pooled = pieces.reshape(len(x), -1, 8).mean(1)
        keep = torch.empty(len(x), 1, dtype=x.dtype).bernoulli_(0.8)  # as stochastic depth
        logits: torch.Tensor = self.head(self.flat(pooled) * keep)
        return logits


def steps_of(network: nn.Module, team: Team) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of a few steps in double precision, where nothing but an error could make a difference."""
    torch.manual_seed(0)
    network = network.double().train()
    called, random = data_parallel(network, team), torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for _ in range(STEPS):
        images = torch.randn(IMAGES, 3, 32, 32, generator=random).double().contiguous(memory_format=torch.channels_last)
        labels = torch.randint(0, CLASSES, (IMAGES,), generator=random)
        with as_whole_batch(IMAGES, team):
            own = called(images[team.share(IMAGES)])
        loss = functional.cross_entropy(team.all_gather(own, IMAGES), labels)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses, network.state_dict()


@check
def steps(team: Team) -> None:
    """Convolutional networks from three sources, and one with everything: equal up to double precision's rounding."""
    names = ("MobileNetV3", "EfficientNet", "ReferenceCNN", "timm/mobilenetv3_small_050")
    makers: list[Callable[[], nn.Module]] = [EveryKind, *(partial(build_network, name, CLASSES) for name in names)]
    for make in makers:
        found = []
        for who in (SOLO, team):
            torch.manual_seed(2)
            found.append(steps_of(make(), who))
        (alone, weights), (together, others) = found
        np.testing.assert_allclose(together, alone, rtol=1e-8)
        for name, values in weights.items():
            np.testing.assert_allclose(others[name], values, rtol=1e-6, atol=1e-6, err_msg=name)


def weights_of(network: nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


def learnt(architecture: str, precision: torch.dtype, team: Team) -> torch.Tensor:
    """How far a few steps of the training loop, from pixels and in this precision whatever the processor prefers, move the weights."""
    torch.manual_seed(2)
    network = build_network(architecture, CLASSES).to(memory_format=torch.channels_last).train()
    before = weights_of(network)
    called = data_parallel(InDouble(network).train() if precision == torch.float64 else network, team)
    student = Classifier(architecture, called, tuple("abcde"), Preprocessing((64, 64), (0.5,) * 3, (0.5,) * 3))
    optimizer, random = torch.optim.SGD(network.parameters(), lr=0.01), torch.Generator().manual_seed(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("amalgam.models.precision_of", lambda *_: torch.bfloat16 if precision == torch.bfloat16 else torch.float32)
        for _ in range(STEPS):
            images = torch.randint(0, 256, (BATCH, 32, 32, 3), generator=random, dtype=torch.uint8)
            labels = torch.randint(0, CLASSES, (BATCH,), generator=random)
            with as_whole_batch(BATCH, team):
                own = student.logits(images[team.share(BATCH)])
            optimizer.zero_grad()
            functional.cross_entropy(team.all_gather(own, BATCH), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return weights_of(network).double() - before


@check
def precisions(team: Team) -> None:
    """In single precision and bfloat16 rounding decides how far results lie apart; a team's is no worse than one process's."""
    for architecture in ("MobileNetV3", "ResNet18"):
        exact = learnt(architecture, torch.float64, SOLO)
        for precision in (torch.float32, torch.bfloat16):
            alone, together = ((learnt(architecture, precision, who) - exact).norm() for who in (SOLO, team))
            assert together <= AS_NEAR * alone, f"{architecture}, {precision}: {together} beside {alone}"


def trained(team: Team, targets: StoredTargets, batch_size: int = 8) -> tuple[Classifier, Fit]:
    """A student from mixed images, by an objective that relates images, with an average of its weights and short gradients."""
    split = colour_split(per_class=15, noise=60, held_out_every=5)
    teaching = replace(TEACHING, temperature=2.0, objective="dist", mixup=0.4, batch_size=batch_size, seed=3)
    torch.manual_seed(4)
    network = InDouble(build_network("MobileNetV3", 3))
    student = Classifier("MobileNetV3", network, SETS.classes, Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
    how = Optimization("sgd", 0.01, 0.0, "cosine", epochs=2, ema_decay=0.9, clip_norm=1.0)
    return student, train_student(student, TransferSet.of(SETS, split, targets, teaching), how, team=team)


def stored(folder: Path, team: Team) -> StoredTargets:
    split = colour_split(per_class=15, noise=60, held_out_every=5)
    torch.manual_seed(5)
    looks = Preprocessing((8, 8), (0.5,) * 3, (0.5,) * 3)
    teachers = {
        name: Classifier("ReferenceCNN", build_network("ReferenceCNN", len(classes)), classes, looks, weights_sha256=name)
        for name, classes in SETS.teachers.items()
    }
    write_targets(folder, split, SETS, teachers, ViewSettings(2, 1, True, 0), "covering", team=team)
    return StoredTargets.read(folder, split, SETS)


@check
def training(team: Team) -> None:
    """The same course, up to double precision's rounding; and the same bits in every process."""
    with TemporaryDirectory() as own:
        root = Path(team.broadcast(own))
        os.environ["DVC_ROOT"] = str(root)
        targets = stored(root / "targets", team)
        (student, together), (_, alone) = trained(team, targets), trained(SOLO, targets)
        for found, expected in zip(together.history, alone.history, strict=True):
            assert found.train_loss == pytest.approx(expected.train_loss, rel=1e-6)
            assert found.terms == pytest.approx(expected.terms, rel=1e-6)
            assert found.watched == pytest.approx(expected.watched, rel=1e-6, abs=1e-7)
            assert found.validation is not None
            assert expected.validation is not None
            assert found.validation[:2] == pytest.approx(expected.validation[:2], rel=1e-6)
        for name, values in alone.last.items():
            np.testing.assert_allclose(
                together.last[name], values, rtol=1e-6, atol=1e-7, err_msg=name
            )  # the loss sees logits in single precision
        firsts = team.broadcast({name: values.clone() for name, values in student.network.state_dict().items()})
        assert all(torch.equal(values, firsts[name]) for name, values in student.network.state_dict().items())
        team.barrier()


@check
def targets(team: Team) -> None:
    """Each view and teacher is one process's: the store holds the same bits as one process's."""
    with TemporaryDirectory() as own:
        root = Path(team.broadcast(own))
        os.environ["DVC_ROOT"] = str(root / "together")
        together = stored(root / "together" / "targets", team)
        if team.is_first:
            os.environ["DVC_ROOT"] = str(root / "alone")
            alone = stored(root / "alone" / "targets", SOLO)
            for view in range(2):
                np.testing.assert_array_equal(together.logits(view), alone.logits(view))
            np.testing.assert_array_equal(together.validation_logits(), alone.validation_logits())
        team.barrier()


@check
def predictions(team: Team) -> None:
    torch.manual_seed(6)
    student = Classifier("MobileNetV3", build_network("MobileNetV3", 3), SETS.classes, Preprocessing((32, 32), (0.5,) * 3, (0.5,) * 3))
    split = colour_split(per_class=15, noise=60, held_out_every=5)
    for count in (0, 1, 7):  # one image leaves a process without any
        rows = np.arange(count) * 2
        alone = predict_logits(student, split.images, rows)
        np.testing.assert_allclose(predict_logits(student, split.images, rows, team=team), alone, rtol=1e-4, atol=1e-5)


@check
def small_batches(team: Team) -> None:
    with TemporaryDirectory() as own:
        os.environ["DVC_ROOT"] = team.broadcast(own)
        targets = stored(Path(os.environ["DVC_ROOT"]) / "targets", team)
        with pytest.raises(UserError, match="batch_size 2 leaves some of 3 processes without an image"):
            trained(replace(team, world_size=3), targets, batch_size=2)
        team.barrier()


if __name__ == "__main__":
    configure_execution()
    with joined() as us:
        assert us.world_size == int(sys.argv[2])
        CHECKS[sys.argv[1]](us)
