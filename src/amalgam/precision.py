"""The precision in which networks compute, fixed by architecture and device: results do not depend on what a machine happens to prefer."""

import torch

from amalgam.hardware import gpu_bfloat16, native_bfloat16
from amalgam.programs import PROGRAM

FASTER_IN_BFLOAT16 = ("ReferenceCNN", "ResNet18")  # on a CPU with instructions for it; any other needs 6 to 13 times as long


def precision_of(architecture: str, device: str) -> torch.dtype:
    """On a device of torch's type ``device``, cpu or cuda; an exported program has its own inside."""
    on_cpu = device == "cpu" and architecture in FASTER_IN_BFLOAT16 and native_bfloat16()
    on_gpu = device == "cuda" and architecture != PROGRAM and gpu_bfloat16()
    return torch.bfloat16 if on_cpu or on_gpu else torch.float32
