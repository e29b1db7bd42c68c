"""Tables as the pages have them."""

from collections.abc import Iterable, Sequence


def markdown(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A line of ``columns``, then one of each row's cells, as many."""
    return "\n".join([line(columns), "|---" * len(columns) + "|", *map(line, rows)])


def line(cells: Sequence[str]) -> str:
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)
