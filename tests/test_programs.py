"""Exported programs from outside: read where nothing in them runs code, refused with the reason otherwise."""

import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from amalgam.errors import UserError
from amalgam.programs import OPERATIONS, read_program
from foreign_teachers import export_program


@pytest.fixture
def program(tmp_path: Path) -> Path:
    export_program(["green", "blue"], tmp_path / "cold.pt2")
    return tmp_path / "cold.pt2"


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def pickled(trap: Trap) -> bytes:
    buffer = io.BytesIO()
    torch.save(trap, buffer)
    return buffer.getvalue()


def rewrite(path: Path, change: Callable[[str, bytes], bytes], more: dict[str, bytes] | None = None) -> None:
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    top = next(iter(members)).partition("/")[0]
    members = {name: change(name.partition("/")[2], content) for name, content in members.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {f"{top}/{name}": content for name, content in (more or {}).items()}).items():
            archive.writestr(name, content)


def in_model(old: str, new: str) -> Callable[[str, bytes], bytes]:
    def change(name: str, content: bytes) -> bytes:
        if name != "models/model.json":
            return content
        assert old.encode() in content
        return content.replace(old.encode(), new.encode())

    return change


ENUM = r"""\"context\": \"{\\\"__enum__\\\": true, \\\"fqn\\\": \\\"ctypes:cdll\\\", \\\"name\\\": \\\"./x\\\"}\""""


def in_specs(old: str, new: str) -> Callable[[str, bytes], bytes]:
    """In the calling conventions, JSON within the model's JSON."""
    return in_model(old, new)


def same(_: str, content: bytes) -> bytes:
    return content


def test_a_rewritten_program_loads_as_long_as_nothing_is_suspicious(program: Path) -> None:
    rewrite(program, same)
    assert read_program(program)(torch.zeros(1, 3, 24, 24)).shape == (1, 2)


def test_a_gpus_failure_is_not_put_down_to_the_program(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr("torch.export.load", fail)
    with pytest.raises(RuntimeError, match=r"^CUDA error"):
        read_program(program)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (in_model("torch.ops.aten.mean.dim", "torch.hub.load"), r"the operation torch\.hub\.load"),
        (in_model("torch.ops.aten.mean.dim", "_operator.attrgetter"), r"the operation _operator\.attrgetter"),
        (in_model("Symbol('", "__import__('os').system('"), "the size"),
        (in_model('"guards_code": []', '"guards_code": ["print(1)"]'), "guards in Python"),
        (in_model("torch.ops.aten.mean.dim", "torch.ops.aten.from_file.default"), r"the operation torch\.ops\.aten\.from_file\.default"),
        (in_model("torch.ops.aten.mean.dim", "torch.ops.aten.save.default"), r"the operation torch\.ops\.aten\.save\.default"),
        (
            in_model('{"as_bool": ', '{"as_operator": "torch.hub.load", "was": '),
            r"an argument that is no tensor, number or text \(as_operator\)",
        ),
        (in_specs("builtins.tuple", "collections.defaultdict"), r"arguments or results in something else .* \(in_spec\)"),
        (in_specs('\\"context\\": \\"null\\"', ENUM), r"arguments or results in something else .* \(in_spec\)"),
    ],
)
def test_a_program_that_names_other_code_is_refused(change: Callable[[str, bytes], bytes], message: str, program: Path) -> None:
    rewrite(program, change)
    with pytest.raises(UserError, match=f"is refused: it holds {message}"):
        read_program(program)


def test_no_operation_that_takes_the_name_of_a_file_is_let_through() -> None:
    schemas = [schema for schema in torch._C._jit_get_all_schemas() if schema.name.startswith(("aten::", "prims::"))]
    of_files = {schema.name for schema in schemas if any("file" in argument.name for argument in schema.arguments)}
    assert of_files >= {"aten::from_file", "aten::save"}
    for name in of_files:
        assert not OPERATIONS.fullmatch(f"torch.ops.{name.replace('::', '.')}.default")


def test_a_program_with_a_pickle_in_it_is_refused_and_the_pickle_not_read(program: Path, tmp_path: Path) -> None:
    trap, mark = pickled(Trap(tmp_path / "mark")), tmp_path / "mark"
    variants: list[Callable[[], None]] = [
        lambda: rewrite(program, lambda name, content: trap if name == "data/sample_inputs/model.pt" else content),
        lambda: rewrite(program, same, {"data/weights/model.pt": trap}),
        lambda: rewrite(program, lambda name, content: content.replace(b'"use_pickle": false', b'"use_pickle": true')),
    ]
    original = program.read_bytes()
    for variant in variants:
        program.write_bytes(original)
        variant()
        with pytest.raises(UserError, match="is refused: it holds"):
            read_program(program)
    assert not mark.exists()
    torch.load(io.BytesIO(trap), weights_only=False)
    assert mark.exists(), "the trap works"


def test_pytorch_reads_the_archive_that_was_looked_at_and_no_other_one_in_the_file(program: Path, tmp_path: Path) -> None:
    """The end record names one place for the directory; Python takes the one right before the record, others the named one."""
    rewrite(program, same)
    harmless = program.read_bytes()
    rewrite(program, lambda name, content: content[:-1] + b"9" if name == "archive_version" else content)
    other = program.read_bytes()
    assert len(other) == len(harmless), "so that the places in the one are those in the other"
    program.write_bytes(other[: other.rindex(b"PK\x05\x06")] + harmless)
    with pytest.raises(Exception, match="version"):
        torch.export.load(program)
    assert read_program(program)(torch.zeros(1, 3, 24, 24)).shape == (1, 2)


@pytest.mark.parametrize("name", ["data/weights/model_weights_config.json", "DATA/weights/weight_0", "../other/models/model.json"])
def test_a_program_of_which_two_readers_might_see_two_things_is_refused(name: str, program: Path) -> None:
    """The same name twice, up to its case, or a second program beside the first."""
    with zipfile.ZipFile(program) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    top = next(iter(members)).partition("/")[0]
    with zipfile.ZipFile(program, "w") as archive, warnings.catch_warnings(action="ignore"):
        archive.writestr(name.removeprefix("../") if name.startswith("..") else f"{top}/{name}", b"{}")
        for member, content in members.items():
            archive.writestr(member, content)
    with pytest.raises(UserError, match="it holds two files of one name, or two programs"):
        read_program(program)


def test_a_program_that_would_unpack_to_more_than_it_is_is_refused(program: Path) -> None:
    with zipfile.ZipFile(program) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    top = next(iter(members)).partition("/")[0]
    with zipfile.ZipFile(program, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.writestr(f"{top}/data/weights/weight_9", bytes(10_000_000), zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="is refused: it holds compressed files"):
        read_program(program)


@pytest.mark.parametrize(
    "change",
    [
        in_model('"schema_version": {"major": ', '"schema_version": {"major": 9'),
        in_model("torch.ops.aten.mean.dim", "torch.ops.aten.of_the_future.default"),
        lambda name, content: b"99" if name in ("archive_version", ".data/version") else content,
    ],
)
def test_a_program_of_another_pytorch_is_refused_with_a_remedy(change: Callable[[str, bytes], bytes], program: Path) -> None:
    rewrite(program, change)
    with pytest.raises(
        UserError, match=r"PyTorch \S+ cannot read the program .*; if another version exported it, export it again with this"
    ):
        read_program(program)


def on_a_gpu(name: str, content: bytes) -> bytes:
    """As a GPU's owner exports it: weights, graph and sample inputs say so."""
    if name != "data/sample_inputs/model.pt":
        return content.replace(b'"type": "cpu"', b'"type": "cuda"')
    changed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as inner, zipfile.ZipFile(changed, "w") as target:
        for member in inner.namelist():
            target.writestr(member, inner.read(member).replace(b"\x03\0\0\0cpu", b"\x06\0\0\0cuda:0"))
    assert b"cuda:0" in changed.getvalue()
    return changed.getvalue()


def test_a_program_exported_on_a_gpu_is_refused_where_there_is_none_with_the_remedy(program: Path) -> None:
    rewrite(program, on_a_gpu)
    with pytest.raises(
        UserError, match=r"cold\.pt2 was exported on a GPU; export it on the CPU: move network and example to the CPU before"
    ):
        read_program(program)


def test_what_is_no_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt2").write_text("no program")
    torch.save({"a": torch.zeros(2)}, tmp_path / "state.pt2")
    for name in ("text.pt2", "state.pt2"):
        with pytest.raises(UserError, match=r"no program of torch\.export\.save|is refused"):
            read_program(tmp_path / name)
    with pytest.raises(UserError, match="does not exist"):
        read_program(tmp_path / "absent.pt2")
