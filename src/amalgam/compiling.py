"""A network through PyTorch's compiler, for training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from amalgam.errors import UserError
from amalgam.hardware import on_gpu

COMPILERS = ("torch._dynamo", "torch._inductor")  # whose exceptions are no part of PyTorch's interface, and slow to import


def compiled(network: nn.Module) -> nn.Module:
    """The network as it is to be called, with the same weights; compiled when it is first called.

    On a GPU a step's kernels are started all at once (CUDA graphs): what it returns lasts until it is called again.
    """
    return _Compiled(network)


class _Compiled(nn.Module):
    """Compiles for batches as large as the first; others, as an epoch's last, are rare, and would need as long to compile again."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.compiled = torch.compile(network, dynamic=False, mode="reduce-overhead" if on_gpu() else "default")
        self.size: int | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        self.size = self.size or len(inputs)
        called = self.compiled if len(inputs) == self.size else self.network
        return cast(Tensor, called(inputs))


@contextmanager
def compiler_told(architecture: str) -> Iterator[None]:
    """Raises UserError where the compiler fails in the block."""
    try:
        yield
    except RuntimeError as error:
        if not type(error).__module__.startswith(COMPILERS):
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"PyTorch's compiler fails for {architecture} ({reason}); set compile to false") from error
