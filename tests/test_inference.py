"""Running classifiers over many images."""

import numpy as np
import pytest
import torch

from amalgam.inference import copy_into, images_at_a_time, take_rows, to_gpu_if_it_fits, view_images
from amalgam.views import Selected, draw_view


@pytest.mark.parametrize(("side", "images"), [(8, 256), (64, 256), (91, 253), (224, 41), (1024, 2), (2000, 1)])
def test_a_network_is_given_no_more_pixels_at_once_than_memory_is_meant_for(side: int, images: int) -> None:
    """Whether it sees so many, or they are stored with so many."""
    for stored, seen in ((side, side), (side, 8), (8, side)):
        assert images_at_a_time("ResNet18", (stored, stored), (seen, seen), "cpu") == images


@pytest.mark.parametrize(("device", "images"), [("cpu", [32, 512, 256]), ("cuda", [256, 256, 256])])
def test_a_network_is_given_as_many_images_at_once_as_it_is_fast_with(device: str, images: list[int]) -> None:
    assert [images_at_a_time(network, (32, 32), (32, 32), device) for network in ("ReferenceCNN", "MobileNetV3", "EfficientNet")] == images


def test_rows_are_the_same_from_an_array_a_selection_and_a_tensor() -> None:
    images = np.random.default_rng(0).integers(0, 256, (10, 6, 5, 3), dtype=np.uint8)
    every, rows, view = np.arange(10), np.array([7, 2, 2]), draw_view(10, 0, 1, crop=2, flip=True)
    for stored in (images, Selected(images, every), torch.from_numpy(images)):
        np.testing.assert_array_equal(take_rows(stored, rows), images[rows])
        assert torch.equal(view_images(stored, view, rows), view_images(images, view, rows))


def test_an_array_is_brought_to_its_place_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("amalgam.inference.ROWS_AT_A_TIME", 3)
    values = np.random.default_rng(0).integers(0, 256, (10, 2, 2, 3), dtype=np.uint8)
    for stored in (values, Selected(values, np.arange(10))):
        np.testing.assert_array_equal(copy_into(torch.empty((10, 2, 2, 3), dtype=torch.uint8), stored), values)


@pytest.mark.parametrize(("reserved", "brought"), [(0, False), (9_000, False), (9_001, True)])
def test_memory_that_pytorch_holds_for_nothing_is_free(reserved: int, brought: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: a device without memory stands in for one that has 1000 bytes free, and 2000 in tensors."""
    monkeypatch.setattr("amalgam.inference.device", lambda: torch.device("meta"))
    for name, value in {"mem_get_info": (1_000, 80_000), "memory_reserved": reserved + 2_000, "memory_allocated": 2_000}.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda value=value: value)
    images = np.zeros((1_000, 5), dtype=np.uint8)
    assert isinstance(to_gpu_if_it_fits(images), torch.Tensor) == brought


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes them into its memory")
def test_without_a_gpu_nothing_is_copied() -> None:
    images = np.zeros((4, 2, 2, 3), dtype=np.uint8)
    assert to_gpu_if_it_fits(images) is images
