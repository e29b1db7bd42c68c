"""Every command in README and docs would run: its names, values and files exist."""

import re
import shlex
from pathlib import Path

import pytest

from amalgam.params import load_params
from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
DVC = {"exp run", "exp show", "metrics diff", "plots show", "queue start", "repro", "push", "pull"}
MAKE = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands() -> list[str]:
    """The lines of all shell blocks, their comments dropped."""
    lines = []
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            lines += [line for line in block.replace("\\\n", "").splitlines() if line.strip() and not line.startswith("#")]
    return lines


def apply(text: str, dotted: str, value: str) -> str:
    """Set a dotted key in YAML text that indents by two."""
    lines, depth, found = text.splitlines(), 0, 0
    parts = dotted.split(".")
    for number, line in enumerate(lines):
        match = re.match(r"( *)([\w+.-]+):", line)
        if not match:
            continue
        level = len(match[1]) // 2
        found = min(found, level)
        if level == found and match[2] == parts[found]:
            found += 1
            if found == len(parts):
                lines[number] = f"{match[1]}{match[2]}: {value}"
                return "\n".join(lines)
        depth = level
    raise AssertionError(f"params.yaml has no {dotted} (last depth {depth})")


def test_there_are_commands() -> None:
    assert len(commands()) > 8


@pytest.mark.parametrize("command", commands())
def test_a_command_of_the_documentation_would_run(command: str, tmp_path: Path) -> None:
    words = shlex.split(command, comments=True)
    while words and ("=" in words[0] or words[0] == "export"):
        words.pop(0)
    if not words:
        return
    if words[0] == "make":
        assert set(words[1:]) <= MAKE
    elif words[0] == "dvc":
        assert any(" ".join(words[1:3]).startswith(known) for known in DVC)
        settings = [words[i + 1] for i, word in enumerate(words) if word in ("-S", "--set-param")]
        for value in range(3):
            text = (ROOT / "params.yaml").read_text()
            for setting in settings:
                key, _, values = setting.partition("=")
                text = apply(text, key, (values.split(",") * 3)[value])
            (tmp_path / "params.yaml").write_text(text)
            load_params(tmp_path / "params.yaml")
    elif words[0] in ("python", "git"):
        assert (ROOT / words[-1 if words[0] == "git" else 1]).is_file()
    else:
        assert words[0] in ("source", "mlflow", "curl")


def test_files_that_pages_link_to_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name} links to {target}"


def test_the_map_of_the_code_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text()
    for module in (ROOT / "src" / "amalgam").glob("*.py"):
        assert module.name == "__init__.py" or module.name in readme, module.name
