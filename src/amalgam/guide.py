"""The guide to the parameters, from their one definition and the shipped values: ``make guide`` writes docs/parameters.md."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from amalgam.params import Params, TeacherSettings
from amalgam.params_file import PARAMS_FILE, read_yaml
from amalgam.source_settings import Source, SuppliedTeacher
from amalgam.student_settings import StudentSettings

HEAD = """# Parameters

Everything that can be set, as it is defined in the code and shipped in [params.yaml](../params.yaml): `make guide` writes this page, a test
compares it. `dvc exp run -S NAME=VALUE` writes the value into params.yaml and runs; it stays there (`git restore params.yaml` takes it
back) unless `--temp` is given.
"""
STUDENT = """The settings of a student. `taskA.` before a name (`-S taskA.alpha=0.3`) sets it for that task alone. Each is a flag of
`python stages/train.py` too (`--alpha 0.3`), which trains one student by hand, outside the pipeline."""
SOURCES = """The block of the chosen source counts: `digits`, `cifar100`, `folder` or `gdrive` (`-S folder.fetch.path=photos.zip`)."""
SUPPLIED = """What stands under `supplied:` for each teacher that you bring, by task and name."""
TABLE = ["| name | shipped | may be | what it does, and when to change it |", "|---|---|---|---|"]


def guide(shipped: Mapping[str, Any]) -> str:
    """Markdown, with the values of a parsed params.yaml."""
    own = {name: field for name, field in Params.model_fields.items() if name in Params.__annotations__}
    general = {name: field for name, field in own.items() if not nested(field) and name != "tasks"}
    parts = [HEAD, "## Images\n", *table(general, shipped), "\n## Student\n", STUDENT, "", *table(StudentSettings.model_fields, shipped)]
    parts += ["\n## Teachers\n", *table(TeacherSettings.model_fields, shipped["teacher"], "teacher.")]
    parts += ["\n## Sources\n", SOURCES, "", *TABLE]
    for name, field in own.items():
        block = field.annotation
        if isinstance(block, type) and issubclass(block, Source):
            fetch: Any = block.model_fields["fetch"].annotation
            parts += rows(fetch.model_fields, shipped[name]["fetch"], f"{name}.fetch.")
    parts += common_rows({name: shipped[name] for name, field in own.items() if nested(field) and "fetch" in shipped[name]})
    parts += ["\n## Evaluation\n", *table(own["evaluate"].annotation.model_fields, shipped["evaluate"], "evaluate.")]  # type: ignore[union-attr]
    return "\n".join([*parts, "\n## Teachers that you bring\n", SUPPLIED, "", *table(SuppliedTeacher.model_fields, {})]) + "\n"


def common_rows(blocks: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What every source's block has, with the values of each."""
    augmentation: Any = Source.model_fields["augmentation"].annotation
    plain = {name: field for name, field in Source.model_fields.items() if name != "augmentation"}
    strong = {source: block["augmentation"] for source, block in blocks.items()}
    first = rows(augmentation.model_fields, by_source(augmentation.model_fields, strong), "‹source›.augmentation.")
    return [*first, *rows(plain, by_source(plain, blocks), "‹source›.")]


def by_source(fields: Mapping[str, FieldInfo], blocks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Of each field the value of most sources, then where it is another."""
    found = {}
    for name in fields:
        values = {source: value(block[name]) for source, block in blocks.items()}
        common = max(values.values(), key=list(values.values()).count)
        found[name] = "; ".join([common, *(f"{source}: {own}" for source, own in values.items() if own != common)])
    return found


def nested(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)


def table(fields: Mapping[str, FieldInfo], shipped: Mapping[str, Any], prefix: str = "") -> list[str]:
    return [*TABLE, *rows(fields, shipped, prefix)]


def rows(fields: Mapping[str, FieldInfo], shipped: Mapping[str, Any], prefix: str = "") -> list[str]:
    cells = ([f"`{prefix}{name}`", value(shipped.get(name, "–")), allowed(field), str(field.description)] for name, field in fields.items())
    return [f"| {' | '.join(cell.replace('|', '&#124;').replace('<', '&lt;') for cell in row)} |" for row in cells]


def value(shipped: Any) -> str:
    if isinstance(shipped, dict):
        return "in the file" if shipped else "none"
    return {None: "null", "": "''"}.get(shipped, str(shipped))


def allowed(field: FieldInfo) -> str:
    """The type, or the choices, and the range."""
    kind, bounds = field.annotation, dict(bounds_of(field))
    words = kinds(kind)
    if bounds:
        words = [f"{words[0]}, {' and '.join(f'{sign} {number:.10g}' for sign, number in bounds.items())}", *words[1:]]
    return " or ".join(words)


def bounds_of(field: FieldInfo) -> Iterator[tuple[str, float]]:
    for found in field.metadata:
        for kind, name, sign in ((Ge, "ge", "≥"), (Gt, "gt", ">"), (Le, "le", "≤"), (Lt, "lt", "<")):
            if isinstance(found, kind):
                yield sign, float(getattr(found, name))


def kinds(kind: Any) -> list[str]:
    plain = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    if kind in plain:
        return [plain[kind]]
    if get_origin(kind) is Literal:
        return [", ".join(get_args(kind))]
    if get_origin(kind) in (dict, list):
        return ["by task" if get_origin(kind) is dict else "list"]
    parts = get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)
    return [word for part in parts for word in kinds(part)]


def main() -> None:
    print(guide(read_yaml(PARAMS_FILE.read_text(encoding="utf-8"), str(PARAMS_FILE))[0]), end="")


if __name__ == "__main__":
    main()
