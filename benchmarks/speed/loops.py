"""The loops that are compared. Each trains for ever and calls ``tick`` after every step.

**naive**: what the published code bases do, as their description has it, in PyTorch's defaults:

- a map-style Dataset makes each image anew whenever it is drawn: PIL image from the array, resize to the student's side (bilinear), tensor,
  normalisation by the statistics of all training images; no augmentation;
- a DataLoader shuffles and collates, with the best of 0, 1 and 2 worker processes, found by trial for each setting;
- every teacher (the reference CNN) sees the whole batch at the student's side, live, in float32, without gradients;
- the target distribution is assembled in Python, image by image and teacher by teacher: softmax at the temperature, placed at the
  teacher's classes, divided by the number of teachers that know the image's class;
- the loss is (1 − α)·cross-entropy + α·T²·KL, the optimiser Adam, the schedule StepLR, the layout contiguous; loss and accuracy are read
  as numbers at every step.

**shipped**: ``distilling.train_student`` as the pipeline calls it: gather, augmentation, resize, loss, sums, checks. (As shipped
there is no average of the weights.)

**bare**: forward, backward and optimiser of the student on one batch that lies in memory as a normalised tensor, cross-entropy alone; in
the fastest variant of layout, precision and optimiser for the setting, found by trial; memory is kept as the shipped loop keeps it.
"""

import itertools
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from benchmarks.speed.setting import Setting, untrained_teachers
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from amalgam.dataset import PreparedSplit
from amalgam.distilling import train_student
from amalgam.hardware import native_bfloat16
from amalgam.networks import build_network
from amalgam.optimization import Optimization
from amalgam.preprocessing import channel_statistics
from amalgam.provenance import configure_execution, thread_count
from amalgam.students import Architecture, new_student
from amalgam.teaching import Teaching
from amalgam.trainer import Hooks
from amalgam.transfer_set import TransferSet

Tick = Callable[[], None]

TRIAL_STEPS = 2
TRIAL_SECONDS = 1.5
WARM_STEPS = 2
WORKERS = (0, 1, 2)


class ImagesOneByOne(Dataset[tuple[Tensor, int]]):
    """The naive way from an array to a batch."""

    def __init__(self, split: PreparedSplit, side: int) -> None:
        mean, std = channel_statistics(split.images, np.arange(len(split.images)))
        self.images: npt.NDArray[np.uint8] = np.array(split.images)
        self.labels = split.labels.tolist()
        self.transform = transforms.Compose([transforms.Resize((side, side)), transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def naive(setting: Setting, tick: Tick, workers: int) -> None:
    torch.set_num_threads(thread_count())  # as many as the others have; everything else is PyTorch's default
    settings, split, label_sets = setting.settings, setting.split, setting.label_sets
    alpha, temperature = settings.alpha, settings.temperature
    teachers = [in_default_layout(teacher.network).eval() for teacher in untrained_teachers(split, label_sets).values()]
    columns = [label_sets.columns(name) for name in label_sets.teachers]
    student = in_default_layout(build_network(setting.student, len(label_sets.classes)))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.001, weight_decay=0.0005)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 30, 0.5)
    loader = DataLoader(ImagesOneByOne(split, settings.student_resolution), setting.batch_size, shuffle=True, num_workers=workers)
    while True:
        student.train()
        total, correct = 0.0, 0
        for images, labels in loader:
            with torch.no_grad():
                answers = [teacher(images) for teacher in teachers]
            target = one_by_one(answers, columns, labels, len(label_sets.classes), temperature)
            optimizer.zero_grad()
            logits = student(images)
            soft = functional.kl_div(functional.log_softmax(logits / temperature, dim=1), target, reduction="batchmean")
            loss = (1 - alpha) * functional.cross_entropy(logits, labels) + alpha * temperature**2 * soft
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(labels)
            correct += (logits.argmax(1) == labels).sum().item()
            tick()
        scheduler.step()


def in_default_layout(network: nn.Module) -> nn.Module:
    return network.to(memory_format=torch.contiguous_format)


def one_by_one(answers: list[Tensor], columns: list[list[int]], labels: Tensor, classes: int, temperature: float) -> Tensor:
    """The mean of the zero-padded distributions (B, C) of the teachers that know each image's class."""
    target = torch.zeros(len(labels), classes)
    for index in range(len(labels)):
        label = labels[index].item()
        covering = [number for number, known in enumerate(columns) if label in known]
        for number in covering:
            target[index, columns[number]] += functional.softmax(answers[number][index] / temperature, dim=0) / len(covering)
    return target


def shipped(setting: Setting, tick: Tick) -> None:
    configure_execution()
    settings, split, label_sets = setting.settings, setting.split, setting.label_sets
    architecture = Architecture(settings.student_model, settings.student_resolution, settings.pretrained)
    student = new_student(architecture, label_sets, split, settings.seed)
    transfer_set = TransferSet.of(label_sets, split, setting.targets, Teaching.of(settings))
    train_student(student, transfer_set, Optimization.of(settings), Hooks(on_step=tick))


Variant = tuple[torch.memory_format, torch.dtype, str]
PRECISIONS = (torch.float32, torch.bfloat16) if native_bfloat16() else (torch.float32,)  # emulated, a step takes seconds
VARIANTS: list[Variant] = list(
    itertools.product((torch.contiguous_format, torch.channels_last), PRECISIONS, ("single", "foreach", "fused"))
)


def bare(setting: Setting, tick: Tick, variant: Variant) -> None:
    layout, precision, kind = variant
    configure_execution()
    torch.use_deterministic_algorithms(False)
    side, classes = setting.settings.student_resolution, len(setting.label_sets.classes)
    student: nn.Module = build_network(setting.student, classes).to(memory_format=layout)
    options: dict[str, Any] = {} if kind == "single" else {kind: True}
    optimizer = torch.optim.AdamW(student.parameters(), lr=0.001, **({"foreach": False} | options))
    images = torch.randn(setting.batch_size, 3, side, side).to(memory_format=layout)
    labels = torch.randint(classes, (setting.batch_size,))
    student.train()
    while True:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32):
            logits = student(images)
        functional.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        tick()


class EnoughError(Exception):
    """A trial has seen what it needs."""


def trial(loop: Callable[[Tick], None]) -> float:
    """Mean seconds of a loop's steps, once warm."""
    times: list[float] = []

    def tick() -> None:
        times.append(time.perf_counter())
        if len(times) > WARM_STEPS + TRIAL_STEPS and times[-1] - times[WARM_STEPS] > TRIAL_SECONDS:
            raise EnoughError

    with suppress(EnoughError):
        loop(tick)
    return (times[-1] - times[WARM_STEPS]) / (len(times) - 1 - WARM_STEPS)
