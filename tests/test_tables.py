"""The tables, differences and pictures of the benchmark of accuracies, from results that are made by hand."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from benchmarks import label_curve, overview
from benchmarks.accuracy_table import Table
from benchmarks.comparison import packed
from benchmarks.differences import difference
from benchmarks.protocol import Protocol
from PIL import Image

from conftest import ROOT

ALL, NONE = "1111", "0000"


def answers(**right: str) -> dict[str, Any]:
    """An entry of four test images: which are right, as 0 and 1."""
    bits = {name.replace("_", " "): packed(np.array([digit == "1" for digit in digits])) for name, digits in right.items()}
    return {"images": 4, "validation": 50.0} | bits


def test_a_table_tells_the_mean_over_seeds_and_how_they_differ(results: Path, tmp_path: Path) -> None:
    """Of four images: half and all right, none and half; validation 50 and 60 %."""
    values = {
        "seeds": [0, 1],
        "teacher": {},
        "common": {},
        "grid": [{"lr": 0.003}],
        "control": "alone",
        "controls": {},
        "reference": "alone",
    }
    values["rows"] = {"alone": {"alpha": 0}, "taught": {"alpha": 0.5}}
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    protocol = Protocol(tmp_path / "protocol.yaml")
    of_rows = {("taught", 0): "1100", ("taught", 1): ALL, ("alone", 0): NONE, ("alone", 1): "1010"}
    tell(results, protocol, {key: answers(right=right) | {"validation": 50.0 + 10 * key[1]} for key, right in of_rows.items()})
    header, _, alone, taught = Table(protocol, "taskA", protocol.rows, [0, 1]).printed().splitlines()
    assert header == "| row | validation % | test % | over its control (95 %) |", "the control is the reference, and the grid is no choice"
    assert alone == "| alone | 55.0 | 25.0 ± 35.4 | – |"
    assert taught.startswith("| taught | 55.0 | 75.0 ± 35.4 | +50.0 (")


def test_a_choice_among_the_grids_points_is_told(results: Path, tmp_path: Path) -> None:
    values = {"seeds": [0], "teacher": {}, "common": {}, "grid": [{"lr": 0.003}, {"lr": 0.01}], "rows": {"alone": {"alpha": 0}}}
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(values | {"control": "alone", "controls": {}, "reference": "alone"}))
    (tmp_path / "protocol.chosen.yaml").write_text(yaml.safe_dump({"taskA": {"alone": {"lr": 0.01}}}))
    protocol = Protocol(tmp_path / "protocol.yaml")
    tell(results, protocol, {("alone", 0): answers(right="1100")})
    assert Table(protocol, "taskA", protocol.rows, [0]).printed().splitlines() == [
        "| row | chosen | validation % | test % |",
        "|---|---|---|---|",
        "| alone | lr 0.01 | 50.0 | 50.0 |",
    ]


def tell(results: Path, protocol: Protocol, entries: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Write the results of some rows, or ``teachers``, of task A with some seeds."""
    known = {}
    for (row, seed), found in entries.items():
        if row == "teachers":
            known[protocol.teachers_key("taskA", seed)] = {"teacher": protocol.teacher} | found
        else:
            (job,) = protocol.jobs("taskA", {row: protocol.rows[row]}, [seed])
            known[job.key] = found
    results.write_text(json.dumps(known))


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("benchmarks.protocol.RESULTS", tmp_path / "results.json")
    return tmp_path / "results.json"


def test_each_row_stands_beside_its_own_control_and_the_reference(results: Path, tmp_path: Path) -> None:
    rows = {name: {"alpha": alpha} for name, alpha in (("alone", 0), ("taught", 0.5), ("few", 0.6), ("none", 0.7), ("unrun", 0.8))}
    values = {"seeds": [0, 1], "teacher": {}, "common": {}, "grid": [{"lr": 0.003}], "rows": rows, "control": "alone", "reference": "alone"}
    values["controls"] = {"few": "unrouted teachers", "none": "unrouted teachers, joint"}
    (tmp_path / "protocol.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    protocol = Protocol(tmp_path / "protocol.yaml")
    of_teachers = answers(right=ALL, joint_right=NONE) | {"oracle-routed": 90.0, "unrouted": 100.0, "unrouted, joint": 0.0}
    of_rows = {"alone": answers(right=NONE), "taught": answers(right=ALL), "few": answers(right=NONE), "none": answers(right=ALL)}
    entries = {(name, seed): found for name, found in (of_rows | {"teachers": of_teachers}).items() for seed in (0, 1)}
    tell(results, protocol, entries | {("unrun", 1): answers(right=ALL)})
    ahead, behind, alike = "+100.0 (+100.0 … +100.0)", "-100.0 (-100.0 … -100.0)", "+0.0 (+0.0 … +0.0)"
    assert Table(protocol, "taskA", protocol.rows, [0, 1]).printed().splitlines()[2:] == [
        "| alone | 50.0 | 0.0 ± 0.0 | – | – |",
        f"| taught | 50.0 | 100.0 ± 0.0 | {ahead} | {ahead} |",
        f"| few | 50.0 | 0.0 ± 0.0 | {behind} | {alike} |",
        f"| none | 50.0 | 100.0 ± 0.0 | {ahead} | {ahead} |",
        "| *teachers, oracle-routed* | | 90.0 ± 0.0 | | |",
        "| *teachers, unrouted* | | 100.0 ± 0.0 | | |",
        "| *teachers, unrouted, joint* | | 0.0 ± 0.0 | | |",
    ]


@pytest.mark.parametrize(
    ("over", "by_seed"),
    [
        ("label-only, 0.1", [50, 0]),
        ("unrouted teachers", [-25, 75]),
        ("unrouted teachers, joint", [0, 25]),
        ("teachers as for stacked, 0.1", [75, -25]),
    ],
)
def test_a_difference_is_of_the_same_seeds_images(over: str, by_seed: list[float], results: Path) -> None:
    protocol = Protocol.named("labels")
    entries = {
        ("stacked, 0.1", 0): answers(right="1110", teachers_right="1111"),
        ("stacked, 0.1", 1): answers(right="1110", teachers_right="0000"),
        ("label-only, 0.1", 0): answers(right="0111"),
        ("label-only, 0.1", 1): answers(right="1000"),
        ("teachers", 0): answers(right="0000", joint_right="0110"),
        ("teachers", 1): answers(right="1111", joint_right="0111"),
    }
    tell(results, protocol, entries)
    found = difference("taskA", "labels/stacked, 0.1", f"labels/{over}", [1, 0])
    assert found.by_seed == by_seed
    assert found.bootstrap[0] == np.mean(by_seed)


def test_a_curve_is_of_its_rows_and_of_the_seeds_that_have_been_run(results: Path) -> None:
    protocol = Protocol.named("labels")
    tell(
        results,
        protocol,
        {("stacked, 0.1", 0): answers(right="1110"), ("stacked, 0.1", 2): answers(right="1000"), ("stacked, 1", 1): answers(right=ALL)},
    )
    rows = {0: "balanced, 0", 0.1: "stacked, 0.1", 1: "stacked, 1"}
    assert label_curve.curve(protocol, "taskA", rows) == {0.1: [75, 25], 1: [100]}
    assert label_curve.curve(protocol, "taskB", rows) == {}


def test_lines_of_other_seeds_say_which() -> None:
    named = {task: {*label_curve.curves(Protocol.named("pretrained"), task)} for task in ("taskA", "taskB")}
    assert named["taskA"] == {"from ImageNet, labels alone", "from ImageNet, with teachers"}
    assert named["taskB"] == {f"{name} (seeds 3, 4, 5)" for name in named["taskA"]}


def test_teachers_are_drawn_where_every_seed_has_them(results: Path) -> None:
    protocol = Protocol.named("labels")
    rates = [{"unrouted": 50.0, "oracle-routed": 80.0}, {"unrouted": 53.0, "oracle-routed": 80.0}, {"unrouted": 56.0}]
    tell(results, protocol, {("teachers", seed): found for seed, found in zip(protocol.seeds("taskA"), rates, strict=True)})
    assert label_curve.teachers("taskA") == {"unrouted": 53}


@pytest.mark.parametrize("task", ["A", "B"])
def test_the_pictures_of_the_docs_show_what_the_results_say(task: str) -> None:
    with Image.open(ROOT / "docs" / f"few_labels_task{task}.png") as picture:
        assert picture.info[label_curve.DRAWN] == label_curve.drawn(f"task{task}")


@pytest.mark.parametrize(
    ("accuracies", "seeds", "told"),
    [
        ({0: 70.0, 1: 72.0, 2: 74.0}, [0, 1, 2], "72.0 ± 2.0"),
        ({3: 70.0, 4: 72.0, 5: 74.0}, [3, 4, 5], "72.0 ± 2.0 (seeds 3, 4, 5)"),
        ({1: 70.0, 2: 72.0}, [0, 1, 2], "70.0, 72.0 (seeds 1, 2)"),
        ({5: 70.0}, [3, 4, 5], "70.0 (seed 5)"),
        ({}, [0, 1, 2], "not run"),
    ],
)
def test_a_cell_says_which_seeds_it_is_of(accuracies: dict[int, float], seeds: list[int], told: str) -> None:
    assert overview.cell(accuracies, seeds, [0, 1, 2]) == told
