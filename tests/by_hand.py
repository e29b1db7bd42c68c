"""Softmax, DKD and DIST in double precision, image by image and teacher by teacher, as their papers write them."""

import math
from collections import Counter

import numpy as np

from amalgam.blocks import STANDARDIZE_EPSILON
from amalgam.objectives import DKD_OTHERS, DKD_TARGET, PEARSON_EPSILON


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


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


def dkd_by_hand(teacher: np.ndarray, student: np.ndarray, main: int) -> float:
    """DKD of two distributions, as Zhao et al. write it."""
    rest = [k for k in range(len(teacher)) if k != main]
    binary = [(teacher[main], student[main]), (teacher[rest].sum(), student[rest].sum())]
    target_part = sum(t * math.log(t / s) for t, s in binary)
    p, q = teacher[rest] / teacher[rest].sum(), student[rest] / student[rest].sum()
    return float(DKD_TARGET * target_part + DKD_OTHERS * sum(t * math.log(t / s) for t, s in zip(p, q, strict=True)))


def unlike(first: np.ndarray, second: np.ndarray) -> float:
    """Mean over rows of 1 − correlation, where a row hardly varies less of it, as in the method's code."""
    pairs = zip(first - first.mean(1, keepdims=True), second - second.mean(1, keepdims=True), strict=True)
    lengths = [(float(one @ other), float(np.linalg.norm(one)), float(np.linalg.norm(other))) for one, other in pairs]
    return float(np.mean([1 - dot / (max(one, PEARSON_EPSILON) * max(other, PEARSON_EPSILON)) for dot, one, other in lengths]))


def dist_by_hand(pairs: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]], teachers: int) -> float:
    """DIST inside each teacher's label set, over its images alone, each of which counts there by one over the number of its teachers."""
    asked = Counter(row for row, _ in pairs)
    total = 0.0
    for i in range(teachers):
        own = {row: pair for (row, teacher), pair in pairs.items() if teacher == i}
        if own:
            p, q = (np.stack(part) for part in zip(*own.values(), strict=True))
            share = np.array([1 / asked[row] for row in own])
            rows = sum(each * unlike(p[place : place + 1], q[place : place + 1]) for place, each in enumerate(share))
            columns = [1 - weighted_correlation(p[:, k], q[:, k], share) for k in range(p.shape[1])] if len(own) > 1 else [0.0]
            total += rows + share.sum() * np.mean(columns)
    return total / len(asked)


def weighted_correlation(a: np.ndarray, b: np.ndarray, weight: np.ndarray) -> float:
    covariance = np.cov(a, b, aweights=weight)
    return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))
