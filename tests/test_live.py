"""The learning curve while it grows."""

from pathlib import Path

import pytest

from amalgam import live
from amalgam.history import Epoch


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


def test_a_training_without_labels_has_its_picture_too(tmp_path: Path) -> None:
    """There is no accuracy to draw."""
    curve = live.LiveCurve(tmp_path / "curve.png", "a training", [Epoch(number, 0.1, 1.0, None, {}) for number in (1, 2)])
    curve.draw()
    assert [path.name for path in tmp_path.iterdir()] == ["curve.png"]


def test_pictures_take_half_a_percent_of_the_time_however_slow_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, drawn = Clock(), []
    monkeypatch.setattr(live, "time", clock)

    class Slow(live.LiveCurve):
        def draw(self) -> None:
            drawn.append(clock.now)
            clock.now += 1.5

    curve = Slow(Path("nowhere.png"), "a training", [])
    for number in range(1, 101):
        clock.now += 10
        curve.add(Epoch(number, 0.1, 1.0, None, {}))
    assert drawn == [30, 331.5, 633, 934.5]
    assert [record.epoch for record in curve.epochs] == list(range(1, 101))
