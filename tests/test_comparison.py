"""How published differences between accuracies, and their intervals, are worked out, and how measurements are kept."""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from benchmarks.comparison import by_student, gain, interval, packed, right_images, t_interval, with_spread
from benchmarks.measured import keep, made_here, measured
from benchmarks.same_teachers import refuse_other_teachers
from benchmarks.speed.pairs import times_as_fast
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from amalgam.errors import UserError

Right = npt.NDArray[np.bool_]


def drawn(rate: float, shape: tuple[int, ...], seed: int) -> Right:
    found: Right = np.random.default_rng(seed).random(shape) < rate
    return found


@pytest.mark.parametrize("images", [1, 7, 8, 1500])
def test_what_is_packed_comes_back(images: int) -> None:
    right = drawn(0.5, (images,), images)
    assert (right_images({"right": packed(right), "images": images}) == right).all()


def test_equal_rows_differ_by_nothing() -> None:
    right = drawn(0.7, (3, 200), 0)
    assert interval(right, right) == (0, 0, 0)


def test_more_seeds_that_answer_alike_say_nothing_more_of_the_images() -> None:
    """All seeds are tested on the same ones, and these are drawn for all alike."""
    first, second = drawn(0.7, (1, 400), 1), drawn(0.6, (1, 400), 2)
    assert interval(first.repeat(4, 0), second.repeat(4, 0)) == pytest.approx(interval(first, second), abs=0.5)


def test_a_row_that_is_always_right_is_ahead_of_one_that_never_is_by_all() -> None:
    assert interval(np.full((2, 9), True), np.full((2, 9), False)) == (100, 100, 100)


def test_the_interval_turns_round_with_the_rows() -> None:
    first, second = drawn(0.7, (3, 200), 1), drawn(0.6, (3, 200), 2)
    there, back = interval(first, second), interval(second, first)
    assert there == pytest.approx((-back[0], -back[2], -back[1]))


def test_the_interval_of_many_images_is_the_normal_one() -> None:
    """Of one seed: the paired difference's standard deviation over the root of the number of images, times 1.96."""
    first, second = drawn(0.7, (1, 2000), 3), drawn(0.6, (1, 2000), 4)
    difference = 100 * (first.astype(float) - second)
    half = 1.96 * difference.std() / np.sqrt(2000)
    mean, low, high = interval(first, second)
    assert (mean, low, high) == pytest.approx((difference.mean(), difference.mean() - half, difference.mean() + half), abs=0.15)


def test_seeds_that_disagree_widen_the_interval() -> None:
    """Both rows are right about half the images; in one pair of rows by seeds that are right about all or none."""
    images = drawn(0.5, (4, 400), 5)
    seeds = np.repeat([[True], [False], [True], [False]], 400, axis=1)
    none = np.full((4, 400), False)
    (_, low, high), (_, lower, higher) = interval(images, none), interval(seeds, none)
    assert higher - lower > 5 * (high - low)


def ahead_by(*images: int) -> tuple[Right, Right]:
    """Two rows (seeds, 100): in each seed the first is right about so many images more, the second, where it is negative."""
    place = np.arange(100)
    by = np.array(images)[:, None]
    return place < by, place < -by


def test_students_t_by_hand() -> None:
    """Differences of 1, 2 and 3 points: their mean 2, standard deviation 1, and 4.303 the table's t of two degrees of freedom."""
    half = 4.303 / np.sqrt(3)
    assert t_interval(*ahead_by(1, 2, 3)) == pytest.approx((2 - half, 2 + half), abs=0.001)
    assert t_interval(*ahead_by(7, 7, 7)) == pytest.approx((7, 7))


def test_of_a_single_value_students_interval_is_the_whole_line() -> None:
    assert by_student(np.array([3.0])) == (3, -np.inf, np.inf)
    assert times_as_fast([1.0], [2.0]) == pytest.approx((2, 0, np.inf))


def test_how_many_times_as_fast_is_the_pairs_geometric_mean() -> None:
    """Twice and eight times: four times on average; t of one degree of freedom is 12.706, and the logarithms deviate by log 2."""
    mean, low, high = times_as_fast([1.0, 1.0], [2.0, 8.0])
    assert (mean, low, high) == pytest.approx((4, 4 / 2**12.706, 4 * 2**12.706), rel=1e-3)


@given(st.lists(st.integers(-100, 100), min_size=2, max_size=6))
@settings(deadline=None)
def test_students_t_ends_where_its_test_begins_to_refuse(images: list[int]) -> None:
    """At its ends the two-sided test of the seeds' differences has a p-value of 5 %; and it turns round with the rows."""
    low, high = t_interval(*ahead_by(*images))
    back = t_interval(*reversed(ahead_by(*images)))
    assert (low, high) == pytest.approx((-back[1], -back[0]))
    assert (low + high) / 2 == pytest.approx(np.mean(images))
    if len(set(images)) > 1:
        assert [stats.ttest_1samp(images, end).pvalue for end in (low, high)] == pytest.approx([0.05, 0.05])


def test_a_gain_reads_as_difference_and_interval() -> None:
    assert gain(np.full((2, 9), True), np.full((2, 9), False)) == "+100.0 (+100.0 … +100.0)"
    assert re.fullmatch(r"-\d+\.\d \(-\d+\.\d … [-+]\d+\.\d\)", gain(drawn(0.2, (2, 99), 6), drawn(0.8, (2, 99), 7)))


def test_the_spread_is_the_sample_standard_deviation() -> None:
    assert with_spread(np.array([70.0, 72.0, 74.0])) == "72.0 ± 2.0"
    assert with_spread(np.array([70.0])) == "70.0"


def test_a_seed_goes_on_with_its_own_teachers_alone() -> None:
    found = {"unrouted": 56.2, "right": "ff"}
    for before in ({}, {"unrouted": 56.2}, {"unrouted": 56.2, "weights that are gone": "ab"}, found):
        refuse_other_teachers(before, found, 0, "taskA")
    for before in ({"unrouted": 55.0}, {"unrouted": 56.2, "right": "fe"}):
        with pytest.raises(UserError, match=r"seed 0 of taskA was begun with other teachers \(unrouted 5\d.\d %, here 56.2 %\)"):
            refuse_other_teachers(before, found, 0, "taskA")


def test_a_partial_run_leaves_the_other_measurements_in_their_places(tmp_path: Path) -> None:
    file = tmp_path / "results.json"
    assert measured(file) == []
    for images, classes, seconds in ((10, 15, 1), (100, 15, 2), (10, 100, 3), (100, 15, 4), (5, 15, 5)):
        keep(file, {"images": images, "classes": classes, "seconds": seconds}, "images", "classes")
    kept = [(10, 15, 1), (100, 15, 4), (10, 100, 3), (5, 15, 5)]
    assert [(*entry.values(),) for entry in measured(file)] == [(*values, *made_here().values()) for values in kept]
    assert list(tmp_path.iterdir()) == [file]
