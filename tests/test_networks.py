"""Networks by name: architectures, heads, and weights from files and libraries."""

import io
import os
import pickle
import tempfile
import zipfile
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from amalgam.errors import UserError
from amalgam.files import sha256_of_file
from amalgam.models import save_weights
from amalgam.networks import BACKBONES, build_network, imagenet_weights, pretrained_statistics, published_url
from amalgam.states import read_state
from amalgam.student_settings import STUDENTS

SMALL = "timm/test_efficientnet"  # a model of timm's for tests


def test_the_reference_cnn_has_the_published_names_and_size() -> None:
    names = {name.rpartition(".")[0] for name in build_network("ReferenceCNN", 5).state_dict()}
    assert names == {
        "conv1.conv", "conv1.bn", "residual1.main_path.0.conv", "residual1.main_path.0.bn", "residual1.shortcut",
        "residual2.main_path.0.conv", "residual2.main_path.0.bn", "residual2.main_path.1.conv", "residual2.main_path.1.bn",
        "residual2.shortcut", "conv2.conv", "conv2.bn", "conv3.0.depthwise", "conv3.0.pointwise", "conv3.0.bn", "classifier.3",
    }  # fmt: skip
    assert 1.3e6 < sum(p.numel() for p in build_network("ReferenceCNN", 5).parameters()) < 1.5e6


def test_every_student_that_is_named_has_a_backbone() -> None:
    assert tuple(BACKBONES) == STUDENTS


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
    monkeypatch.setattr("amalgam.networks.published_url", lambda architecture: f"http://127.0.0.1:9/{name}")
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "weights.pth").rename(tmp_path / "hub" / "checkpoints" / name)
    student = build_network("MobileNetV3", 3, pretrained=True).state_dict()
    for key, tensor in published.items():
        if key.startswith("features."):
            torch.testing.assert_close(student[f"backbone.{key}"], tensor)
    assert student["backbone.classifier.3.weight"].shape == (3, 576)


def test_a_damaged_cached_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    cached = tmp_path / "hub" / "checkpoints" / published_url("ResNet18").rpartition("/")[2]
    cached.parent.mkdir(parents=True)
    cached.write_bytes(b"<html>moved</html>")
    with pytest.raises(UserError, match=r"resnet18-f37072fd\.pth is damaged: its sha256 does not begin with f37072fd"):
        imagenet_weights("ResNet18")


def test_any_of_timms_models_can_be_a_student() -> None:
    network = build_network(SMALL, 7)
    assert network(torch.zeros(2, 3, 64, 64)).shape == (2, 7)
    assert all(name.startswith("backbone.") for name in network.state_dict())


@pytest.mark.parametrize("name", ["mixer_s32_224", "levit_128s", "test_efficientnet"])
def test_no_head_starts_at_zero(name: str) -> None:
    """Objectives that compare relations between logits would have no direction (timm starts mixers' heads so)."""
    network = build_network(f"timm/{name}", 7)
    heads = timm.create_model(name).default_cfg["classifier"]
    for head in [heads] if isinstance(heads, str) else heads:
        weights = [value for key, value in network.state_dict().items() if key.startswith(f"backbone.{head}.") and value.ndim == 2]
        assert all(weight.std() > 1e-3 for weight in weights)
        assert weights


def test_a_model_of_several_heads_starts_from_its_own_weights(tmp_path: Path) -> None:
    torch.save(timm.create_model("levit_128s").state_dict(), tmp_path / "weights.pth")
    network = build_network("timm/levit_128s", 3, True, tmp_path / "weights.pth")
    stem = "stem.conv1.linear.weight"
    torch.testing.assert_close(network.state_dict()[f"backbone.{stem}"], read_state(tmp_path / "weights.pth")[stem])


def test_an_unknown_model_of_timms_is_answered_with_the_nearest() -> None:
    with pytest.raises(UserError, match=r"timm has no model 'qqq'; python -c .*list_models.* lists them"):
        build_network("timm/qqq", 2)
    with pytest.raises(UserError, match=r"timm has no model 'tf_efficientnet_litte0'; did you mean .*tf_efficientnet_lite0"):
        build_network("timm/tf_efficientnet_litte0", 3)


def test_weights_that_timm_does_not_publish_are_refused_with_those_that_it_does() -> None:
    with pytest.raises(UserError, match=r"no weights 'tf_efficientnet_lite0\.typo'; of this model it has tf_efficientnet_lite0\.in1k$"):
        build_network("timm/tf_efficientnet_lite0.typo", 3)
    with pytest.raises(UserError, match=r"no weights 'efficientnet_b6'; .* it has none; set student_weights .*, or pretrained to false"):
        build_network("timm/efficientnet_b6", 3, pretrained=True)


def supplied(path: Path, **changes: torch.Tensor) -> Path:
    """Weights of ``SMALL`` for its own 1000 classes, some replaced."""
    torch.manual_seed(5)
    state = timm.create_model(SMALL.removeprefix("timm/")).state_dict() | changes
    save_weights(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_a_file_of_weights_is_where_a_student_starts(name: str, tmp_path: Path) -> None:
    path = supplied(tmp_path / name)
    student, given = build_network(SMALL, 3, True, path).state_dict(), read_state(path)
    for key, tensor in given.items():
        if not key.startswith("classifier."):
            torch.testing.assert_close(student[f"backbone.{key}"], tensor, rtol=0, atol=0)
    assert student["backbone.classifier.weight"].shape[0] == 3


def test_a_students_own_checkpoint_or_a_wrapped_one_is_read_too(tmp_path: Path) -> None:
    student = build_network(SMALL, 3)
    save_weights(student.state_dict(), tmp_path / "best.safetensors")
    body = {name.removeprefix("backbone."): value for name, value in student.state_dict().items()}
    torch.save({"model": {f"module.{name}": value for name, value in body.items()}, "epoch": 3}, tmp_path / "w.pth")
    torch.save({f"_orig_mod.net.module.{name}": value for name, value in body.items()}, tmp_path / "compiled.pth")
    for name in ("best.safetensors", "w.pth", "compiled.pth"):
        again = build_network(SMALL, 4, True, tmp_path / name)
        torch.testing.assert_close(again.state_dict()["backbone.conv_stem.weight"], student.state_dict()["backbone.conv_stem.weight"])


def test_weights_that_do_not_fit_are_refused_with_the_reason(tmp_path: Path) -> None:
    stem = "conv_stem.weight"
    for changes, message in (
        ({stem: torch.zeros(1, 3, 3, 3)}, rf"not the weights of {SMALL}: it has {stem} of \(1, 3, 3, 3\), not \("),
        ({"surplus": torch.zeros(1)}, "it has unknown surplus"),
        (
            {stem: torch.full_like(timm.create_model(SMALL.removeprefix("timm/")).conv_stem.weight.data, torch.nan)},
            f"{stem} is not finite; save the weights of an epoch before",
        ),
    ):
        path = supplied(tmp_path / "weights.pth", **changes)
        with pytest.raises(UserError, match=message):
            build_network(SMALL, 3, True, path)
    partial = dict(list(read_state(supplied(tmp_path / "weights.pth")).items())[5:])
    torch.save(partial, tmp_path / "partial.pth")
    with pytest.raises(UserError, match=r"it lacks conv_stem\.weight, .* more"):
        build_network(SMALL, 3, True, tmp_path / "partial.pth")


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch harmed",)


def test_files_that_are_no_plain_weights_are_refused_and_nothing_in_them_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"weight": Malicious()}, protocol=2))
    torch.save({"weight": Malicious()}, tmp_path / "evil2.pth")
    (tmp_path / "page.pth").write_text("<html>moved</html>")
    (tmp_path / "page.safetensors").write_text("<html>moved</html>")
    torch.save({"epoch": 3, "note": "no weights"}, tmp_path / "other.pth")
    torch.save({0: torch.zeros(2)}, tmp_path / "numbered.pth")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("half a million images\n")
    torch.jit.trace(nn.Linear(2, 2), torch.zeros(1, 2)).save(tmp_path / "script.pth")  # type: ignore[no-untyped-call]
    for name, message in (
        ("evil.pth", "is damaged, or holds more than weights"),
        ("evil2.pth", "is damaged, or holds more than weights"),
        ("page.pth", "damaged"),
        ("page.safetensors", "damaged"),
        ("other.pth", "holds no state dict"),
        ("numbered.pth", "holds no state dict"),
        ("empty.pth", "damaged"),
        ("text.pth", "damaged"),
        ("script.pth", r"is a TorchScript program; save network\.state_dict\(\), or export the network"),
        ("absent.pth", "do not exist"),
    ):
        with pytest.raises(UserError, match=message):
            read_state(tmp_path / name)
    assert not (tmp_path / "harmed").exists()


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_damaged_weights_are_named_whatever_is_damaged(data: st.DataObject) -> None:
    """Cut short, or a byte changed, in either format of torch.save: read, or refused by name."""
    buffer = io.BytesIO()
    torch.save({"weight": torch.ones(3, 2)}, buffer, _use_new_zipfile_serialization=data.draw(st.booleans()))
    content = bytearray(buffer.getvalue())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        del content[place:]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        path.write_bytes(content)
        told = str(path)
        try:
            assert read_state(path)
        except UserError as error:
            told = str(error)
        assert str(path) in told


def test_statistics_are_those_of_the_weights() -> None:
    assert pretrained_statistics("ResNet18") == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert pretrained_statistics("timm/tf_efficientnet_lite0") == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_weights_that_would_grow_as_they_are_read_are_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(10**14)}, tmp_path / "expanded.pth")
    with pytest.raises(UserError, match=r"expanded\.pth is damaged: a is larger than what the file holds of it"):
        read_state(tmp_path / "expanded.pth")
    torch.save({"a": torch.zeros(1000)}, tmp_path / "plain.pth")
    assert read_state(tmp_path / "plain.pth")["a"].shape == (1000,)
    with zipfile.ZipFile(tmp_path / "plain.pth") as plain, zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(UserError, match=r"packed\.pth is damaged, or no file of plain weights .* is compressed"):
        read_state(tmp_path / "packed.pth")


def test_a_network_with_weights_of_five_dimensions_keeps_its_layout() -> None:
    """Which know none with the channels last."""
    network = build_network("timm/lambda_resnet26t", 3)
    assert max(value.ndim for value in network.state_dict().values()) == 5
    assert not is_channels_last(network)
    assert is_channels_last(build_network("MobileNetV3", 3))


def is_channels_last(network: nn.Module) -> bool:
    """Of its convolutions over more than one pixel and channel, of which alone it can be told."""
    kernels = [value for value in network.state_dict().values() if value.ndim == 4 and value.shape[1] > 1 and value.shape[2] > 1]
    assert kernels
    return all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)


def test_a_model_of_timms_without_a_classifier_is_refused_by_name() -> None:
    """Timm's configuration of some encoders names none."""
    with pytest.raises(
        UserError, match="architecture timm/qwen3_vit_88m_enc: this model of timm's has no classifier to put new classes into"
    ):
        build_network("timm/qwen3_vit_88m_enc", 3)
