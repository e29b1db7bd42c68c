"""Preprocessing, and classifiers in memory and on disk."""

import copy
import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from amalgam.errors import UserError
from amalgam.models import Classifier, load_classifier, save_classifier, save_weights
from amalgam.networks import build_network
from amalgam.preprocessing import Preprocessing, channel_statistics, resized

PLAIN = Preprocessing((16, 16), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
PLAIN_LARGER = Preprocessing((33, 33), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def classifier(architecture: str = "ReferenceCNN", seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(architecture, build_network(architecture, 3), ("a", "b", "c"), PLAIN)


def images(count: int = 4, side: int = 20) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def test_preprocessing_normalises_each_channel() -> None:
    pixels = torch.full((2, 16, 16, 3), 255, dtype=torch.uint8)
    pixels[..., 1] = 0
    output = Preprocessing((16, 16), (0.5, 0.25, 0.0), (0.5, 0.5, 2.0))(pixels)
    torch.testing.assert_close(output[0, :, 0, 0], torch.tensor([1.0, -0.5, 0.5]))
    assert output.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("side", [8, 16, 40])
def test_preprocessing_resizes_as_pillow_does(side: int) -> None:
    """An independent implementation: Pillow's bilinear filter, which averages when it shrinks."""
    pixels = images(1)
    ours = Preprocessing((side, side), (0.0,) * 3, (1.0,) * 3)(pixels)[0].permute(1, 2, 0).numpy() * 255
    theirs = np.asarray(Image.fromarray(pixels[0].numpy()).resize((side, side), Image.Resampling.BILINEAR), dtype=float)
    assert np.abs(ours - theirs).max() <= 1.01  # Pillow rounds to bytes after each of its two passes


@pytest.mark.parametrize(
    ("size", "wanted"), [((20, 12), (64, 31)), ((8, 8), (9, 8)), ((1, 3), (5, 7)), ((64, 64), (224, 224)), ((65, 9), (96, 96))]
)
def test_images_are_enlarged_as_torch_does(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    pixels = torch.randn(3, *size, 3, generator=torch.Generator().manual_seed(0))
    theirs = torch.nn.functional.interpolate(pixels.permute(0, 3, 1, 2).double(), wanted, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized(pixels, wanted).permute(0, 3, 1, 2).double(), theirs, rtol=0, atol=1e-4)


def test_a_gpu_enlarges_in_one_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under deterministic algorithms torch's interpolate takes some thirty on every device but the CPU, for the sake of a gradient."""
    monkeypatch.setattr("torch._decomp.decompositions._upsample_linear_vec", None)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        assert resized(torch.empty(2, 80, 70, 3, device="meta"), (96, 90)).shape == (2, 96, 90, 3)
    finally:
        torch.use_deterministic_algorithms(before)


def test_an_enlargement_first_made_for_inference_serves_training_too() -> None:
    pixels = images(2, 19)
    with torch.inference_mode():
        expected = PLAIN_LARGER(pixels)
    layer = torch.nn.Conv2d(3, 1, 3)
    layer(PLAIN_LARGER(pixels)).sum().backward()
    torch.testing.assert_close(PLAIN_LARGER(pixels), expected)


def test_channel_statistics_are_numpys() -> None:
    pixels = images(9).numpy()
    rows = np.array([1, 4, 7])
    mean, std = channel_statistics(pixels, rows)
    np.testing.assert_allclose(mean, (pixels[rows] / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(std, (pixels[rows] / 255).std(axis=(0, 1, 2)))


def test_a_constant_channel_does_not_divide_by_zero() -> None:
    _, std = channel_statistics(np.zeros((2, 4, 4, 3), np.uint8), np.arange(2))
    assert std == (1 / 255,) * 3


@pytest.mark.parametrize("architecture", ["ReferenceCNN", "MobileNetV3"])
def test_a_classifier_is_read_back_as_it_was_written(architecture: str, tmp_path: Path) -> None:
    written = classifier(architecture)
    save_classifier(written, tmp_path / "w.safetensors", tmp_path / "m.json", {"origin": "test"})
    read = load_classifier(tmp_path / "w.safetensors", tmp_path / "m.json")
    assert (read.architecture, read.classes, read.preprocessing) == (architecture, ("a", "b", "c"), PLAIN)
    assert json.loads((tmp_path / "m.json").read_text())["origin"] == "test"
    written.network.eval(), read.network.eval()
    torch.testing.assert_close(read.logits(images()), written.logits(images()), rtol=0, atol=0)


def test_outputs_are_ordered_for_inference_and_training_alike_and_copies_are_equal() -> None:
    """What is kept for the device is none of the classifier's own."""
    plain = classifier()
    plain.network.eval()
    ordered = replace(plain, order=(2, 0, 1))
    with torch.inference_mode():
        expected = plain.logits(images())[:, [2, 0, 1]]
        assert torch.equal(ordered.logits(images()), expected)
    again = copy.deepcopy(ordered).logits(images())
    again.sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(again.detach(), expected)
    assert replace(ordered) == ordered != plain


def test_missing_weights_are_named_never_random(tmp_path: Path) -> None:
    save_classifier(classifier(), tmp_path / "w.safetensors", tmp_path / "m.json", {})
    (tmp_path / "w.safetensors").unlink()
    with pytest.raises(UserError, match=r"w\.safetensors is missing"):
        load_classifier(tmp_path / "w.safetensors", tmp_path / "m.json")


def test_weights_of_another_manifest_are_refused(tmp_path: Path) -> None:
    save_classifier(classifier(), tmp_path / "w.safetensors", tmp_path / "m.json", {})
    save_weights(classifier(seed=1).network.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"is not the file that .*m\.json describes"):
        load_classifier(tmp_path / "w.safetensors", tmp_path / "m.json")


def test_weights_that_a_network_knows_by_several_names_are_written(tmp_path: Path) -> None:
    shared = nn.Linear(3, 3)
    network = nn.Sequential(shared, shared)
    save_weights(network.state_dict(), tmp_path / "w.safetensors")
    written = load_file(tmp_path / "w.safetensors")
    assert all(torch.equal(written[f"{place}.{name}"], tensor) for place in (0, 1) for name, tensor in shared.state_dict().items())


def test_weights_may_be_read_by_all_whom_the_users_mask_lets(tmp_path: Path) -> None:
    """Files of the library's own are for their owner alone: of no use in a cache that a team shares."""
    before = os.umask(0o027)
    try:
        save_classifier(classifier(), tmp_path / "w.safetensors", tmp_path / "m.json", {})
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("w.safetensors", "m.json")] == [0o640] * 2


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_classifier(classifier(), tmp_path / "w.safetensors", tmp_path / "m.json", {})
    manifest = json.loads((tmp_path / "m.json").read_text()) | {"classes": ["a", "b"]}
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"not the weights of a ReferenceCNN of 2 classes: it (lacks|has) .*; bring the file of one"):
        load_classifier(tmp_path / "w.safetensors", tmp_path / "m.json")
