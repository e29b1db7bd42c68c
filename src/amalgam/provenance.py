"""What a result depends on: source code, settings, and the execution that produced it."""

import ast
import ctypes
import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from amalgam.cores import available_cores
from amalgam.errors import UserError

PACKAGE = Path(__file__).parent

# Modules that change no image, logit, weight or metric: parameters count by their values, the others show, report and describe.
NEUTRAL = frozenset(
    (
        *("advice", "brought", "checkpoint", "contradictions", "errors", "evaluation_table", "export", "feasibility", "flags"),
        *("interruption", "live", "notes", "one_off", "origin", "params", "params_file", "parents", "processes", "progress"),
        *("record", "reference_protocol", "source_settings", "stage", "store", "student_settings", "summary", "tracking", "up_to_date"),
    )
)

THREADS_VARIABLE = "AMALGAM_THREADS"
LOCAL_PROCESSES_VARIABLE = "LOCAL_WORLD_SIZE"  # torchrun's: how many it started on this machine
WORKSPACE_VARIABLE, WORKSPACE = "CUBLAS_WORKSPACE_CONFIG", ":4096:8"  # one of two values with which cuBLAS is deterministic


def imported_modules(path: Path) -> set[str]:
    """The amalgam modules that a file imports anywhere in it, as dotted names below the package."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == PACKAGE.name:
            inside = node.module.partition(".")[2]
            found.update(f"{inside}.{alias.name}".strip(".") for alias in node.names)
            found.add(inside)
        elif isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[2] for alias in node.names if alias.name.partition(".")[0] == PACKAGE.name)
    return {name for name in found if name and module_file(name).is_file()}


def module_file(name: str) -> Path:
    path = PACKAGE.joinpath(*name.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def import_closure(start: Iterable[str]) -> list[str]:
    """All amalgam modules reached from ``start``, sorted, without the neutral ones and what only they reach."""
    seen: set[str] = set()
    waiting = [name for name in start if not is_neutral(name)]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting.extend(found for found in imported_modules(module_file(name)) if not is_neutral(found))
    return sorted(seen)


def is_neutral(module: str) -> bool:
    """Whether it is one of the neutral modules, or in a package that is."""
    return module.partition(".")[0] in NEUTRAL


@cache
def code_hash(module: str) -> str:
    """A hash of the source text of everything that ``module`` (as ``amalgam.trainer``) imports from the package."""
    digest = hashlib.sha256()
    for name in import_closure([module.partition(".")[2]]):
        digest.update(name.encode() + module_file(name).read_bytes())
    return digest.hexdigest()


def fingerprint(**parts: Any) -> str:
    """A hash of named plain values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def thread_count() -> int:
    """Threads for tensor arithmetic: the environment variable, else this process's part of the cores that it may use."""
    text = os.environ.get(THREADS_VARIABLE, "")
    if not text:
        return max(available_cores() // int(os.environ.get(LOCAL_PROCESSES_VARIABLE, "1")), 1)
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"{THREADS_VARIABLE} is '{text}'; it must be a number of threads, 1 or more")
    return int(text)


def execution_record(processes: int = 1) -> dict[str, str | int]:
    """Everything beside code, data and parameters that can change a bit of the weights, of what ``processes`` work out together."""

    from amalgam.hardware import cpu_instructions, cpu_model, on_gpu, switches

    return {
        **(_gpu_record() | {"processor": cpu_model()} if on_gpu() else {"device": cpu_model()}),
        "instructions": cpu_instructions(),
        **switches(),
        "threads": thread_count(),
        "processes": processes,
        "system": f"{platform.system()} {platform.machine()}",
        "python": ".".join(map(str, sys.version_info[:2])),
        **{package: version(package) for package in ("torch", "torchvision", "timm", "numpy", "scipy", "scikit-learn")},
    }


def _gpu_record() -> dict[str, str | int]:
    """Of GPUs of one name some have more multiprocessors than others, among which random numbers are dealt out."""
    import torch

    kind = torch.cuda.get_device_properties(torch.cuda.current_device())
    cudnn = torch.backends.cudnn.version() or 0  # type: ignore[no-untyped-call]
    workspace = os.environ.get(WORKSPACE_VARIABLE, WORKSPACE)
    counts = {"multiprocessors": kind.multi_processor_count, "cudnn": cudnn}
    return {"device": torch.cuda.get_device_name(), "workspace": workspace} | counts


def configure_execution() -> None:
    """Make this process follow its execution record: fixed threads, deterministic kernels, float32 in full; and let it keep its memory."""
    os.environ.setdefault(WORKSPACE_VARIABLE, WORKSPACE)
    import torch

    torch.set_num_threads(thread_count())
    torch.use_deterministic_algorithms(True)
    # A debugging aid that costs a pass over every new tensor.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False  # of GPUs: with ten bits of a float32's 23
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Stop glibc from returning every large tensor to the system, only to fault its pages in again at the next step."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # M_… of malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 64 << 20)
        mallopt(mmap_max, 0)
