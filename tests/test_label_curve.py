"""The picture of accuracy by the share of labels."""

import numpy as np
import pytest
from benchmarks.label_curve import STYLES, draw_curve, write_numbers
from benchmarks.protocol import Protocol
from matplotlib import pyplot as plt
from matplotlib.collections import LineCollection
from matplotlib.colors import same_color

LOOK = {"label": "with teachers", "color": "tab:blue", "linestyle": "-"}


def test_a_line_leads_over_a_share_that_was_not_run_and_not_to_one_that_lacks_seeds() -> None:
    figure, axes = plt.subplots()
    draw_curve(axes, {0: [50.0, 52.0, 57.0], 0.1: [60.0], 1: [70.0, 70.0, 73.0]}, seeds=3, **LOOK)
    line, hollow = (line for line in axes.get_lines() if line.get_marker() == "o")
    assert np.asarray(line.get_xydata()).tolist() == [[0, 53], [3, 71]]
    (bars,) = (bars for bars in axes.collections if isinstance(bars, LineCollection))
    assert [np.asarray(segment)[:, 1].tolist() for segment in bars.get_segments()] == [[50.0, 57.0], [70.0, 73.0]]
    assert np.asarray(hollow.get_xydata()).tolist() == [[1, 60]]
    assert same_color(hollow.get_markerfacecolor(), "none")
    plt.close(figure)


def test_the_higher_number_stands_above_and_the_lower_one_below() -> None:
    """Of the same protocol; of two that are close whatever theirs."""
    figure, axes = plt.subplots()
    lines = {"alone": {0.1: [40.0, 44.0], 1: [72.0]}, "taught": {0.1: [70.0], 1: [71.0]}}
    others = [*lines.values(), {0.1: [71.5], 0.25: [60.0]}]
    write_numbers(axes, lines, STYLES["labels"], others)
    above = {text.get_text(): text.xyann[1] > 0 for text in axes.texts}  # type: ignore[attr-defined]
    assert above == {"42.0": False, "72.0": True, "70.0": False, "71.0": False}
    plt.close(figure)


@pytest.mark.parametrize("name", list(STYLES))
def test_its_rows_are_those_of_the_protocol(name: str) -> None:
    protocol = Protocol.named(name)
    for shares in protocol.values["curves"].values():
        for share, row in shares.items():
            settings = protocol.student_settings(0, protocol.rows[row])
            assert settings.label_fraction == share
