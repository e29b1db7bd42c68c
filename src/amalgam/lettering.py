"""Names in pictures: fonts that have their letters, and the room that they need."""

import sys
from collections.abc import Sequence
from functools import cache

import matplotlib as mpl
from matplotlib import font_manager
from matplotlib.textpath import text_to_path

# Beside matplotlib's own, those that come with systems and have Chinese, Japanese and Korean letters.
OTHERS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans CJK KR",
    "Noto Sans SC",
    "Noto Sans JP",
    "Noto Sans KR",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Arial Unicode MS",
)
LONGEST = 40  # letters of a name that a picture shows
POINTS_AN_INCH = 72


def use_fonts() -> None:
    """Let pictures take each letter from the first font that has it."""
    mpl.rcParams["font.family"] = families()


@cache
def families() -> list[str]:
    """Matplotlib's own font, then those of the others that are installed."""
    installed = set(font_manager.fontManager.get_font_names())
    return ["DejaVu Sans", *(name for name in OTHERS if name in installed)]


@cache
def letters() -> frozenset[int]:
    """The code points that can be drawn."""
    files = [font_manager.findfont(name) for name in families()]
    return frozenset(point for file in files for point in font_manager.get_font(file).get_charmap())


def drawable(names: Sequence[str]) -> list[str]:
    """Names as a picture shows them: a long one without its middle; one with a letter that no font here has by its place, from 1."""
    unknown = tuple(name for name in names if not letters().issuperset(map(ord, name)))
    _tell(unknown)
    return [f"({place})" if name in unknown else _shortened(name) for place, name in enumerate(names, start=1)]


@cache
def _tell(unknown: tuple[str, ...]) -> None:
    """Say once of the same names that no font here can write them."""
    if unknown:
        others = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        print(
            f"no font here has all letters of {unknown[0]}{others}: pictures show their places among the names, the tables have them; "
            "install a font with these letters, Noto Sans CJK say",
            file=sys.stderr,
        )


def _shortened(name: str) -> str:
    if len(name) <= LONGEST:
        return name
    tail = LONGEST // 3
    return f"{name[: LONGEST - tail - 1]}…{name[-tail:]}"


def inches(names: Sequence[str], points: float) -> float:
    """The length of the longest of the names, as ``drawable`` has them, where they are written ``points`` large."""
    font = font_manager.FontProperties(family=families(), size=points)
    lengths = (text_to_path.get_text_width_height_descent(name, font, ismath=False)[0] for name in names)
    return float(max(lengths, default=0)) / POINTS_AN_INCH
