"""A transfer that goes on: what was cut off has to come again."""

from pathlib import Path

import pytest

from amalgam.sources.seam import OVERLAP, forget, holds, set_back

WHOLE = bytes(range(256)) * (3 * OVERLAP // 256)
BROKEN_OFF = 2 * OVERLAP


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "incoming"


@pytest.fixture
def part(target: Path) -> Path:
    """The beginning of a transfer, with its end cut off."""
    part = target.with_name("incoming.part")
    part.write_bytes(WHOLE[:BROKEN_OFF])
    assert set_back(part, target)
    assert part.read_bytes() == WHOLE[: BROKEN_OFF - OVERLAP]
    return part


def test_a_transfer_that_nothing_broke_off_holds_all(target: Path) -> None:
    target.write_bytes(b"short")
    assert holds(target, target)


@pytest.mark.parametrize(
    ("came", "whole"),
    [
        (WHOLE, True),
        (WHOLE[:BROKEN_OFF], True),
        (WHOLE[: BROKEN_OFF - 1], False),  # a shorter file lies there now
        (WHOLE[:10], False),
        (WHOLE[: BROKEN_OFF - OVERLAP] + b"x" * 2 * OVERLAP, False),
    ],
    ids=["all", "as much as before", "less", "less than the seam begins at", "another file"],
)
def test_a_whole_file_holds_all_that_was_cut_off(came: bytes, whole: bool, part: Path, target: Path) -> None:
    target.write_bytes(came)
    assert [holds(target, target), holds(target, target)] == [whole, whole], "asking changes nothing"


def test_broken_off_before_the_seam_came_again_the_first_one_counts(part: Path, target: Path) -> None:
    part.write_bytes(WHOLE[: BROKEN_OFF - OVERLAP + 5])
    assert set_back(part, target)
    assert part.read_bytes() == WHOLE[: BROKEN_OFF - OVERLAP + 5], "nothing more is cut off"
    part.write_bytes(WHOLE[: BROKEN_OFF - OVERLAP] + b"other")
    assert not set_back(part, target)
    forget(target)
    assert set_back(part, target)


def test_broken_off_beyond_the_seam_the_next_one_counts(part: Path, target: Path) -> None:
    part.write_bytes(WHOLE[: BROKEN_OFF + 100])
    assert set_back(part, target)
    assert len(part.read_bytes()) == BROKEN_OFF + 100 - OVERLAP
    assert len(list(target.parent.glob("*.tail"))) == 1
    target.write_bytes(WHOLE[:BROKEN_OFF])
    assert not holds(target, target)
