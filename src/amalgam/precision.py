"""The precision in which networks compute: a fixed table by architecture and device."""

import torch

from amalgam.hardware import gpu_bfloat16, native_bfloat16
from amalgam.networks import PROGRAM

NATIVE_BFLOAT16 = "cpu with bfloat16"  # a processor with instructions for it; any other needs 6 to 13 times as long as in float32
OLD_CUDA = "cuda without bfloat16"  # a GPU that emulates it, of compute capability below 8

# The faster precision of each architecture, fixed so that results do not depend on what a machine happens to prefer; a program has its own.
PRECISION = {
    **{
        slow: dict.fromkeys(("ReferenceCNN", "ResNet18", "MobileNetV3", "EfficientNet", PROGRAM), torch.float32)
        for slow in ("cpu", OLD_CUDA)
    },
    NATIVE_BFLOAT16: {
        "ReferenceCNN": torch.bfloat16,
        "ResNet18": torch.bfloat16,
        "MobileNetV3": torch.float32,
        "EfficientNet": torch.float32,
        PROGRAM: torch.float32,
    },
    "cuda": {
        "ReferenceCNN": torch.bfloat16,
        "ResNet18": torch.bfloat16,
        "MobileNetV3": torch.bfloat16,
        "EfficientNet": torch.bfloat16,
        PROGRAM: torch.float32,
    },
}
OTHERS_PRECISION = {"cpu": torch.float32, NATIVE_BFLOAT16: torch.float32, OLD_CUDA: torch.float32, "cuda": torch.bfloat16}


def precision_of(architecture: str, device: str) -> torch.dtype:
    """On a device of torch's type ``device``, cpu or cuda."""
    if device == "cpu" and native_bfloat16():
        device = NATIVE_BFLOAT16
    elif device == "cuda" and not gpu_bfloat16():
        device = OLD_CUDA
    return PRECISION[device].get(architecture, OTHERS_PRECISION[device])
