"""Objectives: values by hand, independent implementations."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchdistill.losses.mid_level import DISTLoss, KDLoss, LogitStdKDLoss

from amalgam.objectives import DKD_OTHERS, DKD_TARGET, dkd
from amalgam.target_names import Objective, Target
from by_hand import dkd_by_hand, softmax
from random_teachers import (
    TARGETS,
    B,
    distilled,
    student_logits,
)


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


@pytest.mark.parametrize("temperature", [100.0, 1000.0])
def test_relations_between_nearly_equal_probabilities_are_torchdistills(temperature: float) -> None:
    """The guard against a division by nothing is far below the spread that such a temperature leaves."""
    student, teacher, active = student_logits(6, 1), student_logits(6, 2), torch.ones(B, 1, dtype=torch.bool)
    io = {"s": {"output": student}}, {"t": {"output": teacher}}
    where = {"student_module_path": "s", "student_module_io": "output", "teacher_module_path": "t", "teacher_module_io": "output"}
    ours = distilled(student, teacher, active, (6, [list(range(6))]), "mean", "dist", temperature).losses.mean()
    torch.testing.assert_close(ours, DISTLoss(**where, tau=temperature)(*io), atol=1e-4, rtol=1e-4)


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
    parts = {name: part.item() for name, part in dkd(target.log(), student.log(), main_class, every).items()}
    assert parts == pytest.approx({"target_class": 1 * binary, "non_target_classes": 8 * among}, rel=1e-5)


@pytest.mark.parametrize("target", ["blocks", "mean"])
def test_the_relations_of_dist_by_hand(target: Target) -> None:
    """Two images, three classes: from one image to the other teacher and student say more of the first class, less of the second, and
    differ about the third, 1 − (−1)."""
    teacher, student = torch.tensor([[0.6, 0.3, 0.1], [0.7, 0.1, 0.2]]).log(), torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.25, 0.15]]).log()
    found = distilled(student, teacher, torch.ones(2, 1, dtype=torch.bool), (3, [[0, 1, 2]]), target, "dist")
    inside = [1 - np.corrcoef(p, q)[0, 1] for p, q in zip(teacher.exp().numpy(), student.exp().numpy(), strict=True)]
    assert found.parts["inter_class"].tolist() == pytest.approx([np.mean(inside)] * 2, abs=1e-6)
    assert found.parts["intra_class"].tolist() == pytest.approx([(0 + 0 + 2) / 3] * 2, abs=1e-5)
    assert found.parts.keys() == {"inter_class", "intra_class"}


def _others(teacher: Tensor, log_student: Tensor, main_class: Tensor) -> Tensor:
    p, q = teacher.masked_fill(main_class, 0), log_student.exp().masked_fill(main_class, 0)
    p, q = p / p.sum(1, keepdim=True), q / q.sum(1, keepdim=True)
    return torch.where(main_class, 0.0, p * (p.clamp(min=1e-30).log() - q.clamp(min=1e-30).log())).sum(1)


def test_dkd_is_weighted_kl_where_the_parts_weigh_as_in_kl() -> None:
    """KL = KL(binary) + (1 − p_y) · KL(others): the identity that DKD decouples."""
    teacher, student = torch.softmax(student_logits(4, 5), 1), torch.log_softmax(student_logits(4, 6), 1)
    main_class = torch.nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 0, 1, 2]), 4).bool()
    every = torch.ones_like(main_class)
    found = dkd(teacher.log(), student, main_class, every)
    kl = (teacher * (teacher.log() - student)).sum(1)
    torch.testing.assert_close(found["non_target_classes"] / DKD_OTHERS, others := _others(teacher, student, main_class))
    binary = found["target_class"] / DKD_TARGET
    torch.testing.assert_close(binary + (1 - (teacher * main_class).sum(1)) * others, kl, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gap", [10.0, 30.0, 60.0, 200.0])
@pytest.mark.parametrize("target", ["blocks", "mean"])
def test_dkd_teaches_the_other_classes_however_sure_the_teacher_is(target: Target, gap: float) -> None:
    """Teacher (gap, 2, 0, −2): the others among themselves do not depend on gap, though single precision holds no probability below
    e⁻¹⁰⁴."""
    teacher, active, student = torch.tensor([[gap, 2.0, 0.0, -2.0]]), torch.tensor([[True]]), torch.tensor([[0.0, -1.0, 1.0, 2.0]])
    found = distilled(student, teacher, active, (4, [list(range(4))]), target, "dkd", labels=torch.tensor([0]))
    p, q = softmax(np.array([2.0, 0.0, -2.0])), softmax(np.array([-1.0, 1.0, 2.0]))
    sure = softmax(np.array([0.0, -1.0, 1.0, 2.0]))[0]
    among = DKD_OTHERS * float(np.sum(p * np.log(p / q)))
    assert found.losses.item() == pytest.approx(-math.log(sure) * DKD_TARGET + among, rel=1e-3)


@pytest.mark.parametrize("target", ["mean", "confidence"])
def test_dkd_teaches_the_other_classes_of_teachers_that_are_averaged_however_sure_they_are(target: Target) -> None:
    """Two that share class 1 and are nothing but sure of 0; by hand, in double precision, of the mean of their distributions."""
    teacher = torch.tensor([[300.0, 2.0, 0.0, 303.0, 1.0, -1.0]], dtype=torch.float64)
    columns, active, student = [[0, 1, 2], [0, 1, 3]], torch.tensor([[True, True]]), torch.tensor([[0.0, -1.0, 1.0, 2.0]])
    first, second = np.array([2.0, 0.0]) - 300, np.array([1.0, -1.0]) - 303
    logs = np.array([np.logaddexp(first[0], second[0]), first[1], second[1]])
    p, q = softmax(logs), softmax(np.array([-1.0, 1.0, 2.0]))
    sure = softmax(np.array([0.0, -1.0, 1.0, 2.0]))[0]
    expected = -math.log(sure) * DKD_TARGET + DKD_OTHERS * float(np.sum(p * np.log(p / q)))
    found = distilled(student, teacher.float(), active, (4, columns), target, "dkd", labels=torch.tensor([0]))
    assert found.losses.item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("objective", ["kl", "dkd", "dist"])
def test_an_image_of_a_shared_class_counts_as_much_as_any_other(objective: Objective) -> None:
    """Two teachers share class 3. The student says what they say of all images but one, of which it says the contrary; in the mean over
    the images of each class."""
    columns, labels = [[0, 1, 2, 3], [3, 4, 5, 6]], np.arange(140) % 7
    active = torch.from_numpy(np.array([[label in own for own in columns] for label in labels]))
    known = torch.from_numpy(np.random.default_rng(0).normal(0, 2, (140, 7))).float()
    teachers = torch.cat([known[:, own] for own in columns], 1)

    def cost(image: int) -> float:
        student = known.clone()
        student[image] = -student[image]
        found = distilled(student, teachers, active, (7, columns), "blocks", objective, 1.0, torch.from_numpy(labels))
        return float(found.losses.mean())

    of_class = [np.mean([cost(image) for image in range(own, 140, 7)]) for own in range(7)]
    assert of_class[3] == pytest.approx(np.mean(np.delete(of_class, 3)), rel=0.3), "and not twice as much"


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
