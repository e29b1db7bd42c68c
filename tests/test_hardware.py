"""What the processor is, and the precision that follows from it; whether a GPU works (test_gpu.py has what only a GPU can show)."""

import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from amalgam import precision
from amalgam.errors import UserError
from amalgam.hardware import SWITCHES, cpu_instructions, cpu_model, gpus, is_the_gpus, native_bfloat16, on_gpu, take_gpu
from amalgam.inference import device, device_name
from amalgam.precision import precision_of
from amalgam.processes import processes_asked_for
from amalgam.provenance import execution_record
from amalgam.stage import run_stage

ARCHITECTURES = ("ReferenceCNN", "ResNet18", "MobileNetV3", "EfficientNet", "program", "timm/resnet10t")


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


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_processor_without_bfloat16_computes_in_float32(architecture: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Emulated, a step of the reference CNN takes thirteen times as long."""
    monkeypatch.setattr(precision, "native_bfloat16", lambda: False)
    assert precision_of(architecture, "cpu") == torch.float32


def test_a_processor_with_bfloat16_uses_it_where_it_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "native_bfloat16", lambda: True)
    fast = {name for name in ARCHITECTURES if precision_of(name, "cpu") == torch.bfloat16}
    assert fast == {"ReferenceCNN", "ResNet18"}


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


def test_variables_that_change_the_bits_stand_in_the_record_and_beside_the_processors_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN's limit of instructions gave a teacher other weights than the same record without it."""
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    plain, plain_name = execution_record(), device_name()
    assert not plain.keys() & set(SWITCHES)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("MKL_CBWR", "")
    changed = execution_record()
    assert changed.pop("ONEDNN_MAX_CPU_ISA") == "AVX2"
    assert changed | {"instructions": plain["instructions"]} == plain
    assert torch.cuda.is_available() or device_name() == f"{plain_name}, ONEDNN_MAX_CPU_ISA=AVX2"


@pytest.mark.parametrize(
    ("variables", "native"),
    [
        ({}, True),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        ({"ONEDNN_MAX_CPU_ISA": "avx512_core"}, False),
        ({"DNNL_MAX_CPU_ISA": "AVX2"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "ALL", "DNNL_MAX_CPU_ISA": "AVX2"}, True),
    ],
)
def test_a_limit_of_instructions_may_leave_no_bfloat16(variables: dict[str, str], native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where oneDNN may not use the processor's instructions for it, it emulates them: six times slower than float32."""
    for name in SWITCHES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: {"avx512_bf16": True})
    assert native_bfloat16() == native


@pytest.fixture
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What was found out of this process's GPU is forgotten, before and after."""
    for found in (gpus, on_gpu):
        found.cache_clear()
    yield
    monkeypatch.undo()
    for found in (gpus, on_gpu):
        found.cache_clear()


@pytest.mark.usefixtures("asked_anew")
def test_a_gpu_that_fails_its_first_operation_is_named_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: PyTorch's functions stand in for one of which this build has no kernels."""

    def no_kernel(*_: object, **__: object) -> None:
        warnings.warn("GeForce with CUDA capability sm_35 is not compatible with the current PyTorch installation.", stacklevel=1)
        raise torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device\nCompile with DSA")

    for name, value in {"is_available": True, "device_count": 1, "get_device_name": "GeForce"}.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda value=value: value)
    monkeypatch.setattr("torch.ones", no_kernel)
    said = r"cannot use the GPU GeForce \(CUDA error: no kernel image is available for execution on the device\); CUDA_VISIBLE_DEVICES= b"
    for _ in range(2):
        with pytest.raises(UserError, match=said):
            device()


@pytest.mark.usefixtures("asked_anew")
def test_a_gpu_behind_too_old_a_driver_is_told_of_once_and_not_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no GPU here: PyTorch's functions stand in for two that the driver sees and CUDA does not."""

    def is_available() -> bool:
        warnings.warn("CUDA initialization: The driver is too old (found version 11040). Please update it.", stacklevel=1)
        return False

    monkeypatch.setattr("torch.cuda.is_available", is_available)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("AMALGAM_PROCESSES", "3")
    assert [processes_asked_for(), device().type, execution_record()["device"]] == [3, "cpu", cpu_model()]
    told = "computing on the CPU: PyTorch cannot use the GPU (The driver is too old (found version 11040))\n"
    assert capsys.readouterr().err == told


@pytest.mark.usefixtures("asked_anew")
def test_a_gpu_that_works_is_used_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: PyTorch's functions stand in for one."""
    for name, value in {"is_available": True, "device_count": 1, "get_device_name": "GeForce"}.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda value=value: value)
    monkeypatch.setattr("torch.ones", lambda size, device: torch.zeros(size))
    monkeypatch.setattr("torch.cuda.current_device", lambda: 0)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: SimpleNamespace(multi_processor_count=46))
    monkeypatch.setattr("torch.backends.cudnn.version", lambda: 91900)
    monkeypatch.setenv("AMALGAM_PROCESSES", "2")
    record = execution_record()
    assert device().type == "cuda"
    told = ("device", "multiprocessors", "cudnn", "workspace", "processor")
    assert [record[name] for name in told] == ["GeForce", 46, 91900, ":4096:8", cpu_model()]
    with pytest.raises(UserError, match="AMALGAM_PROCESSES is 2, but there are 1 GPUs, and each process needs its own"):
        processes_asked_for()


@pytest.mark.usefixtures("asked_anew")
def test_a_gpu_without_convolutions_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no GPU here: what cuDNN says of one that it no longer knows."""

    def no_engine(*_: object) -> None:
        raise RuntimeError("GET was unable to find an engine to execute this computation")

    for name, value in {"is_available": True, "device_count": 1, "get_device_name": "TITAN"}.items():
        monkeypatch.setattr(f"torch.cuda.{name}", lambda value=value: value)
    monkeypatch.setattr("torch.ones", lambda size, device: torch.zeros(size))
    monkeypatch.setattr("torch.nn.functional.conv2d", no_engine)
    with pytest.raises(UserError, match=r"cannot use the GPU TITAN \(GET was unable to find an engine .*\); CUDA_VISIBLE_DEVICES= before"):
        device()


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: exclusive mode"), torch.cuda.DeferredCudaCallError("CUDA call failed lazily")])
def test_a_gpu_that_cannot_be_taken_is_named(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> None:
        raise error

    monkeypatch.setattr("torch.cuda.set_device", refuse)
    with pytest.raises(UserError, match=r"cannot use the GPU 1 \(CUDA (error: exclusive mode|call failed lazily)\)"):
        take_gpu(1)


@pytest.mark.usefixtures("asked_anew")
def test_without_a_gpu_nothing_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert not on_gpu()
    assert capsys.readouterr().err == ""


def test_an_error_is_the_gpus_by_its_kind_or_its_words() -> None:
    assert is_the_gpus(torch.OutOfMemoryError("full"))
    assert is_the_gpus(torch.AcceleratorError("CUDA error: unspecified launch failure"))
    assert is_the_gpus(RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"))
    assert is_the_gpus(RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"))
    assert is_the_gpus(RuntimeError("GET was unable to find an engine to execute this computation"))
    assert is_the_gpus(RuntimeError("CUDA driver error: invalid argument"))
    assert not is_the_gpus(RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 4x5)"))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 8 GiB"),
            "CUDA out of memory",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "CUDA error: CUBLAS_STATUS_ALLOC_FAILED",
        ),
        (RuntimeError("GET was unable to find an engine to execute this computation"), "GET was unable to find an engine"),
    ],
)
def test_a_stage_that_fills_the_gpus_memory_says_what_to_lower(error: Exception, told: str) -> None:
    """There is no GPU here: the error alone is PyTorch's."""

    def full() -> None:
        raise error

    with pytest.raises(SystemExit, match=rf"^error: the GPU's memory is full \({told}.*\); lower batch_size, student_resolution"):
        run_stage(full)


def test_any_other_error_of_a_stage_stays_what_it_is() -> None:
    def wrong() -> None:
        raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        run_stage(wrong)
