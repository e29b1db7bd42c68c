"""Every command in README and docs would run: its names, values and files exist."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
import yaml
from benchmarks import coverage, differences, overview, readme, scale
from benchmarks.speed import __main__ as steps
from benchmarks.speed import experiments, forward
from dvc.cli.parser import get_main_parser
from stages import evaluate, train
from torch.distributed.run import get_args_parser

from amalgam import reference_protocol
from amalgam.files import read_json
from amalgam.flags import given_settings
from amalgam.params_file import load_params
from amalgam.programs import read_program
from amalgam.stage import full_task_name
from amalgam.student_settings import StudentSettings
from conftest import ROOT
from foreign_teachers import NearestColour

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
STAGES = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
MAKE = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands() -> list[str]:
    """The lines of all shell blocks, their comments dropped."""
    lines = []
    for page in PAGES:
        for block in re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL):
            lines += [line for line in block.replace("\\\n", "").splitlines() if line.strip() and not line.startswith("#")]
    return lines


def apply(text: str, dotted: str, value: str) -> str:
    """Set a dotted key in YAML text that indents by two; a task's own key stands under those that it takes over."""
    task, _, key = dotted.partition(".")
    if f"\n{task}:\n  <<: *overrides" in text:
        assert key in StudentSettings.model_fields
        return text.replace(f"\n{task}:\n  <<: *overrides", f"\n{task}:\n  <<: *overrides\n  {key}: {value}")
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


@pytest.mark.parametrize("line", commands())
def test_a_command_of_the_documentation_would_run(line: str, tmp_path: Path) -> None:
    for command in re.split(r" &{1,2} ", line):
        words = shlex.split(command, comments=True)
        while words and ("=" in words[0] or words[0] == "export"):
            words.pop(0)
        if words:
            check(words, tmp_path)


def test_readmes_experiments_leave_the_workspace_as_it_is() -> None:
    """Else each would start from the settings of those above it; the first, on one's own images, is meant to stay."""
    first, *others = re.findall(r"^dvc exp run .*", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert "folder.fetch.path" in first
    assert len(others) > 10
    assert [line for line in others if "--temp" not in line and "--queue" not in line] == []


def check(words: list[str], folder: Path) -> None:
    if words[0] == "make":
        assert {word for word in words[1:] if "=" not in word} <= MAKE
    elif words[0] == "dvc":
        arguments = get_main_parser().parse_args(words[1:])
        assert set(getattr(arguments, "targets", None) or []) <= STAGES | {"data.dvc", "models.dvc"}
        check_settings(getattr(arguments, "set_param", None) or [], folder)
    elif words[:2] == ["python", "stages/train.py"]:
        arguments = train.parser().parse_args(words[2:])
        settings = reference_protocol.SETTINGS if arguments.protocol else {}
        load_params(ROOT / "params.yaml", full_task_name(arguments.task), settings | given_settings(arguments))
    elif words[:2] == ["python", "stages/evaluate.py"]:
        arguments = evaluate.parser().parse_args(words[2:])
        assert arguments.task is None or full_task_name(arguments.task) in load_params(ROOT / "params.yaml").task_names
    elif words[:2] == ["python", "-c"]:
        compile(words[2], "the command", "exec")
    elif words[:2] == ["python", "-m"]:
        module = ROOT / words[2].replace(".", "/")
        assert (module / "__main__.py").is_file() or module.with_suffix(".py").is_file()
    elif words[0] == "torchrun":
        launched = get_args_parser().parse_args(words[1:])
        check(["python", launched.training_script, *launched.training_script_args], folder)
    elif words[0] == "git":
        assert words[1] in ("commit", "push") or all((ROOT / word).is_file() for word in words[2:])
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] in ("source", "mlflow", "curl", "wait")


def check_settings(settings: list[str], folder: Path) -> None:
    """Each value of a grid is one that the parameters accept."""
    for value in range(3):
        text = (ROOT / "params.yaml").read_text()
        for setting in settings:
            key, _, values = setting.partition("=")
            text = apply(text, key, (values.split(",") * 3)[value])
        (folder / "params.yaml").write_text(text)
        load_params(folder / "params.yaml")


def blocks(language: str, page: str = "README.md") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(), re.MULTILINE | re.DOTALL)


def test_the_script_of_readmes_outputs_finds_what_it_runs_and_what_it_replaces() -> None:
    starts = {"dvc exp run --temp --name": 2, "dvc exp show --hide": 1, "dvc params diff": 1, "dvc metrics diff": 1, "dvc plots diff": 1}
    assert {start: len(readme.commands(start)) for start in starts} == starts
    for first in ("task", "Experiment"):
        assert len(readme.block(first).findall(readme.README.read_text())) == 1


def test_columns_are_as_wide_as_what_is_left_in_them() -> None:
    lines = ["Metric            main     Change", "test accuracy     100.0    -0.5"]
    assert readme.aligned(lines) == ["Metric         main   Change", "test accuracy  100.0  -0.5  "]


def test_the_example_of_supplied_teachers_is_one_that_the_parameters_accept(tmp_path: Path) -> None:
    for page, source in (("README.md", "folder"), ("docs/your_own.md", "folder"), ("docs/moving_over.md", "gdrive")):
        (example,) = blocks("yaml", page)
        given = example.partition("  supplied:\n")[2]
        before, block, after = (ROOT / "params.yaml").read_text().partition(f"\n{source}:\n")
        (tmp_path / "params.yaml").write_text(before + block + after.replace("  supplied: {}\n", f"  supplied:\n{given}", 1))
        supplied = getattr(load_params(tmp_path / "params.yaml"), source).supplied["taskA"]
        assert all(teacher.architecture or teacher.weights.endswith(".pt2") for teacher in supplied.values())


def test_the_reference_protocol_has_the_classic_recipes_settings() -> None:
    """The recipe is the protocol's settings, less those that are shipped so."""
    (recipe,) = (line for line in commands() if "num_epochs=100" in line and "alpha=0.1" in line)
    said = dict(word.split("=") for word in shlex.split(recipe) if "=" in word)
    shipped = load_params(ROOT / "params.yaml")
    protocol = load_params(ROOT / "params.yaml", "taskA", reference_protocol.SETTINGS).student("taskA")
    by_recipe = load_params(ROOT / "params.yaml", "taskA", said).student("taskA")
    assert by_recipe == protocol
    left = {"student_weights", "confidence_temperature", "run"}  # the user's file; of no effect; a name
    assert StudentSettings.model_fields.keys() - reference_protocol.SETTINGS.keys() == left
    assert shipped.student("taskA") != protocol


def test_the_example_of_an_export_makes_a_program_that_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = (block for block in blocks("python", "docs/your_own.md") if "torch.export" in block)
    exec(example, {"torch": torch, "network": NearestColour(["red", "green"])})
    assert read_program(tmp_path / "trees.pt2")(torch.zeros(5, 3, 64, 64)).shape == (5, 2)


def test_files_that_pages_link_to_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).is_file(), f"{page.name} links to {target}"


def test_the_map_of_the_code_names_every_module() -> None:
    page = (ROOT / "README.md").read_text()
    for module in (ROOT / "src" / "amalgam").glob("*.py"):
        assert module.name == "__init__.py" or re.search(rf"(?<!\w){re.escape(module.name)}", page), module.name


FEW_LABELS = ("--protocol", "benchmarks/labels.yaml")
PRETRAINED = ("--protocol", "benchmarks/pretrained.yaml")
RESNET = ("--protocol", "benchmarks/resnet.yaml")
SHIPPED = ("--protocol", "benchmarks/shipped.yaml")
LONGER = ("--protocol", "benchmarks/longer.yaml")
UNSEEN = ("--protocol", "benchmarks/unseen.yaml")
SPECIALISTS = ("--protocol", "benchmarks/specialists.yaml", "--seeds", "1", "2")
UNSEEN_SPECIALISTS = ("--protocol", "benchmarks/unseen_specialists.yaml", "--seeds", "0")
SEEN = ("--protocol", "benchmarks/seen.yaml", "--seeds", "1")
FIRST_SEED = ("--seeds", "0")


@pytest.mark.parametrize(
    "arguments",
    [
        ("A",),
        ("A", *FIRST_SEED),
        ("B",),
        ("A", *SHIPPED),
        ("B", *SHIPPED),
        ("A", *RESNET),
        ("A", *FEW_LABELS),
        ("B", *FEW_LABELS),
        ("A", *PRETRAINED),
        ("A", *PRETRAINED, *FIRST_SEED),
        ("B", *PRETRAINED),
        ("A", *LONGER),
        ("B", *LONGER),
        ("A", *UNSEEN),
        ("A", *SEEN),
        ("A", *SPECIALISTS),
        ("A", *UNSEEN_SPECIALISTS),
    ],
    ids=" ".join,
)
def test_an_accuracy_table_is_what_the_results_say(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "benchmarks/accuracy.py", "table", "--task", *arguments]
    told = subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": "src:."}, capture_output=True, text=True, check=True).stdout
    assert len(told.splitlines()) > 3
    assert told in (ROOT / "docs" / "experiments.md").read_text()


def test_readmes_table_is_what_the_results_say() -> None:
    assert overview.table() in (ROOT / "README.md").read_text()


def test_the_table_of_whole_experiments_is_what_the_results_say() -> None:
    assert experiments.table(read_json(experiments.RESULTS)) in (ROOT / "docs" / "speed.md").read_text()


def test_the_table_of_training_steps_is_what_the_results_say() -> None:
    assert steps.table(read_json(steps.RESULTS)) in (ROOT / "README.md").read_text()


def test_the_table_of_more_images_is_what_the_results_say() -> None:
    assert scale.table(read_json(scale.RESULTS)) in (ROOT / "docs" / "speed.md").read_text()


def test_the_forward_table_is_what_the_results_say() -> None:
    assert forward.table(read_json(forward.RESULTS)) in (ROOT / "docs" / "speed.md").read_text()


@pytest.fixture(scope="module")
def stated() -> list[differences.Difference]:
    return differences.differences()


def test_the_table_of_differences_is_what_the_results_say(stated: list[differences.Difference]) -> None:
    assert differences.table(stated) in (ROOT / "docs" / "experiments.md").read_text()


def test_the_table_of_rows_that_were_not_run_is_what_the_results_say() -> None:
    assert coverage.table() in (ROOT / "docs" / "experiments.md").read_text()


def test_every_protocol_is_looked_through_for_what_was_not_run() -> None:
    files = {file.stem for file in (ROOT / "benchmarks").glob("*.yaml") if "rows" in yaml.safe_load(file.read_text())}
    assert set(coverage.PROTOCOLS) == files


BY_HAND = "The tables from here on are trials by hand"
NUMBER = r"([-+−]?\d+(?:\.\d+)?)"


def prose(text: str) -> str:
    """A page's words, code and tables aside, with single spaces."""
    without_code = re.sub(r"^```.*?^```|`[^`]*`", "", text, flags=re.MULTILINE | re.DOTALL)
    return " ".join(re.sub(r"^\|.*", "", without_code, flags=re.MULTILINE).split())


@pytest.mark.parametrize("page", ["README.md", "docs/experiments.md"])
def test_every_interval_of_the_text_is_one_of_the_differences(page: str, stated: list[differences.Difference]) -> None:
    """A difference may be told from either of its sides: its mean, the interval, and by Student's t another interval."""
    known = {told for found in stated for limits in (found.bootstrap[1:], found.student) if limits for told in both_sides(found, *limits)}
    told = list(intervals(prose((ROOT / page).read_text().partition(BY_HAND)[0])))
    assert len(told) > 10
    assert [words for words, *numbers in told if (*numbers,) not in known] == [], f"{page} states intervals that no difference has"


def both_sides(found: differences.Difference, low: float, high: float) -> list[tuple[float, ...]]:
    mean = found.bootstrap[0]
    return [tuple(round(value, 1) for value in side) for side in ((mean, low, high), (-mean, -high, -low))]


def intervals(text: str) -> Iterable[tuple[str, float, float, float]]:
    """The words of each "mean (low … high" or "mean, low … high", and the numbers; of an interval without a mean it is the last one's."""
    mean = float("nan")
    for found in re.finditer(rf"(?:{NUMBER}(?: points?)?(?: less| more| better)? ?[(,] ?)?{NUMBER} … {NUMBER}", text):
        numbers = [float(value.replace("−", "-")) for value in found.groups() if value is not None]
        mean = numbers[0] if len(numbers) == 3 else mean
        low, high = numbers[-2:]
        yield found[0], mean, low, high


def test_an_interval_is_read_with_the_mean_before_it() -> None:
    text = "gains 2.3 points (0.2 … 4.5; by Student's t −1.6 … 6.2; 2.7, 6.1 and 2.2 each), or nothing (−0.4, −2.6 … +1.7)"
    assert [numbers for _, *numbers in intervals(text)] == [[2.3, 0.2, 4.5], [2.3, -1.6, 6.2], [-0.4, -2.6, 1.7]]
