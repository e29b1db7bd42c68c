"""Where a transfer that broke off goes on: the last bytes that came are asked for again, and have to be the same.

::

    incoming-<offset>.tail    bytes that were cut off the part at <offset>, until their successors have come
"""

from pathlib import Path

from amalgam.whole import whole_file

OVERLAP = 65_536  # bytes


def set_back(part: Path, target: Path) -> bool:
    """Cut the end off the ``part`` of a transfer to ``target``, and keep it, so that it comes again. Returns False if what came after an
    earlier break does not go with what was there before."""
    if not fits(part, target):
        return False
    if _tail(target) is None:
        offset = max(part.stat().st_size - OVERLAP, 0)
        whole_file(target.with_name(f"{target.name}-{offset}.tail"), _bytes(part, offset, OVERLAP))
        with part.open("r+b") as file:
            file.truncate(offset)
    return True


def fits(file: Path, target: Path) -> bool:
    """Whether the ``file``, a part or all of what is transferred to ``target``, has the bytes that were cut off, as far as it goes.

    If it goes beyond them, they are not needed any longer.
    """
    tail = _tail(target)
    if tail is None:
        return True
    offset, wanted = int(tail.stem.rpartition("-")[2]), tail.read_bytes()
    found = _bytes(file, offset, len(wanted))
    if found == wanted:
        tail.unlink()
    return wanted.startswith(found)


def forget(target: Path) -> None:
    """Remove what was cut off."""
    if tail := _tail(target):
        tail.unlink()


def _tail(target: Path) -> Path | None:
    return next(target.parent.glob(f"{target.name}-*.tail"), None)


def _bytes(file: Path, start: int, count: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(count)
