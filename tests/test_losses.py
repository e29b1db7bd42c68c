"""Losses: values by hand, independent implementations, properties over random label sets."""

import math
from typing import get_args

import hypothesis
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchdistill.losses.mid_level import DISTLoss, KDLoss, LogitStdKDLoss

from amalgam.losses import (
    DKD_OTHERS,
    DKD_TARGET,
    PEARSON_EPSILON,
    STANDARDIZE_EPSILON,
    Distilled,
    Knowledge,
    LabelBlocks,
    TargetRules,
    confidence_weights,
    distillation,
    dkd,
    equal_weights,
    label_loss,
    union_log_probs,
)
from amalgam.target_names import FITTED_TARGETS, Objective, Target

TARGETS: tuple[Target, ...] = tuple(target for target in get_args(Target) if target not in FITTED_TARGETS)  # these: their own tests
DISTRIBUTIONS: tuple[Target, ...] = ("mean", "joint", "confidence")
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
B = 7

Sets = tuple[int, list[list[int]]]


@st.composite
def label_sets(draw: st.DrawFn) -> Sets:
    """A number of classes, and for each of one to ten teachers two of them or more: nested, identical, disjoint, any."""
    classes = draw(st.integers(2, 9))
    sets = st.lists(st.integers(0, classes - 1), min_size=2, max_size=classes, unique=True).map(sorted)
    return classes, draw(st.lists(sets, min_size=1, max_size=10))


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


def target_of(
    logits: Tensor, active: Tensor, columns: list[list[int]], classes: int, target: Target, temperature: float = 1.0, tau: float = 1.0
) -> Tensor:
    blocks = LabelBlocks(columns, classes)
    knowledge = Knowledge(blocks, blocks.of_teachers(logits, active) / temperature, active, torch.full((len(logits),), -1))
    weight = confidence_weights(knowledge, tau) if target == "confidence" else equal_weights(knowledge)
    return union_log_probs(knowledge, target, weight).exp()


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


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def components(sets: Sets, active: list[int]) -> list[set[int]]:
    """The connected components of the active label sets; a class that none knows is one of its own."""
    classes, columns = sets
    parts = [{c} for c in range(classes)]
    for teacher in active:
        joined = [part for part in parts if part & set(columns[teacher])]
        parts = [part for part in parts if part not in joined] + [set().union(*joined)]
    return parts


# ── Targets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_mean_of_two_teachers_by_hand() -> None:
    """Teacher 1 knows {a, b} and says (.8, .2); teacher 2 knows {b, c} and says (.5, .5)."""
    logits, columns = torch.log(torch.tensor([[0.8, 0.2, 0.5, 0.5]])), [[0, 1], [1, 2]]
    both, first = torch.tensor([[True, True]]), torch.tensor([[True, False]])
    torch.testing.assert_close(target_of(logits, both, columns, 3, "mean"), torch.tensor([[0.4, 0.35, 0.25]]))
    torch.testing.assert_close(target_of(logits, first, columns, 3, "mean"), torch.tensor([[0.8, 0.2, 0.0]]))


def test_a_shared_class_keeps_its_probability() -> None:
    """Two teachers that are 80 % sure of the one class they share: the target says 80 %, not less."""
    logits = torch.log(torch.tensor([[0.8, 0.2, 0.8, 0.2]]))
    target = target_of(logits, torch.tensor([[True, True]]), [[0, 1], [0, 2]], 3, "mean")
    torch.testing.assert_close(target, torch.tensor([[0.8, 0.1, 0.1]]))


def test_confidence_weights_by_hand() -> None:
    """Teacher 1 is sure (.9, .1), teacher 2 knows nothing (.5, .5): s = (1 − H(.9)/log 2, 0)."""
    logits, active = torch.log(torch.tensor([[0.9, 0.1, 0.5, 0.5]])), torch.tensor([[True, True]])
    confidence = 1 + (0.9 * math.log(0.9) + 0.1 * math.log(0.1)) / math.log(2)
    first = math.exp(confidence / 0.5) / (math.exp(confidence / 0.5) + 1)
    found = target_of(logits, active, [[0, 1], [1, 2]], 3, "confidence", tau=0.5)
    torch.testing.assert_close(found, torch.tensor([[0.9 * first, 0.1 * first + 0.5 * (1 - first), 0.5 * (1 - first)]]))


@given(label_sets(), st.floats(0.5, 10), st.integers(0, 1000))
@settings(deadline=None)
def test_the_mean_is_that_of_zero_padded_distributions(sets: Sets, temperature: float, seed: int) -> None:
    classes, columns = sets
    logits, active = example(columns, seed)
    target = target_of(logits, active, columns, classes, "mean", temperature)
    starts = np.cumsum([0] + [len(own) for own in columns])
    for row in range(B):
        padded = []
        for teacher in np.flatnonzero(active[row]):
            whole = np.zeros(classes)
            whole[columns[teacher]] = softmax(logits[row, starts[teacher] : starts[teacher + 1]].double().numpy() / temperature)
            padded.append(whole)
        np.testing.assert_allclose(target[row].numpy(), np.mean(padded, axis=0), atol=1e-6)


@pytest.mark.parametrize("target", DISTRIBUTIONS)
@given(sets=label_sets(), temperature=st.floats(0.5, 10), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_a_target_over_the_union_is_a_distribution(target: Target, sets: Sets, temperature: float, seed: int) -> None:
    classes, columns = sets
    logits, active = example(columns, seed)
    found = target_of(logits, active, columns, classes, target, temperature)
    assert (found >= 0).all()
    torch.testing.assert_close(found.sum(1), torch.ones(B))


@pytest.mark.parametrize("target", DISTRIBUTIONS)
def test_one_teacher_of_all_classes_is_its_own_target(target: Target) -> None:
    logits = student_logits(5, 3)
    found = target_of(logits, torch.ones(B, 1, dtype=torch.bool), [list(range(5))], 5, target)
    torch.testing.assert_close(found, torch.softmax(logits, 1))


# ── Distillation ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_divergence_agrees_with_double_precision_by_hand() -> None:
    """T² once, mean over images, KL(teacher ‖ student)."""
    random, temperature = np.random.default_rng(0), 3.0
    student, teacher = random.normal(0, 2, (5, 4)), random.normal(0, 2, (5, 4))
    by_hand = 0.0
    for row, wanted in zip(student, teacher, strict=True):
        q, p = softmax(row / temperature), softmax(wanted / temperature)
        by_hand += temperature**2 * sum(t * math.log(t / s) for t, s in zip(p, q, strict=True)) / 5
    for target in TARGETS:
        active = torch.ones(5, 1, dtype=torch.bool)
        found = distilled(
            torch.from_numpy(student).float(), torch.from_numpy(teacher).float(), active, (4, [[0, 1, 2, 3]]), target, "kl", temperature
        )
        assert found.losses.mean().item() == pytest.approx(by_hand, abs=1e-5)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_with_one_teacher_of_all_classes_the_objectives_are_those_of_torchdistill(target: Target, temperature: float) -> None:
    student, teacher, active = student_logits(6, 1), student_logits(6, 2), torch.ones(B, 1, dtype=torch.bool)
    io = {"s": {"output": student}}, {"t": {"output": teacher}}
    where = {"student_module_path": "s", "student_module_io": "output", "teacher_module_path": "t", "teacher_module_io": "output"}
    sets = (6, [list(range(6))])

    def ours(objective: Objective, standardize: bool = False) -> Tensor:
        return distilled(student, teacher, active, sets, target, objective, temperature, standardize=standardize).losses.mean()

    kl = KDLoss(**where, temperature=temperature, alpha=0)(*io) * temperature**2
    standardized = LogitStdKDLoss(**where, temperature=temperature, alpha=0)(*io) * temperature**2
    torch.testing.assert_close(ours("kl"), kl, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours("kl", True), standardized, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours("dist"), DISTLoss(**where, tau=temperature)(*io), atol=1e-5, rtol=1e-5)


def dkd_by_hand(teacher: np.ndarray, student: np.ndarray, main: int) -> float:
    """DKD of two distributions, as Zhao et al. write it."""
    rest = [k for k in range(len(teacher)) if k != main]
    binary = [(teacher[main], student[main]), (teacher[rest].sum(), student[rest].sum())]
    target_part = sum(t * math.log(t / s) for t, s in binary)
    p, q = teacher[rest] / teacher[rest].sum(), student[rest] / student[rest].sum()
    return float(DKD_TARGET * target_part + DKD_OTHERS * sum(t * math.log(t / s) for t, s in zip(p, q, strict=True)))


def known_images(sets: Sets, seed: int, labelled: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Teacher logits (B, Σ|Lᵢ|), who is active and the labels: those that know the class of an image, or without labels anyone."""
    columns = sets[1]
    if not labelled:
        return *example(columns, seed), torch.full((B,), -1)
    random = np.random.default_rng([seed, 2])
    labels = random.choice(sorted(set().union(*columns)), B)
    active = np.array([[label in own for own in columns] for label in labels])
    return torch.from_numpy(random.normal(0, 3, (B, sum(map(len, columns))))).float(), torch.from_numpy(active), torch.from_numpy(labels)


def pairs_by_hand(
    student: np.ndarray, logits: np.ndarray, active: np.ndarray, columns: list[list[int]], temperature: float, standardize: bool
) -> dict[tuple[int, int], tuple[np.ndarray, np.ndarray]]:
    """By image and active teacher: its distribution and the student's inside its label set, in double precision."""

    def softened(values: np.ndarray) -> np.ndarray:
        return softmax(((values - values.mean()) / (values.std(ddof=1) + STANDARDIZE_EPSILON) if standardize else values) / temperature)

    starts = np.cumsum([0, *map(len, columns)])
    return {
        (row, i): (softened(logits[row, starts[i] : starts[i + 1]]), softened(student[row, columns[i]]))
        for row, i in np.argwhere(active).tolist()
    }


def unlike(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over rows of 1 − correlation, where a row hardly varies less of it, as in the method's code."""
    pairs = zip(first - first.mean(1, keepdims=True), second - second.mean(1, keepdims=True), strict=True)
    lengths = [(float(one @ other), float(np.linalg.norm(one)), float(np.linalg.norm(other))) for one, other in pairs]
    return float(np.mean([1 - dot / (max(one, PEARSON_EPSILON) * max(other, PEARSON_EPSILON)) for dot, one, other in lengths]))


def dist_by_hand(pairs: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]], teachers: int) -> float:
    """DIST inside each teacher's label set, over its images alone, in the mean over all pairs."""
    total = 0.0
    for i in range(teachers):
        own = [pair for (_, teacher), pair in pairs.items() if teacher == i]
        if own:
            p, q = (np.stack(part) for part in zip(*own, strict=True))
            total += len(own) * (unlike(p, q) + (unlike(p.T, q.T) if len(own) > 1 else 0.0))
    return total / len(pairs)


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


@given(sets=label_sets(), seed=st.integers(0, 1000))
@settings(deadline=None)
def test_confidence_agrees_with_double_precision_by_hand(sets: Sets, seed: int) -> None:
    """At T 3, in label sets of different sizes, over the active teachers alone."""
    classes, columns = sets
    logits, active = example(columns, seed)
    student = student_logits(classes, seed)
    found = distilled(student, logits, active, sets, "confidence", temperature=3.0).weight
    assert found is not None
    pairs = pairs_by_hand(student.double().numpy(), logits.double().numpy(), active.numpy(), columns, 3.0, False)
    sure = np.full((B, len(columns)), -np.inf)
    for (row, i), (p, _) in pairs.items():
        sure[row, i] = 1 + float(np.sum(p * np.log(p))) / math.log(len(p))
    np.testing.assert_allclose(found.numpy(), np.stack([softmax(row) for row in sure]), atol=1e-5)


def test_dkd_agrees_with_double_precision_by_hand() -> None:
    random, temperature = np.random.default_rng(4), 2.0
    student, teacher, labels = random.normal(0, 2, (B, 5)), random.normal(0, 2, (B, 5)), random.integers(0, 5, B)
    pairs = [(softmax(t / temperature), softmax(s / temperature), int(main)) for t, s, main in zip(teacher, student, labels, strict=True)]
    active = torch.ones(B, 1, dtype=torch.bool)
    for target in TARGETS:
        for known, mains in ((labels, labels), (np.full(B, -1), teacher.argmax(1))):
            by_hand = temperature**2 * np.mean([dkd_by_hand(t, s, int(main)) for (t, s, _), main in zip(pairs, mains, strict=True)])
            found = distilled(
                torch.from_numpy(student),
                torch.from_numpy(teacher),
                active,
                (5, [list(range(5))]),
                target,
                "dkd",
                temperature,
                torch.from_numpy(known),
            )
            assert found.losses.mean().item() == pytest.approx(by_hand, rel=1e-5)


def test_dkd_by_hand() -> None:
    """The target (.5, .3, .2) of class 0, the student (.2, .5, .3): the others are (.6, .4) and (.625, .375) among themselves."""
    target, student = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.2, 0.5, 0.3]])
    every, main_class = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[True, False, False]])
    binary = 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.8)
    among = 0.6 * math.log(0.6 / 0.625) + 0.4 * math.log(0.4 / 0.375)
    assert dkd(target.log(), student.log(), main_class, every).item() == pytest.approx(1 * binary + 8 * among, rel=1e-5)


def test_dkd_is_weighted_kl_where_the_parts_weigh_as_in_kl() -> None:
    """KL = KL(binary) + (1 − p_y) · KL(others): the identity that DKD decouples."""
    teacher, student = torch.softmax(student_logits(4, 5), 1), torch.log_softmax(student_logits(4, 6), 1)
    main_class = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 0, 1, 2]), 4).bool()
    every = torch.ones_like(main_class)
    both = dkd(teacher.log(), student, main_class, every)
    kl = (teacher * (teacher.log() - student)).sum(1)
    binary = both - DKD_OTHERS * (others := _others(teacher, student, main_class))
    torch.testing.assert_close(binary / DKD_TARGET + (1 - (teacher * main_class).sum(1)) * others, kl, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gap", [10.0, 30.0, 60.0, 200.0])
@pytest.mark.parametrize("target", ["blocks", "mean"])
def test_dkd_teaches_the_other_classes_however_sure_the_teacher_is(target: Target, gap: float) -> None:
    """Teacher (gap, 2, 0, −2): the others among themselves do not depend on gap, while single precision holds their probabilities."""
    teacher, active, student = torch.tensor([[gap, 2.0, 0.0, -2.0]]), torch.tensor([[True]]), torch.tensor([[0.0, -1.0, 1.0, 2.0]])
    found = distilled(student, teacher, active, (4, [list(range(4))]), target, "dkd", labels=torch.tensor([0]))
    p, q = softmax(np.array([2.0, 0.0, -2.0])), softmax(np.array([-1.0, 1.0, 2.0]))
    sure = softmax(np.array([0.0, -1.0, 1.0, 2.0]))[0]
    among = DKD_OTHERS * float(np.sum(p * np.log(p / q))) if target == "blocks" or gap < 80 else 0.0
    assert found.losses.item() == pytest.approx(-math.log(sure) * DKD_TARGET + among, rel=1e-3)


@pytest.mark.parametrize(
    ("teacher", "student"), [((60, 2, 0, -2), (0, -1, 1, 2)), ((1, 1.001, 0.999, 1.002), (150, 0, 1, 2)), ((0, 1, 2, 3), (3, 2, 1, 0))]
)
def test_dkd_is_exact_at_the_lowest_temperature(teacher: tuple[float, ...], student: tuple[float, ...]) -> None:
    """Where logarithms of probabilities are tens of thousands; in double precision by hand, from logits."""
    t, s = np.array(teacher) / 0.01, np.array(student) / 0.01

    def logarithms(logits: np.ndarray) -> np.ndarray:
        return np.asarray(logits - np.logaddexp.reduce(logits))

    whole, mine = logarithms(t), logarithms(s)
    rest, own = np.logaddexp.reduce(whole[1:]), np.logaddexp.reduce(mine[1:])
    others, of_student = logarithms(t[1:]), logarithms(s[1:])
    binary = np.exp(whole[0]) * (whole[0] - mine[0]) + np.exp(rest) * (rest - own)
    by_hand = 0.01**2 * (DKD_TARGET * binary + DKD_OTHERS * float(np.exp(others) @ (others - of_student)))
    sets, active = (4, [list(range(4))]), torch.tensor([[True]])
    given, said = (torch.tensor([values], dtype=torch.float64) for values in (student, teacher))
    found = distilled(given, said, active, sets, "blocks", "dkd", 0.01, torch.tensor([0]))
    assert found.losses.item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 10.0, 100.0])
def test_a_student_that_says_what_its_teacher_says_has_no_divergence_at_any_temperature(temperature: float) -> None:
    logits = 4 * student_logits(100, 0)
    found = distilled(logits, logits, torch.ones(B, 1, dtype=torch.bool), (100, [list(range(100))]), "blocks", "kl", temperature)
    assert (found.losses == 0).all()
    assert (found.divergence == 0).all()


def test_confidence_is_that_of_the_logits_before_they_are_standardized() -> None:
    """Standardised, (10, 0, 1) and (.1, 0, .01) are equally sure."""
    logits, active = torch.tensor([[10.0, 0.0, 1.0, 0.1, 0.0, 0.01]]), torch.tensor([[True, True]])
    sets = (5, [[0, 1, 2], [2, 3, 4]])
    before, after = (distilled(torch.zeros(1, 5), logits, active, sets, "confidence", standardize=on).weight for on in (False, True))
    torch.testing.assert_close(before, after)
    assert before is not None
    assert before[0, 0] > 0.7


def _others(teacher: Tensor, log_student: Tensor, main_class: Tensor) -> Tensor:
    p, q = teacher.masked_fill(main_class, 0), log_student.exp().masked_fill(main_class, 0)
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return torch.where(main_class, 0.0, p * (p.clamp(min=1e-30).log() - q.clamp(min=1e-30).log())).sum(1)


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
        assert (result.weight is None) == (target == "joint")
        if result.weight is not None:
            torch.testing.assert_close(result.weight.sum(1), torch.ones(B))
            assert (result.weight[~active] == 0).all()
        found.append((result.losses.mean().detach(), student.grad))
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
    assert found.weight is not None
    assert found.weight.tolist() == [[0.5, 0.5], [0.0, 1.0]]
    assert found.agreement[0].tolist() == [True, False]
    assert found.agreement[1, 1]


# ── Labels ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_label_loss_of_an_image_without_label_is_zero() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [5.0, 1.0]])
    expected = (math.log(1 + math.exp(-2)) + math.log(2)) / 3
    assert label_loss(logits, torch.tensor([0, 1, -1]), 0.0).item() == pytest.approx(expected, abs=1e-6)
    assert label_loss(logits, torch.tensor([-1, -1, -1]), 0.1).item() == 0


def test_label_smoothing_is_torchs() -> None:
    logits, labels = student_logits(4, 0), torch.tensor([0, 1, 2, 3, 0, 1, 2])
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    torch.testing.assert_close(label_loss(logits, labels, 0.2), expected)
