"""Views: what image i looks like in view v follows from (seed, v, i) alone."""

from dataclasses import fields

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from amalgam.views import Images, Selected, Strong, View, draw_view, plain_view

IMAGES = np.random.default_rng(0).integers(0, 256, (20, 6, 7, 3), dtype=np.uint8)


def view_of(shift_y: int = 0, shift_x: int = 0, mirror: bool = False) -> View:
    return View(np.array([shift_y]), np.array([shift_x]), np.array([mirror]))


def shown(view: View, images: Images, rows: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
    """The images of ``rows`` as the view shows them."""
    found: npt.NDArray[np.uint8] = view.apply(torch.from_numpy(images[rows]), rows).numpy()
    return found


def test_the_plain_view_changes_nothing() -> None:
    rows = np.array([3, 0, 3])
    np.testing.assert_array_equal(shown(plain_view(20), IMAGES, rows), IMAGES[rows])


def test_mirror_turns_left_to_right() -> None:
    np.testing.assert_array_equal(shown(view_of(mirror=True), IMAGES[:1], np.array([0]))[0], IMAGES[0, :, ::-1])


@given(st.integers(-9, 9), st.integers(-9, 9), st.booleans())
@settings(deadline=None)
def test_a_shift_is_a_window_of_the_reflected_image(shift_y: int, shift_x: int, mirror: bool) -> None:
    """Against numpy's own reflect padding."""
    seen = shown(view_of(shift_y, shift_x, mirror), IMAGES[:1], np.array([0]))[0]
    padded = np.pad(IMAGES[0], ((9, 9), (9, 9), (0, 0)), mode="reflect")
    columns = np.arange(7)[::-1] if mirror else np.arange(7)
    np.testing.assert_array_equal(seen, padded[9 + shift_y : 15 + shift_y][:, 9 + columns + shift_x])


def test_an_image_of_one_pixel_survives_any_shift() -> None:
    np.testing.assert_array_equal(shown(view_of(3, -2, True), IMAGES[:1, :1, :1], np.array([0])), IMAGES[:1, :1, :1])


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
    drawn = [values for values in (view.shift_y, view.shift_x, view.mirror) if values.any()]
    if len(drawn) > 1:
        np.testing.assert_allclose(np.corrcoef(drawn), np.eye(len(drawn)), atol=0.03)


def test_what_is_zoomed_says_nothing_of_the_shift() -> None:
    """Drawn with the same numbers, they would go together."""
    view = draw_view(20_000, 1, 7, 3, True, 0.5, 0.2)
    assert view.strong is not None
    assert abs(np.corrcoef(view.strong.side[:10_000], view.shift_y[::2])[0, 1]) < 0.03


def test_seeds_and_views_differ() -> None:
    shifts = {draw_view(50, index, seed, 4, True).shift_y.tobytes() for index in range(5) for seed in range(5)}
    assert len(shifts) == 25


def strong(count: int, index: int = 0, seed: int = 3, zoom: float = 0.4, colour: float = 0.0) -> View:
    return draw_view(count, index, seed, 0, False, zoom, colour)


def test_a_zoomed_view_shows_a_part_of_the_image_enlarged() -> None:
    """A ramp stays a ramp, less steep and between other ends; against the sampling positions by hand."""
    ramp = np.tile(np.arange(0, 250, 5, dtype=np.uint8)[None, :, None], (50, 1, 3))[None].repeat(8, 0)
    view = strong(8)
    assert view.strong is not None
    for images, place, line in ((ramp, view.strong.left, np.s_[10, :]), (ramp.transpose(0, 2, 1, 3), view.strong.top, np.s_[:, 10])):
        seen = shown(view, images, np.arange(8))
        for image in range(8):
            side = view.strong.side[image]
            assert 0.4 <= side**2 <= 1
            x = (np.arange(50) + 0.5) * side + place[image] * (1 - side) * 50 - 0.5  # the shown part's pixel centres
            np.testing.assert_allclose(seen[image][line][:, 0], 5 * x.clip(0, 49), atol=1)
    assert not np.array_equal(view.strong.left, view.strong.top)


def test_colours_change_within_their_bounds_and_grey_stays_grey() -> None:
    grey = np.full((6, 4, 4, 3), 100, dtype=np.uint8)
    view = strong(6, zoom=1.0, colour=0.3)
    seen = shown(view, grey, np.arange(6)).astype(int)
    assert (seen.max(3) - seen.min(3) <= 1).all()
    assert (seen >= 69).all()
    assert (seen <= 131).all()
    assert len({int(image[0, 0, 0]) for image in seen}) > 1


def test_each_colour_factor_rises_as_often_as_it_falls() -> None:
    drawn = draw_view(20_000, 1, 7, 0, False, zoom=1.0, colour=0.3).strong
    assert drawn is not None
    factors = np.stack([drawn.brightness, drawn.contrast, drawn.saturation])
    np.testing.assert_allclose(factors.mean(1), 1, atol=0.01)
    np.testing.assert_allclose(np.stack([factors.min(1), factors.max(1)]), [[0.7] * 3, [1.3] * 3], atol=0.01)
    np.testing.assert_allclose(np.corrcoef(factors), np.eye(3), atol=0.03)


def test_colours_and_places_are_those_of_the_formula() -> None:
    """Against NumPy: brightness, then saturation around each pixel's grey, then contrast around the image's mean grey."""
    view = strong(6, zoom=1.0, colour=0.4)
    drawn = view.strong
    assert drawn is not None
    seen = shown(view, IMAGES[:6], np.arange(6))
    for i, image in enumerate(IMAGES[:6].astype(np.float64)):
        bright = image * drawn.brightness[i]
        grey = bright @ np.array([0.299, 0.587, 0.114])
        saturated = grey[..., None] + drawn.saturation[i] * (bright - grey[..., None])
        expected = grey.mean() + drawn.contrast[i] * (saturated - grey.mean())
        assert np.abs(seen[i] - expected.round().clip(0, 255)).max() <= 1
    assert len({float(factor[0]) for factor in (drawn.brightness, drawn.contrast, drawn.saturation)}) == 3


def test_the_strong_draws_follow_from_seed_view_and_image_alone_and_leave_the_others_as_they_are() -> None:
    rows = np.array([4, 1])
    few, many = strong(5, colour=0.2), strong(20, colour=0.2)
    np.testing.assert_array_equal(shown(few, IMAGES[:5], rows), shown(many, IMAGES, rows))
    assert not np.array_equal(shown(few, IMAGES, rows), shown(strong(20, index=1, colour=0.2), IMAGES, rows))
    plain, stronger = draw_view(20, 2, 7, 3, True), draw_view(20, 2, 7, 3, True, 0.5, 0.1)
    np.testing.assert_array_equal(plain.shift_y, stronger.shift_y)
    np.testing.assert_array_equal(plain.mirror, stronger.mirror)
    assert plain.strong is None


@given(st.lists(st.integers(0, 9), min_size=1, max_size=12), st.integers(0, 50))
def test_selected_images_are_seen_as_a_copy_of_them_would_be(rows: list[int], seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
    selected, copy = Selected(images, np.array(rows)), images[rows]
    assert len(selected) == len(copy)
    assert selected.shape == copy.shape
    places = np.random.default_rng(seed).permutation(len(rows))
    np.testing.assert_array_equal(selected[places], copy[places])
    view = draw_view(len(rows), 0, seed, crop=2, flip=True)
    np.testing.assert_array_equal(shown(view, selected, places), shown(view, copy, places))


def test_views_are_drawn_a_few_images_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = draw_view(20, 3, 5, crop=4, flip=True, zoom=0.5, colour=0.2)
    monkeypatch.setattr("amalgam.views.DRAWN_AT_A_TIME", 7)
    parts = draw_view(20, 3, 5, crop=4, flip=True, zoom=0.5, colour=0.2)
    for name in ("shift_y", "shift_x", "mirror"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    for field in fields(Strong):
        np.testing.assert_array_equal(getattr(parts.strong, field.name), getattr(whole.strong, field.name))
