"""The one place that reads ``params.yaml``.

YAML guesses a type from a value's spelling (``no`` a truth value, ``5e-05`` text, ``010`` a number), differently in each
version of the language. Here every scalar is read as the text that stands in the file, and the declared type decides what it
means, so that DVC's spelling of numbers and class names such as ``no`` or ``010`` are both right.
"""

import difflib
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import date
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeGuard, get_args

import yaml
from pydantic import BaseModel, ValidationError

from amalgam.errors import UserError
from amalgam.params import Params
from amalgam.source_settings import TASK_NAME

PARAMS_FILE = Path("params.yaml")
NULL = ("", "~", "null", "Null", "NULL")
RESPELLED = re.compile(r"True|TRUE|False|FALSE|[-+.\d].*")  # what DVC's writer takes for truth values, and maybe for numbers and dates
OTHER_THAN_TEXT = re.compile(r"(?i:true|false|null)|~|[-+.\d].*")  # what DVC's reader may take for that
PLAIN_NUMBER = re.compile(r"0|[1-9]\d*")  # the same however it is written
MERGE = "tag:yaml.org,2002:merge"  # the key <<

Location = tuple[str | int, ...]


def read_yaml(text: str, name: str) -> tuple[dict[str, Any], dict[Location, int]]:
    """Parse YAML with every scalar as text (plain ``null``, ``~`` and nothing as None), and say on which line each key stands.

    Raises UserError on a syntax error, a repeated key, an alias within what it names or a file that is no mapping.
    """
    lines: dict[Location, int] = {}

    def convert(node: yaml.Node, location: Location) -> Any:
        lines[location] = node.start_mark.line + 1
        if isinstance(node, yaml.ScalarNode):
            return None if node.style is None and node.value in NULL else str(node.value)
        if isinstance(node, yaml.SequenceNode):
            return [convert(item, (*location, index)) for index, item in enumerate(node.value)]
        values: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        own: dict[Location, int] = {}  # lines of keys that stand here, whose values win over what << takes in
        for key_node, value_node in node.value:
            key = str(key_node.value)
            if key_node.tag == MERGE:
                for mapping in reversed(_mappings(value_node, name)):  # of several, an earlier one wins
                    merged |= convert(mapping, location)
                continue
            if key in values:
                raise UserError(f"{name}:{key_node.start_mark.line + 1}: the key '{key}' stands twice; remove one")
            values[key] = convert(value_node, (*location, key))
            own[(*location, key)] = key_node.start_mark.line + 1
        lines.update(own)
        return merged | values

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise UserError(f"{name} is not valid YAML: {error}; correct it there") from error
    _check_ends(root, name)
    _check_spelling(root, name)
    values = convert(root, ()) if root is not None else None
    if not isinstance(values, dict):
        raise UserError(f"{name} must be a mapping of parameter names to values")
    return values, lines


def _check_ends(node: yaml.Node | None, name: str, within: tuple[yaml.Node, ...] = ()) -> None:
    """Raises UserError on an alias that stands within what it names, which has no end."""
    if any(node is outer for outer in within):
        raise UserError(f"{name}:{within[-1].start_mark.line + 1}: an alias here names the block that it stands in; correct it")
    if isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        for item in node.value:
            for part in item if isinstance(item, tuple) else (item,):
                _check_ends(part, name, (*within, node))


def _names(node: yaml.Node | None, keys: bool = False, values: bool = False) -> Iterator[yaml.ScalarNode]:
    """The names of classes and teachers: all keys below ``tasks`` and ``supplied``, all values below ``tasks`` and ``classes``."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _names(key, values=keys)
            yield from _names(value, keys or key.value in ("tasks", "supplied"), values or key.value in ("tasks", "classes"))
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _names(item, keys, values)
    elif isinstance(node, yaml.ScalarNode) and values:
        yield node


def _blocks(node: yaml.Node | None) -> Iterator[yaml.MappingNode]:
    """All mappings, at any depth."""
    if isinstance(node, yaml.MappingNode):
        yield node
        for _, value in node.value:
            yield from _blocks(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _blocks(item)


def _check_spelling(root: yaml.Node | None, name: str) -> None:
    """Raises UserError where DVC, when it sets anything, would spell the name of a class or a teacher otherwise, or cannot read it; or sort
    the keys of a block, of which some are words to it and others are not."""
    for node in _names(root):
        text = str(node.value)
        if node.style is not None or not RESPELLED.fullmatch(text) or PLAIN_NUMBER.fullmatch(text):
            continue
        written = _written_by_dvc(text)
        if written != text:
            problem = "DVC reads no dates" if written is None else f"dvc exp run would write {written}"
            raise UserError(f"{name}:{node.start_mark.line + 1}: quote the name {text}, as '{text}': {problem}")
    for block in _blocks(root):
        odd = [key for key, _ in block.value if key.style is None and OTHER_THAN_TEXT.fullmatch(key.value) and not _is_text(key.value)]
        if 0 < len(odd) < len(block.value):
            quoted = f"quote the name {odd[0].value}, as '{odd[0].value}'"
            raise UserError(f"{name}:{odd[0].start_mark.line + 1}: {quoted}: DVC takes it for no text, and those beside it for text")


def _is_text(name: str) -> bool:
    """Whether DVC reads it so, unquoted."""
    from dvc.utils.serialize import parse_yaml_for_update

    return isinstance(parse_yaml_for_update(f"name: {name}", str(PARAMS_FILE))["name"], str)


def _written_by_dvc(text: str) -> str | None:
    """The name after DVC has read and written it; None if it is a date."""
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update  # here: few files need it, and it takes a while

    read = parse_yaml_for_update(f"name: {text}", str(PARAMS_FILE))
    if isinstance(read["name"], date):
        return None
    return str(read_yaml(dumps_yaml(read), str(PARAMS_FILE))[0]["name"])


def _mappings(node: yaml.Node, name: str) -> list[yaml.Node]:
    """What the key << names: a mapping, or a list of them. Raises UserError if it is something else."""
    named = node.value if isinstance(node, yaml.SequenceNode) else [node]
    if not all(isinstance(item, yaml.MappingNode) for item in named):
        raise UserError(f"{name}:{node.start_mark.line + 1}: << takes a block, as *overrides, or a list of blocks; correct it")
    return list(named)


def load_params(path: Path = PARAMS_FILE, task: str | None = None, flags: Mapping[str, str] = MappingProxyType({})) -> Params:
    """Read and validate the whole file, with the settings of ``task`` that the command line's ``flags`` name in place of the file's.

    Raises UserError that lists everything wrong in it.
    """
    if not path.exists():
        raise UserError(f"{path} not found in {Path.cwd()}; run from the repository root, or restore it with: git checkout {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}); save it so") from error
    values, lines = read_yaml(text, str(path))
    if "tasks" in values:
        raise UserError(f"{path}:{lines['tasks',]}: unknown key 'tasks'; settings of a task stand in a block of its name, as taskA")
    tasks = {key: values.pop(key) for key in list(values) if TASK_NAME.fullmatch(key)}
    if task is not None:
        _set(values, tasks, task, flags)
    try:
        return Params.model_validate(values | {"tasks": tasks})
    except ValidationError as error:
        named = {location for name in flags for location in ((task, name), (name,))}
        raise UserError(explain(error, str(path), lines, named)) from error


def _set(values: dict[str, Any], tasks: dict[str, Any], task: str, flags: Mapping[str, str]) -> None:
    """Put the flags' values where those of the task stand; null, which a task's block may not say, where the global ones do."""
    if not isinstance(tasks.get(task), dict):
        raise UserError(f"there is no {task}; the tasks are {', '.join(tasks)}")
    for name, text in flags.items():
        value = None if text and text in NULL else text
        tasks[task][name] = value
        if value is None:
            values[name] = None


def explain(error: ValidationError, name: str, lines: dict[Location, int], flags: Collection[tuple[str | None, ...]]) -> str:
    """One line for each thing wrong: file, line, key, value, what is allowed; or the flag, where the value came from one."""
    messages, explained = [], set()
    for item in error.errors():
        location = item["loc"][1:] if item["loc"][:1] == ("tasks",) else item["loc"]
        location = tuple(part for part in location if part != "[key]")
        key = ".".join(map(str, location))
        if item["type"] == "extra_forbidden":
            text, meant = _unknown(item["loc"])
            explained.add((*location[:-1], meant))
        elif item["type"] == "missing":
            in_task = item["loc"][:1] == ("tasks",)
            remedy = "add the line '<<: *overrides' to the block" if in_task else "restore its line from the shipped file"
            text = f"missing; every key must stand in the file ({remedy})"
        elif item["type"] == "value_error":
            text = item["msg"].removeprefix("Value error, ")
        else:
            text = f"{item['input']!r} is refused: {item['msg'][0].lower()}{item['msg'][1:]}"
            if item["input"] is None and "tasks" in location:
                text = "null is nothing in YAML; a class of that name is written 'null'"
        line = next((lines[location[:end]] for end in range(len(location), 0, -1) if location[:end] in lines), None)
        flagged = item["type"] == "value_error" and any(flag[: len(location)] == location for flag in flags)
        together = " with these flags" if flagged else ""  # what contradicts may stand in either
        in_file = f"{name}{f':{line}' if line else ''}{together}: {key}{': ' if key else ''}"
        where = f"--{location[-1]}: " if location in flags else in_file
        messages.append((item["type"], location, where + text))
    return "\n".join(text for kind, location, text in messages if not (kind == "missing" and location in explained))


def _is_section(kind: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def _unknown(location: Location) -> tuple[str, str | None]:
    """The message for a key that is not defined, and the key that was probably meant."""
    kind: Any = Params
    for part in location[:-1]:
        kind = kind.model_fields[str(part)].annotation if _is_section(kind) else get_args(kind)[-1]  # the values of dict[str, …]
    known = [name for name in kind.model_fields if name != "tasks"]
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f"unknown key; did you mean '{close[0]}'?", close[0]
    return f"unknown key; known here: {', '.join(known)}", None
