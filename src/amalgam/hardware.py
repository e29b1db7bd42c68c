"""What this machine's processor is, as far as it changes the bits of a result or the precision that is fast."""

import platform
from pathlib import Path

import torch

X86 = ("model name", "cpu family", "model", "stepping")
ARM = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")


def cpu_model(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and kind as the kernel tells them; where it tells nothing, as Python does."""
    text = info.read_text() if info.exists() else ""
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    return " ".join(named[key] for key in X86 + ARM if key in named) or platform.processor() or platform.machine()


def native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX512-BF16). One that only emulates it is several times slower than in float32."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def gpu_bfloat16() -> bool:
    """Whether the GPU multiplies bfloat16 itself."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def cpu_instructions() -> str:
    """The vector instructions in use: a virtual machine may lack some of its processor's."""
    return torch.backends.cpu.get_cpu_capability() + (", bfloat16" if native_bfloat16() else "")
