"""Views: what image i looks like in view v follows from (seed, v, i) alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam.views import View, draw_view, plain_view

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 7, 3), dtype=np.uint8)


def view_of(shift_y: int = 0, shift_x: int = 0, mirror: bool = False) -> View:
    return View(np.array([shift_y]), np.array([shift_x]), np.array([mirror]))


def test_the_plain_view_changes_nothing() -> None:
    rows = np.array([3, 0, 3])
    np.testing.assert_array_equal(plain_view(20).render(IMAGES, rows), IMAGES[rows])


def test_mirror_turns_left_to_right() -> None:
    np.testing.assert_array_equal(view_of(mirror=True).render(IMAGES[:1], np.array([0]))[0], IMAGES[0, :, ::-1])


@given(st.integers(-9, 9), st.integers(-9, 9), st.booleans())
@settings(deadline=None)
def test_a_shift_is_a_window_of_the_reflected_image(shift_y: int, shift_x: int, mirror: bool) -> None:
    """Against numpy's own reflect padding."""
    shown = view_of(shift_y, shift_x, mirror).render(IMAGES[:1], np.array([0]))[0]
    padded = np.pad(IMAGES[0], ((9, 9), (9, 9), (0, 0)), mode="reflect")
    columns = np.arange(7)[::-1] if mirror else np.arange(7)
    np.testing.assert_array_equal(shown, padded[9 + shift_y : 15 + shift_y][:, 9 + columns + shift_x])


def test_an_image_of_one_pixel_survives_any_shift() -> None:
    np.testing.assert_array_equal(view_of(3, -2, True).render(IMAGES[:1, :1, :1], np.array([0])), IMAGES[:1, :1, :1])


@given(st.integers(0, 2**32 - 1), st.integers(0, 50), st.integers(1, 20))
@settings(deadline=None)
def test_a_view_does_not_depend_on_how_many_images_there_are(seed: int, index: int, count: int) -> None:
    few, many = draw_view(count, index, seed, 4, True), draw_view(20, index, seed, 4, True)
    np.testing.assert_array_equal(few.shift_y, many.shift_y[:count])
    np.testing.assert_array_equal(few.shift_x, many.shift_x[:count])
    np.testing.assert_array_equal(few.mirror, many.mirror[:count])


@pytest.mark.parametrize(("crop", "flip"), [(0, False), (2, False), (0, True), (3, True)])
def test_shifts_and_mirrors_have_the_promised_distribution(crop: int, flip: bool) -> None:
    view = draw_view(20_000, 1, 7, crop, flip)
    for shifts in (view.shift_y, view.shift_x):
        values, counts = np.unique(shifts, return_counts=True)
        np.testing.assert_array_equal(values, np.arange(-crop, crop + 1))
        np.testing.assert_allclose(counts / 20_000, 1 / (2 * crop + 1), atol=0.015)
    assert view.mirror.mean() == pytest.approx(0.5 if flip else 0, abs=0.02)


def test_seeds_and_views_differ() -> None:
    shifts = {draw_view(50, index, seed, 4, True).shift_y.tobytes() for index in range(5) for seed in range(5)}
    assert len(shifts) == 25
