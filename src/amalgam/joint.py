"""The joint estimate: one distribution over the union that agrees best with what each teacher says of its own classes.

Vongkulbhisal et al., *Unifying Heterogeneous Classifiers with Distillation*, CVPR 2019 (UHC, cross-entropy): u minimises

    −Σᵢ Σ_{l ∈ Lᵢ} pᵢ(l) · (u_l − log Σ_{k ∈ Lᵢ} exp u_k)

over the active teachers i. It is convex. Adding a constant to all classes of a connected component of the label sets changes
nothing; among the minimisers this is the one of least norm: every component sums to zero, classes that no active teacher knows
are at zero. Where the active label sets are not connected, the estimate between components is a convention, not knowledge.
"""

import torch
from torch import Tensor

ITERATIONS = 100
TOLERANCE = 1e-7  # of the gradient, whose entries are differences of probabilities
RIDGE = 1e-9  # regularises directions in which the loss is flat; they carry no gradient
LEAST_PROBABILITY = 1e-12  # a class that is impossible for a teacher would be at minus infinity
ROUNDING = 1e-13  # by which a sum of double precision may err
MOST_ENTRIES = 1 << 20  # images × teachers × classes at a time: 8 MB a tensor
SUFFICIENT = 1e-4  # share of the predicted decrease that a step must bring (Armijo)


def joint_estimate(probabilities: Tensor, active: Tensor, place: Tensor) -> Tensor:
    """The logits u (B, C) of the estimate.

    ``probabilities`` (B, n, K) are the teachers' distributions, zero at padding; ``active`` (B, n) says which count; ``place``
    (n, K, C) is one where an entry stands for a class. Newton's method with backtracking, in double precision; of so many images at
    a time that memory does not grow with their number.
    """
    images = max(MOST_ENTRIES // (place.shape[0] * place.shape[2]), 1)
    parts = zip(torch.split(probabilities, images), torch.split(active, images), strict=True)
    return torch.cat([_joint_estimate(*part, place) for part in parts])


def _joint_estimate(probabilities: Tensor, active: Tensor, place: Tensor) -> Tensor:
    member = place.double().sum(1)  # (n, C): whether the teacher knows the class
    p = torch.einsum("bnk,nkc->bnc", probabilities.double().clamp(min=LEAST_PROBABILITY), place.double())
    p = torch.where(active[..., None], p / p.sum(2, keepdim=True), 0.0)
    sets = active[..., None] * member  # (B, n, C)
    u = _centred_logarithms(p, sets)
    value, q = _loss(u, p, sets)
    for _ in range(ITERATIONS):
        gradient = (q - p).sum(1)  # (B, C)
        if gradient.abs().max() < TOLERANCE:
            break
        u, value, q = _backtrack(u, _newton_step(gradient, q), gradient, value, p, sets)
    return _without_constants(u, active, member).to(probabilities.dtype)


def _newton_step(gradient: Tensor, q: Tensor) -> Tensor:
    """The gradient (B, C) through the inverse of the second derivatives, diag(Σᵢ qᵢ + ridge) − Σᵢ qᵢ qᵢᵀ of the conditionals q (B, n, C).

    A diagonal less n outer products: by Woodbury's identity n equations, a teacher each, take the place of C.
    """
    diagonal = q.sum(1) + RIDGE
    scaled = q / diagonal[:, None]
    equations = torch.eye(q.shape[1], dtype=q.dtype, device=q.device) - scaled @ q.transpose(1, 2)
    shares: Tensor = torch.linalg.solve(equations, (scaled * gradient[:, None]).sum(2))
    return gradient / diagonal + (shares[..., None] * scaled).sum(1)


def _without_constants(u: Tensor, active: Tensor, member: Tensor) -> Tensor:
    """``u`` (B, C) less its mean over each connected component of the active label sets: the minimiser of least norm."""
    images, classes = u.shape
    patterns, which = torch.unique(active, dim=0, return_inverse=True)
    components = _components(patterns[..., None] * member > 0)[which]
    entries = (components + classes * torch.arange(images, device=u.device)[:, None]).flatten()
    sums, counts = (torch.zeros_like(u).flatten().scatter_add(0, entries, values.flatten()) for values in (u, torch.ones_like(u)))
    return u - (sums / counts.clamp(min=1))[entries].view_as(u)


def _components(sets: Tensor) -> Tensor:
    """Each class's connected component under label sets, bool (P, n, C), by the index of its first class (P, C)."""
    patterns, _, classes = sets.shape
    first = torch.arange(classes, device=sets.device).expand(patterns, classes)
    while True:
        of_teacher = torch.where(sets, first[:, None], classes).amin(2, keepdim=True)
        found = torch.minimum(first, torch.where(sets, of_teacher, classes).amin(1))
        if torch.equal(found, first):
            return first
        first = found


def _centred_logarithms(p: Tensor, sets: Tensor) -> Tensor:
    """A start that is exact where no two active label sets overlap: the mean of the teachers' centred logarithms."""
    logarithms = torch.where(sets > 0, p.clamp(min=LEAST_PROBABILITY).log(), 0.0)
    centred = torch.where(sets > 0, logarithms - logarithms.sum(2, keepdim=True) / sets.sum(2, keepdim=True).clamp(min=1), 0.0)
    return centred.sum(1) / sets.sum(1).clamp(min=1)


def _loss(u: Tensor, p: Tensor, sets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each image (B,) and the estimate's conditional distribution inside each active set (B, n, C)."""
    inside = torch.where(sets > 0, u[:, None], -torch.inf)
    some = sets.sum(2) > 0  # (B, n)
    normaliser = torch.where(some, torch.logsumexp(inside.masked_fill(~some[..., None], 0.0), dim=2), 0.0)
    q = torch.where(sets > 0, (u[:, None] - normaliser[..., None]).exp(), 0.0)
    value = (normaliser * some).sum(1) - (p * u[:, None]).sum((1, 2))
    return value, q


def _backtrack(u: Tensor, step: Tensor, gradient: Tensor, value: Tensor, p: Tensor, sets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Halve each image's Newton step until it decreases its loss enough."""
    length = torch.ones_like(value)
    promised = (step * gradient).sum(1)
    for _ in range(50):
        moved = u - length[:, None] * step
        found, q = _loss(moved, p, sets)
        short = found > value - SUFFICIENT * length * promised + ROUNDING * (1 + value.abs())
        if not short.any():
            break
        length = torch.where(short, length / 2, length)
    return moved, found, q
