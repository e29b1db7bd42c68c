"""Networks as exported programs (``torch.export.save``), read so that a file cannot run code of its own.

PyTorch's reader unpickles parts of an archive, evaluates its symbolic sizes, imports what its calling conventions name and calls whatever
its graph names. So the archive is looked through first, and refused unless it holds nothing but plain tensors and a graph of tensor
operations; PyTorch is then given what was looked at, and not the file, in which it might find something else.
"""

import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass

from amalgam.errors import UserError
from amalgam.hardware import is_the_gpus, on_gpu
from amalgam.states import first_line

PROGRAM = "program"  # the architecture of an exported program

MEMBERS = re.compile(
    r"(data/(weights/(weight_\d+|model_weights_config\.json)|constants/(tensor_\d+|model_constants_config\.json)|sample_inputs/model\.pt)"
    r"|models/model\.json|archive_format|archive_version|byteorder|\.data/(version|serialization_id))"
)
OPERATIONS = re.compile(  # all but those that read or write files
    r"torch\.ops\.(aten|prims)\.(?!from_file|save|load)\w+(\.\w+)?|torch\.sym_\w+|math\.(ceil|floor|trunc)"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|getitem|eq|ne|ge|gt|le|lt)"
)
SIZE_WORDS = re.compile(
    r"Symbol|Integer|Rational|Add|Mul|Pow|Mod|PythonMod|FloorDiv|CleanDiv|Max|Min|True|positive|nonnegative|integer|[su]\d+"
)
OF_A_GPU = re.compile(rb'"type":\s*"cuda"')  # a device
FIXED_NUMBER = re.compile(r"size\(\)\[0\] == \d")  # of images, among the guards
REMEDIES = {  # by what a refused program holds
    "wrap_with_set_grad_enabled": "export it within torch.no_grad()",
    "wrap_with_autocast": "export it without autocast",
    "a fixed number of images": "ask an input for x.shape[0] in forward, not for len(x), and export it again",
}
ANY_REMEDY = "export it again with torch.export.save, or supply a state dict"
CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")  # of arguments and results


class Program(nn.Module):
    """An exported program: float (B, 3, height, width) → logits (B, classes). It has one mode, that in which it was exported."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def train(self, mode: bool = True) -> "Program":
        self.training = mode
        return self

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.module(inputs)
        return logits


def read_program(path: Path) -> Program:
    """Raises UserError if the file is missing, no exported program, or might run code of its own."""
    if not path.is_file():
        raise UserError(f"the program {path} does not exist; correct the path (a relative one counts from the repository root)")
    try:
        with zipfile.ZipFile(path) as archive:
            problem = next(_suspicious(archive), None)
            from_gpu = not problem and _is_from_gpu(archive)
            seen = io.BytesIO() if problem else _copy(archive)
    except (zipfile.BadZipFile, LookupError, TypeError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged, or no program of torch.export.save ({error}); {ANY_REMEDY}") from error
    if problem:
        remedy = next((remedy for held, remedy in REMEDIES.items() if held in problem), ANY_REMEDY)
        raise UserError(f"{path} is refused: it holds {problem}; {remedy}")
    gpu = on_gpu()
    if from_gpu and not gpu:
        raise UserError(f"{path} was exported on a GPU; export it on the CPU: move network and example to the CPU before torch.export")
    try:
        program = torch.export.load(seen)
        if gpu:  # a graph holds the devices of its constants, which moving the module would leave
            program = move_to_device_pass(program, "cuda")
        return Program(program.module())
    except Exception as error:  # each version of PyTorch refuses what it does not know in a way of its own
        if is_the_gpus(error):
            raise
        raise UserError(
            f"PyTorch {torch.__version__} cannot read the program {path} ({type(error).__name__}: {first_line(error)}); "
            "if another version exported it, export it again with this one"
        ) from error


def _is_from_gpu(archive: zipfile.ZipFile) -> bool:
    """Whether a weight, a constant or an operation has its place on a GPU."""
    return any(OF_A_GPU.search(archive.read(name)) for name in archive.namelist() if name.endswith(".json"))


def _copy(archive: zipfile.ZipFile) -> io.BytesIO:
    """The same archive with nothing but the members that Python sees in it."""
    copied = io.BytesIO()
    with zipfile.ZipFile(copied, "w") as target:
        for name in archive.namelist():
            target.writestr(name, archive.read(name))
    copied.seek(0)
    return copied


def _suspicious(archive: zipfile.ZipFile) -> Iterator[str]:
    """What a program of plain tensors and tensor operations would not hold."""
    names = archive.namelist()
    if len({name.casefold() for name in names}) < len(names) or len({name.partition("/")[0] for name in names}) > 1:
        yield "two files of one name, or two programs"  # of which PyTorch might read the one that is not looked at here
        return
    if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
        yield "compressed files"  # PyTorch writes none; of a few bytes they make any number
        return
    members = {name.partition("/")[2]: archive.read(name) for name in names}
    yield from (f"the file {name}" for name in members if not MEMBERS.fullmatch(name))
    for kind in ("weights", "constants"):
        entries = json.loads(members[f"data/{kind}/model_{kind}_config.json"])["config"]
        yield from (f"{name} as a pickle" for name, entry in entries.items() if entry["use_pickle"])
    if not _plain(members.get("data/sample_inputs/model.pt", b"")):
        yield "sample inputs that are no tensors"
    model = json.loads(members["models/model.json"])
    if guards := model.get("guards_code"):
        yield "guards in Python" + (", for a fixed number of images" if FIXED_NUMBER.search(" ".join(guards)) else "")
    yield from _suspicious_graph(model)


def _plain(pickled: bytes) -> bool:
    try:
        if pickled:
            torch.load(io.BytesIO(pickled), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError):
        return False
    return True


def _suspicious_graph(value: Any) -> Iterator[str]:
    """Every operation, symbolic size and calling convention, wherever in the graph it stands."""
    if isinstance(value, list):
        for item in value:
            yield from _suspicious_graph(item)
    elif isinstance(value, dict):
        if "inputs" in value and isinstance(value.get("target"), str) and not OPERATIONS.fullmatch(value["target"]):
            yield f"the operation {value['target']}"
        for name, item in value.items():
            yield from _suspicious_entry(name, item)
            yield from _suspicious_graph(item)


def _suspicious_entry(name: str, value: Any) -> Iterator[str]:
    if name == "expr_str" and not all(SIZE_WORDS.fullmatch(word) for word in re.findall(r"[^\W\d]\w*", str(value or ""))):
        yield f"the size {value}"
    elif name in ("as_operator", "as_custom_obj"):
        yield f"an argument that is no tensor, number or text ({name})"
    elif name in ("in_spec", "out_spec") and value and not _is_plain_container(json.loads(value)[1]):
        yield f"arguments or results in something else than tuples, lists and dictionaries ({name})"


def _is_plain_container(spec: Any) -> bool:
    """Whether a tree of containers (as PyTorch's ``treespec_dumps`` writes it) is of Python's own, with texts alone for keys."""
    context = json.loads(spec["context"]) if spec["context"] else None
    keys = context is None or (isinstance(context, list) and all(isinstance(key, str) for key in context))
    return spec["type"] in CONTAINERS and keys and all(map(_is_plain_container, spec["children_spec"]))
