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

NEWTON_STEPS = 200
TOLERANCE = 1e-9  # of a step's log-probabilities
MIN_LOG_PROB = -1e9  # a class that is impossible for a teacher would be at minus infinity
SLIGHTEST = 1e-300  # of a component's likeliest shared class: a link that is weaker is as strong, and its teachers then move as one
MOST_ENTRIES = 1 << 20  # images × teachers × classes at a time: 8 MB a tensor


def joint_estimate(log_probs: Tensor, active: Tensor, one_hot: Tensor) -> Tensor:
    """The logits u (B, C) of the estimate.

    ``log_probs`` (B, n, K) are the teachers', anything at padding; ``active`` (B, n) says which teachers count; ``one_hot`` (n, K, C) is
    one where an entry stands for a class. Worked out in double precision and given in that of ``log_probs``; of so many images at a time
    that memory does not grow with their number, and each for itself.
    """
    images = max(MOST_ENTRIES // (one_hot.shape[0] * one_hot.shape[2]), 1)
    parts = zip(torch.split(log_probs, images), torch.split(active, images), strict=True)
    return torch.cat([_joint_estimate(*part, one_hot) for part in parts])


def _joint_estimate(log_probs: Tensor, active: Tensor, one_hot: Tensor) -> Tensor:
    entries = one_hot.double()
    member = entries.sum(1)  # (n, C): whether the teacher knows the class
    sets = active[..., None] & (member > 0)  # (B, n, C)
    said = torch.einsum("bnk,nkc->bnc", log_probs.double().clamp(min=MIN_LOG_PROB, max=0), entries).masked_fill(~sets, -torch.inf)
    components, shared = _components(active, member), member.sum(0) > 1  # (C,): whether several teachers know the class
    z = _normalisers(said[..., shared], components[:, shared]) if shared.any() else torch.zeros_like(said[..., 0])
    normaliser = torch.logsumexp((-z[..., None]).masked_fill(~sets, -torch.inf), dim=1)  # (B, C)
    u = torch.where(sets.any(1), torch.logsumexp(said, dim=1) - normaliser, 0.0)
    return _without_constants(u, components).to(log_probs.dtype)


def _normalisers(said: Tensor, components: Tensor) -> Tensor:
    """The z (B, n), from what active teachers say, as logarithms, of the S classes that several know (B, n, S), and these classes'
    components (B, S).

    From where teachers that agree have it, which is found from the logarithms, Newton's steps, shortened where they are long, so that
    each brings the minimum nearer (Bach, *Self-concordant analysis for logistic regression*, 2010). The steps take each component's
    probabilities as parts of its largest, which moves no minimum.
    """
    active = said > -torch.inf
    linked = active & (active.sum(1, keepdim=True) > 1)
    said = said.masked_fill(~linked, -torch.inf)
    z, tree = _along_a_tree(said, linked)
    p = (said - _largest(said.amax(1), components)[:, None]).masked_fill(~linked, -torch.inf).exp()
    for _ in range(NEWTON_STEPS):
        step = _newton_step(p, _shares(z, linked), tree)
        length = step.abs().amax(1, keepdim=True)  # (B, 1)
        moving = length > TOLERANCE
        if not moving.any():
            break
        z = torch.where(moving, z - step * torch.log1p(2 * length) / (2 * length).clamp(min=TOLERANCE), z)
    return z


def _largest(values: Tensor, components: Tensor) -> Tensor:
    """Of the values (B, S) the largest in each one's component (B, S)."""
    largest = values.new_full((len(values), int(components.max()) + 1), -torch.inf)
    return largest.scatter_reduce(1, components, values, "amax").gather(1, components)


def _along_a_tree(said: Tensor, linked: Tensor) -> tuple[Tensor, Tensor]:
    """The z (B, n) of teachers that agree: exact between two, of more along a tree of those links that say the most; and its links
    (B, n, n)."""
    images, count = said.shape[:2]
    # (B, n, n): what each says of the classes that it shares with another
    common = torch.stack([torch.logsumexp(said.masked_fill(~linked[:, [other]], -torch.inf), dim=2) for other in range(count)], dim=2)
    strength = torch.minimum(common, common.transpose(1, 2))
    z, reached = said.new_zeros(images, count), torch.zeros(images, count, dtype=torch.bool, device=said.device)
    tree = torch.zeros(images, count, count, dtype=torch.bool, device=said.device)
    image = torch.arange(images, device=said.device)
    for _ in range(count):
        leaving = reached[:, :, None] & ~reached[:, None]
        best, link = strength.masked_fill(~leaving, -torch.inf).flatten(1).max(1)
        near, far = link // count, link % count
        apart = best == -torch.inf
        far = torch.where(apart, (~reached).int().argmax(1), far)  # the first of another component, or of all
        value = z[image, near] + common[image, near, far] - common[image, far, near]
        z[image, far] = torch.where(apart, 0.0, value)
        reached[image, far] = True
        tree[image, near, far] = ~apart
    return z, tree | tree.transpose(1, 2)


def _shares(z: Tensor, linked: Tensor) -> Tensor:
    """Each teacher's part exp(−zᵢ) / Σⱼ exp(−zⱼ) in the S classes that several know (B, n, S)."""
    known = linked.any(1, keepdim=True)
    return torch.softmax((-z[..., None]).masked_fill(~linked & known, -torch.inf), dim=1) * linked


def _newton_step(p: Tensor, shares: Tensor, tree: Tensor) -> Tensor:
    """The gradient through the inverse of the second derivatives (B, n): a flow in a network whose nodes are the teachers.

    Two teachers are linked by how much of the classes that both know is either's; what one says more of them than the other would have
    to flow. Teachers are taken out one by one, their links and flows handed on to the others. No two numbers of like size are subtracted
    (Grassmann, Taksar and Heyman, 1985), so that a strong link does not hide a weak one. The first of each connected component stays. The
    links of the ``tree`` (B, n, n) have some strength always.
    """
    given = p @ shares.transpose(1, 2)  # (B, n, n)
    flows = given - given.transpose(1, 2)
    links = (p.sum(1, keepdim=True) * shares) @ shares.transpose(1, 2)
    links = torch.where(tree, links.clamp(min=SLIGHTEST), links)
    handed_on, moves = [], []
    for last in range(p.shape[1] - 1, 0, -1):
        link, flow = links[:, last, :last], flows[:, last, :last]  # (B, last)
        strength = link.sum(1, keepdim=True)
        part = torch.where(strength > 0, link / strength, 0.0)
        handed_on.append(part)
        moves.append(torch.where(strength > 0, flow.sum(1, keepdim=True) / strength, 0.0))
        across = part[:, :, None] * flow[:, None]
        flows = flows[:, :last, :last] + across - across.transpose(1, 2)
        links = links[:, :last, :last] + part[:, :, None] * link[:, None]
    step = torch.zeros_like(p[:, :1, 0])
    for part, move in zip(reversed(handed_on), reversed(moves), strict=True):
        step = torch.cat([step, move + (part * step).sum(1, keepdim=True)], dim=1)
    return step


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
