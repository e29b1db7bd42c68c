"""Softmax, DKD and DIST in double precision, image by image and teacher by teacher, as their papers write them."""

import math

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
    """DIST inside each teacher's label set, over its images alone, in the mean over all pairs."""
    total = 0.0
    for i in range(teachers):
        own = [pair for (_, teacher), pair in pairs.items() if teacher == i]
        if own:
            p, q = (np.stack(part) for part in zip(*own, strict=True))
            total += len(own) * (unlike(p, q) + (unlike(p.T, q.T) if len(own) > 1 else 0.0))
    return total / len(pairs)
