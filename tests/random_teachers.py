"""Label sets and logits to test with: any number of teachers, any overlap."""

import math
from typing import get_args

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from amalgam.blocks import LabelBlocks
from amalgam.losses import Distilled, distillation
from amalgam.soft_targets import TargetRules
from amalgam.target_names import FITTED_TARGETS, Objective, Target

TARGETS: tuple[Target, ...] = tuple(target for target in get_args(Target) if target not in FITTED_TARGETS)  # these: their own tests
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
B = 7

Sets = tuple[int, list[list[int]]]


@st.composite
def label_sets(draw: st.DrawFn) -> Sets:
    """A number of classes, and for each of one to ten teachers two of them or more: nested, identical, disjoint, any."""
    classes = draw(st.integers(2, 9))
    sets = st.lists(st.integers(0, classes - 1), min_size=2, max_size=classes, unique=True).map(sorted)
    return classes, draw(st.lists(sets, min_size=1, max_size=10))


def every_class_known(sets: Sets) -> Sets:
    """The same teachers, without the classes that none of them knows."""
    known = sorted(set().union(*sets[1]))
    return len(known), [[known.index(c) for c in own] for own in sets[1]]


def widened(sets: Sets) -> Sets:
    """One more class, known to all teachers that know but two."""
    classes, columns = sets
    return classes + 1, [own if len(own) > 2 else [*own, classes] for own in columns]


def example(columns: list[list[int]], seed: int, absent: float = math.nan) -> tuple[Tensor, Tensor]:
    """Random teacher logits (B, Σ|Lᵢ|), and who is active, at least one a row; the logits of the others are NaN."""
    random = np.random.default_rng(seed)
    active = random.random((B, len(columns))) < 0.5
    active[np.arange(B), random.integers(0, len(columns), B)] = True
    logits = [np.where(active[:, i, None], random.normal(0, 3, (B, len(own))), absent) for i, own in enumerate(columns)]
    return torch.from_numpy(np.concatenate(logits, axis=1)).float(), torch.from_numpy(active)


def student_logits(classes: int, seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng([seed, 1]).normal(0, 2, (B, classes))).float()


def own_label(active: Tensor, columns: list[list[int]]) -> Tensor:
    """A label for each row that some active teacher knows."""
    return torch.tensor([columns[int(row.int().argmax())][0] for row in active])


def known_images(sets: Sets, seed: int, labelled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher logits (B, Σ|Lᵢ|), who is active and the labels: those that know the class of an image, or without labels anyone."""
    columns = sets[1]
    if not labelled:
        return *example(columns, seed), torch.full((B,), -1)
    random = np.random.default_rng([seed, 2])
    labels = random.choice(sorted(set().union(*columns)), B)
    active = np.array([[label in own for own in columns] for label in labels])
    return torch.from_numpy(random.normal(0, 3, (B, sum(map(len, columns))))).float(), torch.from_numpy(active), torch.from_numpy(labels)


def distilled(
    student: Tensor,
    logits: Tensor,
    active: Tensor,
    sets: Sets,
    target: Target,
    objective: Objective = "kl",
    temperature: float = 1.0,
    labels: Tensor | None = None,
    standardize: bool = False,
) -> Distilled:
    classes, columns = sets
    known = torch.full((len(student),), -1) if labels is None else labels
    rules = TargetRules(target, temperature, standardize, confidence_temperature=1.0)
    return distillation(student, logits, active, known, LabelBlocks(columns, classes), rules, objective)


def components(sets: Sets, active: list[int]) -> list[set[int]]:
    """The connected components of the active label sets; a class that none knows is one of its own."""
    classes, columns = sets
    parts = [{c} for c in range(classes)]
    for teacher in active:
        joined = [part for part in parts if part & set(columns[teacher])]
        parts = [part for part in parts if part not in joined] + [set().union(*joined)]
    return parts
