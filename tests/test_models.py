"""Networks, preprocessing, and classifiers on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn

from amalgam.errors import UserError
from amalgam.files import sha256_of_file
from amalgam.models import (
    WEIGHTS,
    Classifier,
    Preprocessing,
    build_network,
    channel_statistics,
    imagenet_weights,
    load_classifier,
    save_classifier,
    save_weights,
)

PLAIN = Preprocessing((16, 16), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def classifier(architecture: str = "ReferenceCNN", seed: int = 0) -> Classifier:
    torch.manual_seed(seed)
    return Classifier(architecture, build_network(architecture, 3), ("a", "b", "c"), PLAIN)


def images(count: int = 4, side: int = 20) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8))


def test_the_reference_cnn_has_the_published_names_and_size() -> None:
    names = {name.rpartition(".")[0] for name in build_network("ReferenceCNN", 5).state_dict()}
    assert names == {
        "conv1.conv", "conv1.bn", "residual1.main_path.0.conv", "residual1.main_path.0.bn", "residual1.shortcut",
        "residual2.main_path.0.conv", "residual2.main_path.0.bn", "residual2.main_path.1.conv", "residual2.main_path.1.bn",
        "residual2.shortcut", "conv2.conv", "conv2.bn", "conv3.0.depthwise", "conv3.0.pointwise", "conv3.0.bn", "classifier.3",
    }  # fmt: skip
    assert 1.3e6 < sum(p.numel() for p in build_network("ReferenceCNN", 5).parameters()) < 1.5e6


@pytest.mark.parametrize(
    ("architecture", "head"),
    [
        ("MobileNetV3", {"classifier.0.weight": (576, 576), "classifier.3.weight": (3, 576)}),
        ("EfficientNet", {"classifier.1.weight": (3, 1280)}),
        ("ResNet18", {"fc.weight": (3, 512)}),
    ],
)
def test_students_have_the_reference_heads_under_the_published_prefix(architecture: str, head: dict[str, tuple[int, int]]) -> None:
    network = build_network(architecture, 3)
    shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    assert all(name.startswith("backbone.") for name in shapes)
    for name, shape in head.items():
        assert shapes[f"backbone.{name}"] == shape
    assert network.eval()(torch.zeros(2, 3, 64, 64)).shape == (2, 3)


@pytest.mark.parametrize("architecture", ["MobileNetV3", "EfficientNet", "ResNet18"])
def test_running_statistics_follow_the_weights_within_an_epoch_of_few_images(architecture: str) -> None:
    """After 40 steps on one batch, evaluation must see nearly what training sees."""
    torch.manual_seed(0)
    network = build_network(architecture, 3)
    batch = torch.randn(8, 3, 32, 32) * 3 + 5
    with torch.no_grad():
        network.train()
        for _ in range(40):
            network(batch)
        first = next(module for module in network.modules() if isinstance(module, nn.BatchNorm2d))
        seen: list[torch.Tensor] = []
        first.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        network.eval()(batch)
    assert first.running_mean is not None
    torch.testing.assert_close(first.running_mean, seen[0].mean(dim=(0, 2, 3)), atol=0.05, rtol=0.05)


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


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    save_classifier(classifier(), tmp_path / "w.safetensors", tmp_path / "m.json", {})
    manifest = json.loads((tmp_path / "m.json").read_text()) | {"classes": ["a", "b"]}
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="does not fit a ReferenceCNN of 2 classes"):
        load_classifier(tmp_path / "w.safetensors", tmp_path / "m.json")


def test_without_network_pretrained_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there: what no network looks like
    with pytest.raises(UserError, match=r"pretrained: true needs the ImageNet weights of ResNet18.*elsewhere to .*resnet18-f37072fd\.pth"):
        imagenet_weights("ResNet18")


def test_pretrained_weights_are_taken_from_the_cache_and_the_head_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a file in torch's cache whose hash its name carries, everything but the head comes from it."""
    torch.manual_seed(1)
    published = torchvision.models.mobilenet_v3_small().state_dict()
    torch.save(published, tmp_path / "weights.pth")
    name = f"mobilenet-{sha256_of_file(tmp_path / 'weights.pth')[:8]}.pth"
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(WEIGHTS, "MobileNetV3", f"http://127.0.0.1:9/{name}")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "weights.pth").rename(tmp_path / "hub" / "checkpoints" / name)
    student = build_network("MobileNetV3", 3, pretrained=True).state_dict()
    for key, tensor in published.items():
        if key.startswith("features."):
            torch.testing.assert_close(student[f"backbone.{key}"], tensor)
    assert student["backbone.classifier.3.weight"].shape == (3, 576)


def test_a_damaged_cached_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / WEIGHTS["ResNet18"].rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"<html>moved</html>")
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth is damaged: its sha256 does not begin with f37072fd"):
        imagenet_weights("ResNet18")
