"""A network through PyTorch's compiler, for training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import nn

from amalgam.errors import UserError
from amalgam.hardware import is_the_gpus, on_gpu

COMPILERS = ("torch._dynamo", "torch._inductor")  # whose exceptions are no part of PyTorch's interface, and slow to import


def compiled(network: nn.Module) -> nn.Module:
    """The network as it is to be called, with the same weights; compiled when a size of batch is first seen: an epoch has two at most.

    On a GPU a step's kernels are started all at once (CUDA graphs): what it returns lasts until it is called again. None is chosen by
    its time, which could turn out otherwise after a break.
    """
    return cast(nn.Module, torch.compile(network, dynamic=False, options={"deterministic": True, "triton.cudagraphs": on_gpu()}))


@contextmanager
def compiler_told(architecture: str) -> Iterator[None]:
    """Raises UserError where the compiler fails in the block; of a full disk or GPU it raises what says so."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(COMPILERS):
            raise
        cause = getattr(error, "inner_exception", error)
        if isinstance(cause, OSError) or is_the_gpus(cause):
            raise cause from error
        raise UserError(f"PyTorch's compiler fails for {architecture} ({_reason(cause)}); set compile to false") from error


def _reason(cause: Exception) -> str:
    """Its first two lines: the first may be no more than that it failed."""
    return f"{type(cause).__name__}: " + " ".join(" ".join(str(cause).split("\n")[:2]).split())
