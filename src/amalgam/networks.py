"""Networks by name: the reference CNN, torchvision's and timm's, from random or pre-trained weights.

Torchvision and timm, which take a second to load, are imported by what builds one of theirs.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.error import URLError

import torch
from torch import Tensor, nn

from amalgam.errors import UserError, listed
from amalgam.files import sha256_of_file
from amalgam.preprocessing import Channels
from amalgam.reference_cnn import ReferenceCNN
from amalgam.source_settings import TORCHVISION
from amalgam.states import State, read_state
from amalgam.student_settings import TIMM

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

NORMALISING = ("googlenet", "inception_v3")  # of torchvision's, by a flag that is set where they start from its weights

# torchvision's MobileNetV3 has 0.01: with few images its running statistics lag epochs behind the weights, and validation with them.
BATCH_NORM_MOMENTUM = 0.1

ANOTHER = "; bring the file of one, or say what it is of"  # the remedy of weights that are another network's

SMALLEST_HEAD = 1e-3  # standard deviation of a head's first weights


@dataclass(frozen=True)
class Backbone:
    """One of torchvision's networks, and the head that the reference system gives it."""

    name: str
    head: str
    new_head: Callable[[Any, int], nn.Module]  # from the old one and a number of classes


def _two_layers(old: nn.Sequential, num_classes: int) -> nn.Module:
    width = cast(nn.Linear, old[0]).in_features
    return nn.Sequential(nn.Linear(width, width), nn.Hardswish(), nn.Dropout(0.2), nn.Linear(width, num_classes))


def _after_its_dropout(old: nn.Sequential, num_classes: int) -> nn.Module:
    return nn.Sequential(old[0], nn.Linear(cast(nn.Linear, old[1]).in_features, num_classes))


def _one_layer(old: nn.Linear, num_classes: int) -> nn.Module:
    return nn.Linear(old.in_features, num_classes)


BACKBONES = {
    "MobileNetV3": Backbone("mobilenet_v3_small", "classifier", _two_layers),
    "EfficientNet": Backbone("efficientnet_b0", "classifier", _after_its_dropout),
    "ResNet18": Backbone("resnet18", "fc", _one_layer),
}


class Student(nn.Module):
    """A backbone whose head knows ``num_classes`` classes (state dict names prefixed ``backbone.``).

    ``pretrained`` starts from ``weights``, or from the published ones where None; the head is always new.
    """

    def __init__(self, architecture: str, num_classes: int, pretrained: bool = False, weights: Path | None = None) -> None:
        super().__init__()
        backbone, heads = _backbone(architecture, num_classes)
        if pretrained:
            state = imagenet_weights(architecture) if weights is None else read_state(weights)
            load_body(backbone, state, *heads, architecture=architecture, origin=str(weights or "the published weights"))
        if architecture.startswith(TIMM):
            _draw_heads(backbone, *heads)
        else:
            known = BACKBONES[architecture]
            setattr(backbone, known.head, known.new_head(getattr(backbone, known.head), num_classes))
        for module in backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = BATCH_NORM_MOMENTUM
        self.backbone = backbone

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.backbone(x)
        return logits


def _backbone(architecture: str, num_classes: int) -> tuple[Any, tuple[str, ...]]:
    """An untrained network and the names of its heads, of which some have several; timm's know ``num_classes``, the others ImageNet's."""
    if not architecture.startswith(TIMM):
        if architecture not in BACKBONES:
            raise UserError(f"architecture {architecture} is unknown here; these are known: {', '.join(BACKBONES)}, {TIMM}<name>")
        import torchvision

        known = BACKBONES[architecture]
        return torchvision.models.get_model(known.name, weights=None), (known.head,)
    backbone = _timm_model(architecture, num_classes)
    named = backbone.default_cfg["classifier"]
    if not named:
        raise UserError(f"architecture {architecture}: this model of timm's has no classifier to put new classes into; choose another")
    return backbone, (named,) if isinstance(named, str) else tuple(named)


def _draw_heads(backbone: Any, *heads: str) -> None:
    """Some of timm's heads start at or near zero, where objectives that compare relations between logits have no direction."""
    for head in map(backbone.get_submodule, heads):
        if isinstance(head, nn.Linear) and head.weight.std() < SMALLEST_HEAD:
            head.reset_parameters()


def _timm_model(architecture: str, num_classes: int, pretrained: bool = False) -> Any:
    """A model of timm's by its name there. Raises UserError if there is none, or no published weights of it if these are wanted."""
    import timm

    name = architecture.removeprefix(TIMM)
    model, _, tag = name.partition(".")  # the tag names one of its published weights
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else 'python -c "import timm; print(timm.list_models())" lists them'
        raise UserError(f"architecture {architecture}: timm has no model '{name}'; {hint}")
    if (tag or pretrained) and not timm.models.is_model_pretrained(name):
        known = ", ".join(timm.list_pretrained(f"{model}.*")) or "none; set student_weights to a file of them, or pretrained to false"
        raise UserError(f"architecture {architecture}: timm publishes no weights '{name}'; of this model it has {known}")
    return timm.create_model(name, num_classes=num_classes, pretrained=pretrained)


def _torchvision_by_name(architecture: str, num_classes: int) -> nn.Module:
    """Raises UserError if torchvision has no such classifier, suggesting the nearest."""
    import torchvision

    name, known = architecture.removeprefix(TORCHVISION), torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=3)
        raise UserError(f"architecture {architecture}: torchvision has no classifier '{name}'; did you mean {', '.join(close or known)}?")
    if name in NORMALISING:
        raise UserError(
            f"architecture {architecture}: whether it normalises its input once more stands in no state dict; export the network as a .pt2"
        )
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=num_classes)
    return network


def imagenet_weights(architecture: str) -> State:
    """The published state dict, from its library's cache or by download. Raises UserError when there is neither."""
    if architecture.startswith(TIMM):
        try:
            return cast(State, _timm_model(architecture, 1000, pretrained=True).state_dict())
        except OSError as error:
            raise UserError(
                f"pretrained: true needs the published weights of {architecture}, which are neither cached nor can be downloaded "
                f"({str(error).splitlines()[0]}); set student_weights to a file of them, or pretrained to false"
            ) from error
    url = published_url(architecture)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    published = cached.stem.rpartition("-")[2]  # the file's name ends with the first digits of its sha256
    if cached.is_file() and not sha256_of_file(cached).startswith(published):
        raise UserError(f"{cached} is damaged: its sha256 does not begin with {published}; remove it, or download {url} again")
    try:
        state: State = torch.hub.load_state_dict_from_url(url, progress=False, check_hash=True, weights_only=True)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise UserError(
            f"pretrained: true needs the ImageNet weights of {architecture}, which are neither cached nor can be downloaded "
            f"({error}); download {url} elsewhere to {cached}, or set pretrained to false"
        ) from error
    except RuntimeError as error:  # torch.hub's word for a wrong hash
        raise UserError(f"the download of {url} is damaged ({error}); try again") from error
    return state


def published_url(architecture: str) -> str:
    """Where the weights of one of torchvision's networks lie."""
    import torchvision

    url: str = torchvision.models.get_model_weights(BACKBONES[architecture].name)["IMAGENET1K_V1"].url
    return url


def load_body(network: nn.Module, state: State, *heads: str, architecture: str, origin: str) -> None:
    """Load everything but the heads. Raises UserError unless names and shapes are the architecture's."""
    prefixes = tuple(f"{head}." for head in heads)
    own = {name: value for name, value in network.state_dict().items() if not name.startswith(prefixes)}
    given = {name: value for name, value in state.items() if not name.startswith(prefixes)}
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    foreign = [name for name in given if name not in own]
    shaped = [
        f"{name} of {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in given and own[name].shape != given[name].shape
    ]
    for names, problem in ((missing, "lacks"), (foreign, "has unknown"), (shaped, "has")):
        if names:
            raise UserError(f"{origin}: not the weights of {architecture}: it {problem} {listed(names, 3)}{ANOTHER}")
    if bad := next((name for name, value in given.items() if not value.isfinite().all()), None):
        raise UserError(f"{origin}: {bad} is not finite; save the weights of an epoch before the training diverged")
    network.load_state_dict(given, strict=False)


def load_whole(network: nn.Module, state: State, *, architecture: str, origin: str) -> None:
    """Load the weights of the network that a student or teacher is made of, its heads too. Raises UserError as ``load_body`` does."""
    load_body(getattr(network, "backbone", network), state, architecture=architecture, origin=origin)


def pretrained_statistics(architecture: str) -> tuple[Channels, Channels]:
    """Mean and standard deviation a channel with which the published weights of a network that ``build_network`` knows were trained."""
    if not architecture.startswith(TIMM):
        return IMAGENET_MEAN, IMAGENET_STD
    import timm

    config = timm.get_pretrained_cfg(architecture.removeprefix(TIMM))
    return config.mean, config.std


def build_network(architecture: str, num_classes: int, pretrained: bool = False, weights: Path | None = None) -> nn.Module:
    """A network in channels-last layout, where it has one: the reference CNN, a student's, or one of torchvision's as it is."""
    if architecture == "ReferenceCNN":
        return _channels_last(ReferenceCNN(num_classes))
    if architecture.startswith(TORCHVISION):
        return _channels_last(_torchvision_by_name(architecture, num_classes))
    return _channels_last(Student(architecture, num_classes, pretrained, weights))


def _channels_last(network: nn.Module) -> nn.Module:
    """In that layout, unless it has weights of five dimensions, which know none."""
    if any(tensor.ndim > 4 for tensor in network.state_dict().values()):
        return network
    return network.to(memory_format=torch.channels_last)
