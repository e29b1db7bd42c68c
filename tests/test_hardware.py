"""What the processor is, and the precision that follows from it."""

import platform
from pathlib import Path

import pytest
import torch

from amalgam import precision
from amalgam.hardware import cpu_instructions, cpu_model, native_bfloat16
from amalgam.precision import PRECISION, precision_of
from amalgam.provenance import execution_record


def test_every_processor_has_a_name(tmp_path: Path) -> None:
    """ARM's kernel tells numbers alone; where it tells nothing, Python does."""
    told = (
        "processor\t: 0",
        "BogoMIPS\t: 243.75",
        "CPU implementer\t: 0x41",
        "CPU variant\t: 0x3",
        "CPU part\t: 0xd0c",
        "",
        "processor\t: 1",
    )
    (tmp_path / "arm").write_text("\n".join(told))
    assert cpu_model(tmp_path / "arm") == "0x41 0xd0c 0x3"
    (tmp_path / "silent").write_text("processor : 0\n")
    for place in ("silent", "absent"):
        assert cpu_model(tmp_path / place) == (platform.processor() or platform.machine()) != ""


def test_every_architecture_has_a_precision_on_every_kind_of_device() -> None:
    assert len({frozenset(table) for table in PRECISION.values()}) == 1
    assert PRECISION.keys() == precision.OTHERS_PRECISION.keys()


@pytest.mark.parametrize("architecture", [*PRECISION["cpu"], "timm/resnet10t"])
def test_a_processor_without_bfloat16_computes_in_float32(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated, a step of the reference CNN takes thirteen times as long."""
    monkeypatch.setattr(precision, "native_bfloat16", lambda: False)
    assert precision_of(architecture, "cpu") == torch.float32


def test_a_processor_with_bfloat16_uses_it_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda: True)
    fast = {name for name in PRECISION["cpu"] if precision_of(name, "cpu") == torch.bfloat16}
    assert fast == {"ReferenceCNN", "ResNet18"}
    assert precision_of("timm/resnet10t", "cpu") == torch.float32


@pytest.mark.parametrize(("native", "expected"), [(True, torch.bfloat16), (False, torch.float32)])
def test_a_gpu_that_emulates_bfloat16_computes_in_float32(native: bool, expected: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "gpu_bfloat16", lambda: native)
    assert {precision_of(name, "cuda") for name in ("ReferenceCNN", "MobileNetV3", "timm/resnet10t")} == {expected}


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists() or platform.machine() != "x86_64", reason="reads the kernel's list of instructions")
def test_native_bfloat16_is_what_the_kernel_says() -> None:
    flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    assert native_bfloat16() == ("avx512_bf16" in flags)


def test_the_execution_record_names_processor_and_instructions() -> None:
    """One processor may show fewer instructions in one virtual machine than in another."""
    record = execution_record()
    assert record["instructions"] == cpu_instructions()
    assert cpu_instructions().startswith(torch.backends.cpu.get_cpu_capability())
    assert torch.cuda.is_available() or record["device"] == cpu_model()
