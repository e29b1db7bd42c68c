"""Losses of several teachers: double precision by hand, properties over random label sets."""

import math

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from amalgam.blocks import Knowledge, LabelBlocks
from amalgam.losses import class_shares, distillation, label_loss
from amalgam.soft_targets import TargetRules, equal_weights, union_log_probs
from amalgam.target_names import Objective, Target
from by_hand import dist_by_hand, dkd_by_hand, pairs_by_hand
from random_teachers import (
    OBJECTIVES,
    TARGETS,
    B,
    Sets,
    components,
    distilled,
    example,
    known_images,
    label_sets,
    own_label,
    student_logits,
    widened,
)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
@given(sets=label_sets(), seed=st.integers(0, 1000), labelled=st.booleans())
@hypothesis.example(sets=(6, [[0, 1, 2], [3, 4, 5]]), seed=1, labelled=True)  # disjoint
@hypothesis.example(sets=(3, [[0, 1, 2]] * 3), seed=2, labelled=True)  # identical
@hypothesis.example(sets=(6, [[0, 1, 2, 3, 4, 5], [1, 2, 3, 4], [2, 3, 4]]), seed=3, labelled=True)  # nested
@hypothesis.example(sets=(12, [[i, i + 1, i + 2] for i in range(10)]), seed=4, labelled=True)  # ten
@settings(deadline=None, max_examples=40)
def test_blocks_agree_with_double_precision_by_hand(objective: Objective, standardize: bool, sets: Sets, seed: int, labelled: bool) -> None:
    """T² times the mean over an image's active teachers, at T 3; and what is logged of each."""
    classes, columns = sets = widened(sets) if standardize or objective == "dist" else sets  # of two, nothing is left of the logits
    logits, active, labels = known_images(sets, seed, labelled)
    student, logits = student_logits(classes, seed).double().requires_grad_(), logits.double()
    found = distilled(student, logits, active, sets, "blocks", objective, 3.0, labels, standardize)
    pairs = pairs_by_hand(student.detach().numpy(), logits.numpy(), active.numpy(), columns, 3.0, standardize)
    divergence = {key: 9 * float(np.sum(p * np.log(p / q))) for key, (p, q) in pairs.items()}

    def by_hand(row: int, i: int) -> float:
        p, q = pairs[row, i]
        main = columns[i].index(int(labels[row])) if labelled else int(p.argmax())
        return 9 * dkd_by_hand(p, q, main) if objective == "dkd" else divergence[row, i]

    for row in range(B):
        own = torch.nonzero(active[row]).flatten().tolist()
        expected = 9 * dist_by_hand(pairs, len(columns)) if objective == "dist" else np.mean([by_hand(row, i) for i in own])
        assert found.losses[row].item() == pytest.approx(expected, abs=1e-6, rel=1e-5)
    for (row, i), (p, q) in pairs.items():
        assert found.divergence[row, i].item() == pytest.approx(divergence[row, i], abs=1e-6, rel=1e-5)
        assert found.agreement[row, i].item() == (p.argmax() == q.argmax())
    found.losses.mean().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    for row in range(B):
        known = set().union(*(columns[i] for i in torch.nonzero(active[row]).flatten().tolist()))
        assert (student.grad[row, [c for c in range(classes) if c not in known]] == 0).all()


@given(label_sets(), st.floats(0.5, 10), st.integers(0, 1000))
@settings(deadline=None)
def test_the_kl_to_the_mean_has_the_gradient_of_the_mean_of_kls(sets: Sets, temperature: float, seed: int) -> None:
    classes, columns = sets
    logits, active = example(columns, seed)
    student = student_logits(classes, seed).requires_grad_()
    distilled(student, logits, active, sets, "mean", "kl", temperature).losses.mean().backward()  # type: ignore[no-untyped-call]
    whole, student.grad = student.grad, None
    total = torch.zeros(())
    for row in range(B):
        shares = []
        for teacher in torch.nonzero(active[row]).flatten().tolist():
            alone = torch.zeros(1, len(columns), dtype=torch.bool)
            alone[0, teacher] = True
            shares.append(distilled(student[row : row + 1], logits[row : row + 1], alone, sets, "mean", "kl", temperature).losses.mean())
        total = total + torch.stack(shares).mean() / B
    total.backward()  # type: ignore[no-untyped-call]
    torch.testing.assert_close(whole, student.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("target", TARGETS)
@given(sets=label_sets(), seed=st.integers(0, 1000), labelled=st.booleans())
@settings(deadline=None, max_examples=15)
def test_whoever_is_not_active_has_no_say_and_nothing_is_undefined(
    target: Target, objective: Objective, standardize: bool, sets: Sets, seed: int, labelled: bool
) -> None:
    """Any label sets, any combination: finite losses and gradients, the same whatever stands for the teachers that are not active."""
    classes, columns = sets
    found = []
    for absent in (math.nan, 1e4):
        logits, active = example(columns, seed, absent)
        student = student_logits(classes, seed).requires_grad_()
        labels = own_label(active, columns) if labelled else None
        result = distilled(student, logits, active, sets, target, objective, 2.0, labels, standardize)
        result.losses.mean().backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        assert student.grad.isfinite().all()
        found.append((result.losses.mean().detach(), student.grad, result.weight))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][0] >= -1e-5


@pytest.mark.parametrize("objective", ["kl", "dkd"])
@given(sets=label_sets(), seed=st.integers(0, 1000), constant=st.floats(-5, 5))
@settings(deadline=None, max_examples=50)
def test_blocks_leave_free_what_no_active_teacher_knows(objective: Objective, sets: Sets, seed: int, constant: float) -> None:
    classes, columns = sets
    logits, active = example(columns, seed)
    student = student_logits(classes, seed).requires_grad_()
    loss = distilled(student, logits, active, sets, "blocks", objective, 2.0).losses.mean()
    loss.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    for row in range(B):
        for part in components(sets, torch.nonzero(active[row]).flatten().tolist()):
            inside = sorted(part)
            assert student.grad[row, inside].sum().item() == pytest.approx(0, abs=1e-5), "nothing is said between components"
            if len(inside) == 1:
                assert student.grad[row, inside[0]] == 0
            moved = student.detach().clone()
            moved[row, inside] += constant
            again = distilled(moved, logits, active, sets, "blocks", objective, 2.0).losses.mean()
            torch.testing.assert_close(again, loss.detach(), atol=1e-4, rtol=1e-4)


@given(label_sets(), st.integers(0, 1000))
@settings(deadline=None)
def test_blocks_are_satisfied_by_the_joint_distribution_whose_conditionals_the_teachers_are(sets: Sets, seed: int) -> None:
    """And, up to one constant for each connected component, by that one only."""
    classes, columns = sets
    joint = student_logits(classes, seed)
    logits = torch.cat([joint[:, own] for own in columns], dim=1)
    active = torch.ones(B, len(columns), dtype=torch.bool)
    assert distilled(joint, logits, active, sets, "blocks").losses.mean().item() == pytest.approx(0, abs=1e-5)

    def loss(student: Tensor) -> Tensor:
        return distilled(student[None], logits[:1], active[:1], sets, "blocks").losses.mean()

    hessian: Tensor = torch.autograd.functional.hessian(loss, joint[0])  # type: ignore[no-untyped-call]
    free = sum(abs(value) < 1e-6 * len(columns) for value in np.linalg.eigvalsh(hessian.double().numpy()).tolist())
    known = len(components(sets, list(range(len(columns)))))
    smallest = min(float(torch.softmax(joint[0, own], 0).min()) for own in columns)
    if smallest > 1e-3:  # else a class counts too little to be seen in single precision
        assert free == known


def test_agreement_and_weights_say_which_teacher() -> None:
    """Two images, two teachers of {a, b} and {b, c}; the student prefers a, and c to b, then c."""
    logits = torch.tensor([[2.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 3.0]])
    student = torch.tensor([[3.0, 1.0, 2.0], [0.0, 1.0, 2.0]])
    found = distilled(student, logits, torch.tensor([[True, True], [False, True]]), (3, [[0, 1], [1, 2]]), "blocks")
    assert found.weight.tolist() == [[0.5, 0.5], [0.0, 1.0]]
    assert found.agreement[0].tolist() == [True, False]
    assert found.agreement[1, 1]


@pytest.mark.parametrize("standardize", [False, True])
def test_a_fitted_target_is_one_distribution_over_all_classes(standardize: bool) -> None:
    """Whatever was fitted: from all teachers' logits to logits over the union, here a matrix."""
    random = torch.Generator().manual_seed(0)
    teachers, matrix = torch.randn(40, 4, generator=random), torch.randn(4, 4, generator=random)
    blocks, rules = LabelBlocks([[0, 1], [2, 3]], 4), TargetRules("stacked", 2.0, standardize, confidence_temperature=1.0)
    active, unknown = torch.tensor([[True, False]] * 20 + [[True, True]] * 20), torch.full((40,), -1)  # all are asked all the same
    apart, same = (
        distillation(logits, teachers, active, unknown, blocks, rules, "kl", lambda values: values @ matrix)
        for logits in (torch.zeros(40, 4), teachers @ matrix)
    )
    combined = (teachers @ matrix).double().numpy()
    if standardize:
        combined = (combined - combined.mean(1, keepdims=True)) / combined.std(1, ddof=1, keepdims=True)
    p = np.exp(combined / 2) / np.exp(combined / 2).sum(1, keepdims=True)
    np.testing.assert_allclose(apart.losses, 4 * (p * np.log(4 * p)).sum(1), rtol=1e-4)
    np.testing.assert_allclose(same.losses, 0, atol=1e-5)
    np.testing.assert_allclose(apart.weight, np.stack([p[:, :2].sum(1), p[:, 2:].sum(1)], 1), rtol=1e-5)


def test_a_shared_class_counts_half_for_each_of_its_two_teachers() -> None:
    """0.2, 0.5 and 0.3 of {a, b} and {b, c}; beside a label of a, the second of them was not asked, and c is nobody's."""
    target, blocks = torch.tensor([[0.2, 0.5, 0.3]]), LabelBlocks([[0, 1], [1, 2]], 3)
    assert class_shares(target.log(), blocks, torch.tensor([[True, True]])).tolist()[0] == pytest.approx([0.2 + 0.25, 0.25 + 0.3])
    assert class_shares(target.log(), blocks, torch.tensor([[True, False]])).tolist()[0] == pytest.approx([0.7, 0])


@pytest.mark.parametrize("target", TARGETS)
@given(sets=label_sets(), seed=st.integers(0, 1000))
@settings(deadline=None, max_examples=30)
def test_the_teachers_parts_in_a_target_make_up_all_that_some_of_them_know(target: Target, sets: Sets, seed: int) -> None:
    classes, columns = sets
    logits, active = example(columns, seed)
    found = distilled(student_logits(classes, seed), logits, active, sets, target)
    assert (found.weight >= 0).all()
    assert (found.weight[~active] == 0).all()
    if target != "joint":
        np.testing.assert_allclose(found.weight.sum(1), 1, rtol=1e-4)
        return
    knowledge = Knowledge(
        LabelBlocks(columns, classes), LabelBlocks(columns, classes).of_teachers(logits, active), active, torch.full((B,), -1)
    )
    joint = union_log_probs(knowledge, "joint", equal_weights(knowledge)).exp().numpy()
    for row, own in enumerate(active.numpy()):
        asked = [columns[i] for i in np.flatnonzero(own)]
        part = [sum(joint[row, c] / sum(c in others for others in asked) for c in known) for known in asked]
        np.testing.assert_allclose(found.weight[row][own], part, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("target", TARGETS)
def test_an_objectives_parts_make_up_the_loss(target: Target, objective: Objective) -> None:
    sets = (6, [[0, 1, 2], [2, 3, 4, 5]])
    found = distilled(student_logits(6, 0), *example(sets[1], 0), sets, target, objective, 2.0)
    torch.testing.assert_close(sum(found.parts.values()), found.losses)
    assert len(found.parts) == (1 if objective == "kl" else 2)


@pytest.mark.parametrize("target", ["mean", "joint"])
def test_without_a_label_the_main_class_of_dkd_is_the_surer_teachers(target: Target) -> None:
    """Even of two whose probabilities are one in single precision: it is not that of the teacher who is listed first."""
    student, active, unknown = student_logits(4, 0)[:1], torch.ones(1, 2, dtype=torch.bool), torch.tensor([-1])
    blocks, rules = LabelBlocks([[0, 1], [2, 3]], 4), TargetRules(target, 1.0, False, confidence_temperature=1.0)
    teachers = torch.tensor([[20.0, 0.0, 22.0, 0.0]])
    found, told = (distillation(student, teachers, active, label, blocks, rules, "dkd").losses for label in (unknown, torch.tensor([2])))
    torch.testing.assert_close(found, told)


@pytest.mark.parametrize("target", ["blocks", "joint"])
def test_a_student_that_says_the_same_of_all_classes_has_a_finite_gradient(target: Target) -> None:
    """Standardised, its logits have no spread to be divided by."""
    student, (teacher, active) = torch.zeros((B, 6), requires_grad=True), example([[0, 1, 2], [3, 4, 5]], 0)
    distilled(student, teacher, active, (6, [[0, 1, 2], [3, 4, 5]]), target, standardize=True).losses.mean().backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_the_label_loss_of_an_image_without_label_is_zero() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [5.0, 1.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 3
    assert label_loss(logits, torch.tensor([0, 1, -1]), 0.0).item() == pytest.approx(expected, abs=1e-6)
    assert label_loss(logits, torch.tensor([-1, -1, -1]), 0.1).item() == 0


def test_labels_are_smoothed_beside_images_without_one_too() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [5.0, 1.0]])
    expected = functional.cross_entropy(logits[:2], torch.tensor([0, 1]), label_smoothing=0.2, reduction="sum") / 3
    torch.testing.assert_close(label_loss(logits, torch.tensor([0, 1, -1]), 0.2), expected)


def test_label_smoothing_is_torchs() -> None:
    logits, labels = student_logits(4, 0), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(label_loss(logits, labels, 0.2), expected)
