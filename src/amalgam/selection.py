"""Choosing the epoch: how good a student is on the validation images, seen with no more labels than it may use."""

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from amalgam.blocks import Knowledge, LabelBlocks
from amalgam.dataset import LabelSets, PreparedSplit, visible_labels
from amalgam.inference import ROWS_AT_A_TIME, Stored, device, predict_logits
from amalgam.models import Classifier
from amalgam.soft_targets import Combination, TargetRules, soften, union_log_probs
from amalgam.targets import StoredTargets
from amalgam.team import SOLO, Team
from amalgam.validation import Validation, validated

FEW = 500  # labels: among so many, chance moves the accuracy by two points


@dataclass(frozen=True)
class SelectionRules:
    """How much of the validation labels may be used, and the target that the student is to agree with where none may."""

    label_fraction: float
    target_rules: TargetRules
    data_seed: int
    latest_of_few: bool = True


def validate(
    student: Classifier,
    images: Stored,
    split: PreparedSplit,
    label_sets: LabelSets,
    rules: SelectionRules,
    agreed: npt.NDArray[np.int64] | None = None,
    team: Team = SOLO,
) -> Validation | None:
    """Loss and accuracy on the validation images; the epoch is chosen by those labels alone that the student may use.

    ``images`` are those of the ``split``, or a copy on the GPU. With some visible labels the epoch is chosen by the accuracy on those;
    with none by the agreement with all teachers together, the class ``agreed`` on for each image (N,). Where only a part of the images
    choose, or at most ``FEW``, the latest epoch within one standard error of the best is kept; ``latest_of_few`` False turns this off
    where every label is visible.
    """
    rows = split.validation_rows
    if not len(rows):
        return None
    logits, labels = predict_logits(student, images, rows, team=team), split.labels[rows]
    found = validated(logits, labels)
    if rules.label_fraction == 1 and (len(rows) > FEW or not rules.latest_of_few):
        return found
    if rules.label_fraction > 0:
        visible = visible_labels(labels, label_sets.classes, rules.label_fraction, rules.data_seed)
        return scored(found, (logits.argmax(1) == visible)[visible >= 0])
    assert agreed is not None
    return scored(found, agreed == logits.argmax(1))


def scored(found: Validation, right: npt.NDArray[np.bool_]) -> Validation:
    """``found``, chosen by how many of few answers (N,) are right, with their share's standard error.

    It is that of Agresti and Coull (1998), who add two answers of either kind: where all are right it is not zero.
    """
    count = len(right) + 4
    likely = (right.sum() + 2) / count
    return found._replace(score=float(right.mean()), error=math.sqrt(likely * (1 - likely) / count))


def agreed_classes(
    targets: StoredTargets, label_sets: LabelSets, rules: SelectionRules, combine: Combination | None = None
) -> npt.NDArray[np.int64] | None:
    """The class of each validation image (N,) by all teachers together, where there are any and no label may choose; else None."""
    if rules.label_fraction > 0 or not len(stored := targets.validation_logits()):
        return None
    agreed = []
    for start in range(0, len(stored), ROWS_AT_A_TIME):
        logits = torch.from_numpy(stored[start : start + ROWS_AT_A_TIME]).to(device())
        agreed.append(teachers_consensus(logits, label_sets, rules, combine).argmax(1).cpu())
    found: npt.NDArray[np.int64] = torch.cat(agreed).numpy()
    return found


def teachers_consensus(
    logits: torch.Tensor, label_sets: LabelSets, rules: SelectionRules, combine: Combination | None = None
) -> torch.Tensor:
    """What the teachers together say of images whose label is unknown (N, C): the student's own target, fitted or not, so that one that
    has learnt it agrees everywhere; for blocks the joint estimate, which minimises them unless they are standardised. In double precision,
    in which of two teachers that are sure the surer one counts for more."""
    if combine is not None:
        return torch.softmax(combine(logits), dim=1)
    blocks = LabelBlocks.of(label_sets, device())
    said = Knowledge.of_every_teacher(blocks, logits.double())
    whole = replace(rules.target_rules, target="joint") if rules.target_rules.target == "blocks" else rules.target_rules
    knowledge, weight = soften(said, whole)
    return union_log_probs(knowledge, whole.target, weight).exp()
