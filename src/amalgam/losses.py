"""Losses of a student with several teachers: pure functions of logits.

C classes in the union; teacher i knows ``columns[i]``, indices into the union. Teachers' logits stand side by side in one
tensor (B, Σ|Lᵢ|), in the teachers' order; those of a teacher that is not active for an image are ignored and may be NaN.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def mean_target(teacher_logits: Tensor, active: Tensor, columns: Sequence[Sequence[int]], classes: int, temperature: float) -> Tensor:
    """The mean, over an image's active teachers, of their zero-padded distributions at ``temperature``: (B, C), rows sum to one.

    ``active`` (B, teachers) is bool, with at least one True a row.
    """
    target = torch.zeros(len(teacher_logits), classes, device=teacher_logits.device)
    start = 0
    for teacher, own in enumerate(columns):
        logits = teacher_logits[:, start : start + len(own)].float()
        here = active[:, teacher, None]
        probabilities = torch.softmax(torch.where(here, logits, 0.0) / temperature, dim=1)
        target[:, list(own)] += torch.where(here, probabilities, 0.0)
        start += len(own)
    return target / active.sum(dim=1, keepdim=True)


def distillation(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """T² · KL(target ‖ softmax(logits / T)), mean over the batch (Hinton et al., 2015). Shapes (B, C)."""
    log_student = functional.log_softmax(logits / temperature, dim=1)
    return temperature**2 * functional.kl_div(log_student, target, reduction="batchmean")


def student_loss(logits: Tensor, labels: Tensor, target: Tensor, alpha: float, temperature: float) -> dict[str, Tensor]:
    """The weighted terms (1 − α)·CE(logits, labels) and α·distillation; the loss is their sum. A term of weight 0 is left out."""
    terms = {}
    if alpha < 1:
        terms["labels"] = (1 - alpha) * functional.cross_entropy(logits, labels)
    if alpha > 0:
        terms["distillation"] = alpha * distillation(logits, target, temperature)
    return terms
