"""The joint estimate: one distribution over the union that agrees best with what each teacher says of its own classes.

Vongkulbhisal et al., *Unifying Heterogeneous Classifiers with Distillation*, CVPR 2019 (UHC, cross-entropy): u minimises

    −Σᵢ Σ_{l ∈ Lᵢ} pᵢ(l) · (u_l − log Σ_{k ∈ Lᵢ} exp u_k)

over the active teachers i. It is convex. Adding a constant to all classes of a connected component of the label sets changes
nothing; among the minimisers this is the one of least norm: every component sums to zero, classes that no active teacher knows
are at zero. Where the active label sets are not connected, the estimate between components is a convention, not knowledge.

It is sought in one unknown a teacher. Where the gradient vanishes, exp u_l = P_l / Σ_{i ∋ l} exp(−zᵢ), with P_l the sum of what the
teachers that know l say of it and zᵢ the logarithm of the sum of exp u over a teacher's label set; the z minimise

    Σ_l P_l · log Σ_{i ∋ l} exp(−zᵢ) + Σᵢ sᵢ zᵢ

over the classes l that several know, sᵢ being teacher i's share of these. Other classes do not enter, so that the little that a sure
teacher leaves to shared classes still says how it stands to the others.
"""

import torch
from torch import Tensor

PROPORTIONAL_STEPS = 5
NEWTON_STEPS = 200
TOLERANCE = 1e-9  # of a step's logarithms
LEAST_LOGARITHM = -200.0  # a class that is impossible for a teacher would be at minus infinity
RIDGE = 1e-15  # relative; a link between teachers that is weaker beside the others than this is lost to double precision
MOST_ENTRIES = 1 << 20  # images × teachers × classes at a time: 8 MB a tensor


def joint_estimate(logarithms: Tensor, active: Tensor, place: Tensor) -> Tensor:
    """The logits u (B, C) of the estimate.

    ``logarithms`` (B, n, K) are those of the teachers' distributions, anything at padding; ``active`` (B, n) says which teachers
    count; ``place`` (n, K, C) is one where an entry stands for a class. In double precision; of so many images at a time that memory
    does not grow with their number, and each for itself.
    """
    images = max(MOST_ENTRIES // (place.shape[0] * place.shape[2]), 1)
    parts = zip(torch.split(logarithms, images), torch.split(active, images), strict=True)
    return torch.cat([_joint_estimate(*part, place) for part in parts])


def _joint_estimate(logarithms: Tensor, active: Tensor, place: Tensor) -> Tensor:
    member = place.double().sum(1)  # (n, C): whether the teacher knows the class
    sets = active[..., None] & (member > 0)  # (B, n, C)
    said = torch.einsum("bnk,nkc->bnc", logarithms.double().clamp(min=LEAST_LOGARITHM), place.double())
    p = torch.where(sets, said.exp(), 0.0)
    total, linked = p.sum(1), sets & (sets.sum(1, keepdim=True) > 1)
    components = _components(active, member)
    z = _normalisers(torch.where(linked, p, 0.0), linked, _free(linked, components))
    normaliser = torch.logsumexp((-z[..., None]).masked_fill(~sets, -torch.inf), dim=1)  # (B, C)
    u = torch.where(sets.any(1), total.log() - normaliser, 0.0)
    return _without_constants(u, components).to(logarithms.dtype)


def _normalisers(p: Tensor, linked: Tensor, free: Tensor) -> Tensor:
    """The z (B, n), from what teachers say of the classes that several know, p (B, n, C); those that are not ``free`` (B, n) hold still.

    First by steps in proportion, which are exact between two teachers; then Newton's, shortened where they are long, so that each brings
    the minimum nearer (Bach, *Self-concordant analysis for logistic regression*, 2010).
    """
    weight, own = p.sum(1, keepdim=True), p.sum(2)
    z = torch.zeros_like(own)
    for _ in range(PROPORTIONAL_STEPS):
        z = z + torch.where(own > 0, ((weight * _shares(z, linked)).sum(2) / own).log(), 0.0)
    for _ in range(NEWTON_STEPS):
        step = _newton_step(p, _shares(z, linked), free)
        length = step.abs().amax(1, keepdim=True)  # (B, 1)
        moving = length > TOLERANCE
        if not moving.any():
            break
        z = torch.where(moving, z - step * torch.log1p(2 * length) / (2 * length).clamp(min=TOLERANCE), z)
    return z


def _shares(z: Tensor, linked: Tensor) -> Tensor:
    """Each teacher's part exp(−zᵢ) / Σⱼ exp(−zⱼ) in the classes that it shares (B, n, C)."""
    known = linked.any(1, keepdim=True)
    return torch.softmax((-z[..., None]).masked_fill(~linked & known, -torch.inf), dim=1) * linked


def _newton_step(p: Tensor, shares: Tensor, free: Tensor) -> Tensor:
    """The gradient through the inverse of the second derivatives, scaled to a diagonal of ones: a strong link must not hide a weak one.

    Both are summed pair by pair, where each of them is a difference of nearly equal numbers as a whole.
    """
    given = p @ shares.transpose(1, 2)  # (B, n, n)
    gradient = torch.where(free, (given - given.transpose(1, 2)).sum(2), 0.0)
    links = (p.sum(1, keepdim=True) * shares) @ shares.transpose(1, 2)
    links.diagonal(dim1=1, dim2=2).zero_()
    scale = torch.where(free, links.sum(2), 1.0).clamp(min=torch.finfo(p.dtype).tiny).rsqrt()
    equations = torch.where(free[:, :, None] & free[:, None], -links * scale[:, :, None] * scale[:, None], 0.0)
    equations.diagonal(dim1=1, dim2=2).fill_(1 + RIDGE)
    step: Tensor = scale * torch.linalg.solve(equations, scale * gradient)
    return step


def _free(linked: Tensor, components: Tensor) -> Tensor:
    """Which teachers (B, n) move: those that share classes, but the first of each connected component, for a constant is free."""
    shares = linked.any(2)
    first_class = linked.int().argmax(2)  # of each teacher's, one that it shares
    of_teacher = torch.where(shares, components.gather(1, first_class), -1)
    same = (of_teacher[:, :, None] == of_teacher[:, None]) & shares[:, :, None] & shares[:, None]
    return shares & same.tril(-1).any(2)


def _without_constants(u: Tensor, components: Tensor) -> Tensor:
    """``u`` (B, C) less its mean over each connected component of the active label sets: the minimiser of least norm."""
    images, classes = u.shape
    entries = (components + classes * torch.arange(images, device=u.device)[:, None]).flatten()
    sums, counts = (torch.zeros_like(u).flatten().scatter_add(0, entries, values.flatten()) for values in (u, torch.ones_like(u)))
    return u - (sums / counts.clamp(min=1))[entries].view_as(u)


def _components(active: Tensor, member: Tensor) -> Tensor:
    """Each class's connected component under the active label sets (B, C), by the index of its first class."""
    patterns, which = torch.unique(active, dim=0, return_inverse=True)
    sets = patterns[..., None] * member > 0  # (P, n, C)
    classes = member.shape[1]
    first = torch.arange(classes, device=member.device).expand(len(patterns), classes)
    while True:
        of_teacher = torch.where(sets, first[:, None], classes).amin(2, keepdim=True)
        found = torch.minimum(first, torch.where(sets, of_teacher, classes).amin(1))
        if torch.equal(found, first):
            return first[which]
        first = found
