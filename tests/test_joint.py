"""The joint estimate: optimal, of least norm, and right where the teachers determine it."""

import numpy as np
import pytest
import torch
from hypothesis import example as shown
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from amalgam import joint
from amalgam.blocks import LabelBlocks
from amalgam.joint import joint_estimate
from random_teachers import B, Sets, components, example, label_sets, student_logits


def estimate(logits: torch.Tensor, active: torch.Tensor, sets: Sets) -> torch.Tensor:
    classes, columns = sets
    blocks = LabelBlocks(columns, classes)
    return joint_estimate(blocks.log_softmax(blocks.of_teachers(logits, active)), active, blocks.one_hot)


def by_scipy(row: np.ndarray, active: np.ndarray, sets: Sets, ridge: float) -> np.ndarray:
    """The definition, by a general optimiser, with the ridge that the definition lets go to zero."""
    classes, columns = sets
    starts = np.cumsum([0] + [len(own) for own in columns])

    def value(u: np.ndarray) -> float:
        total = 0.5 * ridge * float(u @ u)
        for i in np.flatnonzero(active):
            logits, mine = row[starts[i] : starts[i + 1]], u[columns[i]]
            p = np.exp(logits - np.logaddexp.reduce(logits))
            total -= float(p @ (mine - np.logaddexp.reduce(mine)))
        return total

    return np.asarray(minimize(value, np.zeros(classes), method="BFGS", options={"gtol": 1e-8, "maxiter": 2000}).x)


@given(label_sets(), st.integers(0, 1000))
@settings(deadline=None, max_examples=20)
def test_it_is_what_a_general_optimiser_finds(sets: Sets, seed: int) -> None:
    logits, active = example(sets[1], seed)
    logits = logits / 3
    found = torch.softmax(estimate(logits, active, sets), 1)[0].numpy()
    expected = by_scipy(logits[0].double().numpy(), active[0].numpy(), sets, 1e-6)
    np.testing.assert_allclose(found, np.exp(expected - np.logaddexp.reduce(expected)), atol=2e-3)


@given(label_sets(), st.integers(0, 1000))
@settings(deadline=None)
def test_it_is_optimal_and_of_least_norm(sets: Sets, seed: int) -> None:
    """The gradient vanishes; each connected component sums to zero, so no constant could be taken away from it."""
    classes, columns = sets
    logits, active = example(columns, seed)
    u = estimate(logits, active, sets).double()
    starts = np.cumsum([0] + [len(own) for own in columns])
    for row in range(B):
        gradient, mine = np.zeros(classes), torch.nonzero(active[row]).flatten().tolist()
        for i in mine:
            p = torch.softmax(logits[row, starts[i] : starts[i + 1]].double(), 0)
            gradient[columns[i]] += (torch.softmax(u[row, columns[i]], 0) - p).numpy()
        np.testing.assert_allclose(gradient, 0, atol=1e-5)
        for part in components(sets, mine):
            assert abs(float(u[row, sorted(part)].sum())) < 1e-3


@given(label_sets(), st.integers(0, 1000), st.sampled_from([1, 5, 10]))
@shown((7, [[0, 1, 2], [2, 3, 6], [2, 6]]), 23, 10)
@settings(deadline=None)
def test_teachers_that_are_conditionals_of_one_distribution_give_it_back_where_they_are_connected(
    sets: Sets, seed: int, scale: float
) -> None:
    """However sure they are: what little they leave to the classes that they share tells how they stand to each other."""
    classes, columns = sets
    common = scale * student_logits(classes, seed)
    active = torch.ones(B, len(columns), dtype=torch.bool)
    u = estimate(torch.cat([common[:, own] for own in columns], dim=1), active, sets)
    for part in components(sets, list(range(len(columns)))):
        inside = sorted(part)
        torch.testing.assert_close(torch.softmax(u[:, inside], 1), torch.softmax(common[:, inside], 1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("gap", [2, 12, 18, 30, 60, 100, 250, 600, 2000, 20000])
def test_a_class_that_two_sure_teachers_share_ties_them_together_by_hand(gap: float) -> None:
    """Odds of exp(gap) : 1 and 1 : exp(gap − 2), so those of the classes that are not shared are exp(2) : 1."""
    u = estimate(torch.tensor([[gap, 0, 0, gap - 2]]).double(), torch.tensor([[True, True]]), (3, [[0, 1], [1, 2]]))
    assert (u[0, 0] - u[0, 2]).item() == pytest.approx(2, abs=1e-4)


@pytest.mark.parametrize("gap", [2, 30, 60, 90, 300, 650, 800, 2000])
def test_a_weak_link_is_not_lost_beside_a_strong_one_by_hand(gap: float) -> None:
    """Two teachers share what both find the likeliest; the third has in common with them what all three find the least likely."""
    sets: Sets = (5, [[0, 1, 2], [2, 3, 4], [2, 4]])
    u = estimate(torch.tensor([[1, 0, -gap, -gap, 2, 0, -gap, 0]]).double(), torch.tensor([[True] * 3]), sets)
    torch.testing.assert_close(u - u[0, 1], torch.tensor([[1.0, 0, -gap, 2, 0]]).double(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("count", "spread"), [(3, 10), (10, 40), (20, 40)])
def test_a_chain_of_teachers_that_contradict_each_other_nowhere_is_exact(count: int, spread: float) -> None:
    """Each shares its last class with the next one, so that the odds between any two classes are a product along the chain."""
    columns = [[3 * i, 3 * i + 1, 3 * i + 2, 3 * i + 3] for i in range(count)]
    logits = spread * torch.from_numpy(np.random.default_rng(0).normal(size=(100, 4 * count))).float()
    expected = torch.zeros(100, 3 * count + 1)
    for i, own in enumerate(columns):
        said = logits[:, 4 * i : 4 * i + 4]
        expected[:, own] = said + (expected[:, own[0]] - said[:, 0])[:, None]
    u = estimate(logits, torch.full((100, count), True), (3 * count + 1, columns))
    torch.testing.assert_close(torch.softmax(u, 1), torch.softmax(expected, 1), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("scale", [1, 30, 1000])
def test_of_disjoint_teachers_the_surer_one_is_believed_however_sure_both_are(scale: float) -> None:
    """By hand: each one's logits less their mean, so that how far apart they are decides, not that both are next to certain."""
    logits = scale * torch.tensor([[1.0, 0, 0, 2.0, 0, 0], [2.0, 0, 0, 1.0, 0, 0]])
    u = estimate(logits, torch.full((2, 2), True), (6, [[0, 1, 2], [3, 4, 5]]))
    assert u.argmax(1).tolist() == [3, 0]
    torch.testing.assert_close(u, logits - logits.reshape(2, 2, 3).mean(2).repeat_interleave(3, dim=1), atol=1e-3, rtol=1e-6)


def test_a_teacher_tied_by_next_to_nothing_moves_with_its_neighbour() -> None:
    """Three contradict each other in a circle. To the third one class 3 is exp(−2000) of its others, to the fourth of class 4: these odds
    stay, wherever the circle settles."""
    said = torch.tensor([[1, 0, 1, 0, 0, 5, -2000, -2000, 0]]).double()
    u = estimate(said, torch.tensor([[True] * 4]), (5, [[0, 1], [1, 2], [0, 2, 3], [3, 4]]))[0]
    circle = estimate(said[:, :6], torch.tensor([[True] * 3]), (3, [[0, 1], [1, 2], [0, 2]]))[0]
    torch.testing.assert_close(u[:3] - u[0], circle - circle[0], atol=1e-6, rtol=0)
    assert (u[3] - torch.logsumexp(u[[0, 2]], 0)).item() == pytest.approx(-2000 - np.logaddexp(0, 5), abs=1e-6)
    assert (u[4] - u[3]).item() == pytest.approx(2000, abs=1e-6)


@given(label_sets(), st.integers(0, 1000), st.sampled_from([1, 60, 500]))
@shown((3, [[0, 1], [0, 1, 2], [0, 1], [0, 2]]), 2, 500)
@settings(deadline=None)
def test_it_is_optimal_however_sure_the_teachers_are(sets: Sets, seed: int, scale: float) -> None:
    """In double precision, by the gradient of the definition."""
    logits, active = example(sets[1], seed)
    blocks = LabelBlocks(sets[1], sets[0])
    log_probs = blocks.log_softmax(blocks.of_teachers(scale * logits.double(), active))
    u = joint_estimate(log_probs, active, blocks.one_hot)
    beside = torch.softmax(u[:, blocks.union].masked_fill(~blocks.valid, -torch.inf), 2) - log_probs.exp() * blocks.valid
    gradient = torch.einsum("bnk,nkc->bc", torch.where(blocks.valid & active[..., None], beside, 0.0), blocks.one_hot.double())
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-7, rtol=0)


@given(label_sets(), st.integers(0, 1000), st.sampled_from([1, 5, 20]))
@settings(deadline=None)
def test_an_estimate_does_not_depend_on_the_other_images(sets: Sets, seed: int, scale: float) -> None:
    """Nor is it undefined, however sure the teachers are and however much they disagree."""
    logits, active = example(sets[1], seed)
    whole = estimate(scale * logits, active, sets)
    assert whole.isfinite().all()
    for row in range(B):
        torch.testing.assert_close(estimate(scale * logits[[row]], active[[row]], sets), whole[[row]], atol=1e-5, rtol=1e-5)


def test_the_estimate_of_many_images_is_made_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    sets: Sets = (6, [[0, 1, 2], [2, 3], [3, 4, 5]])
    logits, active = example(sets[1], 0)
    whole = estimate(logits, active, sets)
    for images in (1, 3):  # at a time, of B
        monkeypatch.setattr(joint, "MOST_ENTRIES", images * 3 * 6)
        torch.testing.assert_close(estimate(logits, active, sets), whole, atol=1e-5, rtol=1e-5)


def test_disjoint_teachers_are_centred_apart() -> None:
    """No overlap: each teacher's logits, less their mean, side by side."""
    logits = torch.tensor([[1.0, 3.0, 0.0, 4.0, 2.0]])
    u = estimate(logits, torch.tensor([[True, True]]), (6, [[0, 2], [1, 3, 5]]))
    torch.testing.assert_close(u, torch.tensor([[-1.0, -2.0, 1.0, 2.0, 0.0, 0.0]]))
