"""The classifier: a network together with its classes and its own preprocessing; in memory and on disk."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_file, write_json
from amalgam.networks import build_network, load_body
from amalgam.places import WEIGHTS_FILE
from amalgam.precision import precision_of
from amalgam.preprocessing import Preprocessing
from amalgam.programs import PROGRAM, read_program
from amalgam.whole import whole_file

EXACT = "float32"  # of a classifier that computes in it, whatever is faster


@dataclass
class Classifier:
    """A network, the classes its logits stand for, and the preprocessing it was trained with."""

    architecture: str
    network: nn.Module
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    order: tuple[int, ...] | None = None  # the network's output for each class; None: as they stand
    outputs: int | None = None  # how many the network has; None: one a class
    weights_sha256: str | None = None  # of the file that it was read from
    exact: bool = False  # computes in float32: nobody knows how large the logits of a network are that was trained elsewhere

    def to(self, device: torch.device) -> "Classifier":
        self.network.to(device)
        return self

    def logits(self, images: Tensor) -> Tensor:
        """float32 (B, classes) of uint8 images (B, height, width, 3), in its precision."""
        device = images.device.type
        precision = torch.float32 if self.exact else precision_of(self.architecture, device)
        inputs = self.preprocessing(images)
        with torch.autocast(device, dtype=precision, enabled=precision != torch.float32):
            output: Tensor = self.network(inputs)
        return output.float() if self.order is None else output.float()[:, _index(self.order, output.device)]

    def manifest(self) -> dict[str, Any]:
        order = {} if self.order is None else {"output_order": list(self.order)}
        outputs = {} if self.outputs is None else {"outputs": self.outputs}
        exact = {"precision": EXACT} if self.exact else {}
        return {
            "architecture": self.architecture,
            "classes": list(self.classes),
            "preprocessing": self.preprocessing.plain(),
            **order,
            **outputs,
            **exact,
        }

    def identity(self) -> dict[str, Any]:
        """All that the answers of one that was read from a file depend on."""
        assert self.weights_sha256
        return self.manifest() | {"weights_sha256": self.weights_sha256}


@cache
@torch.inference_mode(False)
def _index(order: tuple[int, ...], device: torch.device) -> Tensor:
    """Sent to the device once, not with every batch; of use to inference and training alike, whoever asks first."""
    return torch.tensor(order, device=device)


def save_classifier(classifier: Classifier, weights: Path, manifest: Path, extra: dict[str, Any]) -> None:
    """Write weights (safetensors) and manifest (JSON: the classifier's own entries, the weights' sha256, ``extra``)."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    save_weights(classifier.network.state_dict(), weights)
    write_json(manifest, classifier.manifest() | {"weights_sha256": sha256_of_file(weights)} | extra)


def save_weights(state: dict[str, Tensor], path: Path) -> None:
    """A safetensors file, there whole or not at all, for all whom the user's mask lets read it: the library's own is for its owner alone.

    Raises OSError that names it.
    """
    whole_file(path, save({name: _own(tensor) for name, tensor in state.items()}))


def _own(tensor: Tensor) -> Tensor:
    """A copy in plain layout: names may share memory, which the file's format does not know."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def weights_file(folder: Path) -> Path:
    """A teacher's: an exported program, if it is one."""
    program = folder / f"{PROGRAM}.pt2"
    return program if program.exists() else folder / WEIGHTS_FILE


def load_classifier(weights: Path, manifest: Path) -> Classifier:
    """Read what ``save_classifier`` wrote. Raises UserError if files are missing or do not belong together."""
    for file in (weights, manifest):
        if not file.is_file():
            raise UserError(f"{file} is missing; dvc repro makes it, dvc pull fetches it")
    entry = read_json(manifest)
    sha256 = sha256_of_file(weights)
    if sha256 != entry["weights_sha256"]:
        raise UserError(f"{weights} is not the file that {manifest} describes (sha256 differs); restore both with dvc checkout")
    architecture, classes, preprocessing = entry["architecture"], tuple(entry["classes"]), Preprocessing.from_plain(entry["preprocessing"])
    order = tuple(entry["output_order"]) if "output_order" in entry else None
    outputs = entry.get("outputs")
    network = _load_network(architecture, outputs or len(classes), weights)
    return Classifier(architecture, network, classes, preprocessing, order, outputs, sha256, exact=entry.get("precision") == EXACT)


def _load_network(architecture: str, num_classes: int, weights: Path) -> nn.Module:
    if architecture == PROGRAM:
        return read_program(weights)
    network = build_network(architecture, num_classes)
    load_body(network, load_file(weights), architecture=f"a {architecture} of {num_classes} classes", origin=str(weights))
    return network
