"""What this machine's processor is, as far as it changes the bits of a result or the precision that is fast; and whether a GPU works."""

import os
import platform
import sys
import warnings
from functools import cache
from pathlib import Path

import torch

from amalgam.errors import UserError

X86 = ("model name", "cpu family", "model", "stepping")
ARM = ("CPU implementer", "CPU part", "CPU variant", "CPU revision")
INSTRUCTION_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # oneDNN's variable, by its present name and its old one
WITHOUT_BFLOAT16 = frozenset(("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI"))  # of their values
# Variables that tell the libraries below PyTorch and NumPy with which instructions, or with how many bits, to compute.
SWITCHES = (
    *INSTRUCTION_LIMITS,
    *("ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS"),
    *("OPENBLAS_CORETYPE", "NPY_DISABLE_CPU_FEATURES", "NVIDIA_TF32_OVERRIDE"),
)
NO_ENGINE = "unable to find an engine"  # cuDNN's way to say that memory is full, or the GPU unknown to it
# In what its libraries say of their own failures; and of those that may be a lack of memory.
GPUS_WORDS = ("CUDA error", "CUDA driver error", "CUDNN_STATUS", "CUBLAS_STATUS", NO_ENGINE)
MEMORY_WORDS = ("_ALLOC_FAILED", NO_ENGINE)


def cpu_model(info: Path = Path("/proc/cpuinfo")) -> str:
    """The processor's name and kind as the kernel tells them; where it tells nothing, as Python does."""
    text = info.read_text() if info.exists() else ""
    fields = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    named = {key.strip(): value.strip() for key, value in fields.items()}
    return " ".join(named[key] for key in X86 + ARM if key in named) or platform.processor() or platform.machine()


def native_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself (AVX512-BF16), and the environment lets it.

    One that only emulates it is several times slower than in float32.
    """
    limit = next((value for name, value in switches().items() if name in INSTRUCTION_LIMITS), "")
    return limit.upper() not in WITHOUT_BFLOAT16 and bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


@cache
def gpus() -> int:
    """How many GPUs CUDA sees: none, say, behind too old a driver, which is told on stderr. No memory of theirs is taken."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        available, installed = torch.cuda.is_available(), torch.cuda.device_count()  # the latter by the driver's word
    if installed and not available:
        reason = str(told[0].message).removeprefix("CUDA initialization: ") if told else "CUDA is not available"
        print(f"computing on the CPU: PyTorch cannot use the GPU ({_first_sentence(reason)})", file=sys.stderr, flush=True)
    return installed if available else 0


@cache
def on_gpu() -> bool:
    """Whether this process computes on a GPU. Raises UserError if there is one and a first small convolution on it fails.

    A team's process has chosen its own before.
    """
    if not gpus():
        return False
    name = ""
    try:
        with warnings.catch_warnings(action="ignore"):  # of a GPU that this build knows nothing of, the operation's error is enough
            name = f" {torch.cuda.get_device_name()}"
            image = torch.ones((1, 1, 3, 3), device="cuda")
            torch.nn.functional.conv2d(image, image).sum().item()
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        raise _unusable(error, name) from error
    return True


def take_gpu(number: int) -> None:
    """Let this process compute on that one. Raises UserError if it is not to be had."""
    try:
        torch.cuda.set_device(number)
    except (RuntimeError, torch.cuda.DeferredCudaCallError) as error:
        raise _unusable(error, f" {number}") from error


def _unusable(error: Exception, name: str) -> UserError:
    return UserError(
        f"PyTorch {torch.__version__} cannot use the GPU{name} ({_first_sentence(str(error))}); CUDA_VISIBLE_DEVICES= before the "
        "command runs it on the CPU"
    )


def is_the_gpus(error: Exception) -> bool:
    """Whether an error is about the GPU, its memory or its libraries, and says nothing about the network or the images."""
    return isinstance(error, (torch.OutOfMemoryError, torch.AcceleratorError)) or any(word in str(error) for word in GPUS_WORDS)


def lacks_memory(error: Exception) -> bool:
    """Whether an error says that the GPU's memory is full, or may be."""
    return isinstance(error, torch.OutOfMemoryError) or any(word in str(error) for word in MEMORY_WORDS)


def _first_sentence(text: str) -> str:
    return text.partition("\n")[0].partition(". ")[0]


def gpu_bfloat16() -> bool:
    """Whether the GPU multiplies bfloat16 itself."""
    return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def cpu_instructions() -> str:
    """The vector instructions in use: a virtual machine may lack some of its processor's."""
    return torch.backends.cpu.get_cpu_capability() + (", bfloat16" if native_bfloat16() else "")


def switches() -> dict[str, str]:
    """Those of SWITCHES that are set: none, unless someone wants other bits than the processor's own."""
    return {name: value for name in SWITCHES if (value := os.environ.get(name))}
