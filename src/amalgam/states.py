"""State dicts: a network's weights by name, from files that others wrote; PyTorch's files, written whole."""

import pickle
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from amalgam.errors import UserError
from amalgam.whole import new_whole_file

State = dict[str, Tensor]

PREFIXES = ("_orig_mod.", "module.", "model.", "net.", "backbone.")  # of all names, where the network was compiled, or part of a larger one
REMEDY = "save network.state_dict(), or export the network with torch.export (docs/your_own.md, Teachers)"
WRAPPINGS = ("state_dict", "model_state_dict", "model")  # under which checkpoints keep a network's weights


def read_state(path: Path) -> State:
    """A network's weights from a .safetensors file or a PyTorch checkpoint, of which no code is run.

    Raises UserError if the file is missing, damaged, unsafe or holds no weights.
    """
    if not path.is_file():
        raise UserError(f"the weights {path} do not exist; correct the path (a relative one counts from the repository root)")
    try:
        found: Any = load_file(path) if path.suffix == ".safetensors" else read_plain(path, [Namespace])
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} is damaged, or holds more than weights, a whole network say, which could run code; {REMEDY}") from error
    except Exception as error:  # damage makes PyTorch's reader raise whatever its place leads to
        what = "a TorchScript program" if "TorchScript" in str(error) else f"damaged, or no file of plain weights ({first_line(error)})"
        raise UserError(f"{path} is {what}; {REMEDY}") from error
    for wrapping in WRAPPINGS:
        if isinstance(found, dict) and isinstance(found.get(wrapping), dict):
            found = found[wrapping]
    if not (isinstance(found, dict) and found and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())):
        raise UserError(f"{path} holds no state dict: names with a tensor each; {REMEDY}")
    while prefix := next((prefix for prefix in PREFIXES if all(name.startswith(prefix) for name in found)), None):
        found = {name.removeprefix(prefix): value for name, value in found.items()}
    if inflated := [name for name, value in found.items() if is_inflated(value)]:
        raise UserError(f"{path} is damaged: {inflated[0]} is larger than what the file holds of it; {REMEDY}")
    return {name: value.clone() for name, value in found.items()}  # names may share memory


def read_plain(path: Path, classes: list[Any]) -> Any:
    """What ``torch.save`` wrote, of no other ``classes`` than tensors and plain values.

    A command line's settings (``Namespace``) are of these: torchvision's and timm's own trainings keep them beside the weights. Raises
    whatever damage makes PyTorch's reader raise, and ValueError for a file that would grow as it is read.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
            is_script = any(name.endswith("/constants.pkl") for name in archive.namelist())  # which PyTorch's reader refuses, and says so
        if packed and not is_script:
            raise ValueError(f"{packed[0]} is compressed, which torch.save does not do")
    with torch.serialization.safe_globals(classes):
        return torch.load(path, map_location="cpu", weights_only=True)


def is_inflated(tensor: Tensor) -> bool:
    """Whether it says more than its memory holds, as one that was expanded: a small file could ask for any amount."""
    return tensor.layout == torch.strided and tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes()


def save_torch(value: object, path: Path) -> None:
    """Write a file of PyTorch's that is there whole or not at all. Raises OSError that names it."""
    with new_whole_file(path) as file:
        try:
            torch.save(value, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # PyTorch hides that a file cannot be written behind its own end's being wrong
                raise error.__context__ from None
            raise


def first_line(error: Exception) -> str:
    """What a reader of PyTorch's says is wrong, without the advice that it adds."""
    text = str(error)
    words = (text.partition("WeightsUnpickler error: ")[2] or text).split("\n")
    return next((line.strip().partition(". ")[0] for line in words if line.strip()), type(error).__name__)
