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
    wanted, found = _seam(part, target)
    if not wanted.startswith(found):
        return False
    if found == wanted:  # all that was cut off has come: the next seam is further on
        forget(target)
        offset = max(part.stat().st_size - OVERLAP, 0)
        whole_file(target.with_name(f"{target.name}-{offset}.tail"), _bytes(part, offset, OVERLAP))
        with part.open("r+b") as file:
            file.truncate(offset)
    return True


def holds(file: Path, target: Path) -> bool:
    """Whether the whole ``file``, transferred to ``target``, has all the bytes that were cut off of its part."""
    wanted, found = _seam(file, target)
    return found == wanted


def forget(target: Path) -> None:
    """Remove what was cut off."""
    if tail := _tail(target):
        tail.unlink()


def _seam(file: Path, target: Path) -> tuple[bytes, bytes]:
    """What was cut off, nothing if nothing was; and what the ``file`` has there, as far as it goes."""
    tail = _tail(target)
    if tail is None:
        return b"", b""
    wanted = tail.read_bytes()
    return wanted, _bytes(file, int(tail.stem.rpartition("-")[2]), len(wanted))


def _tail(target: Path) -> Path | None:
    return next(target.parent.glob(f"{target.name}-*.tail"), None)


def _bytes(file: Path, start: int, count: int) -> bytes:
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(count)
