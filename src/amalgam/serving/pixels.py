"""From an image file, or an image of any size, to the pixels that networks are given."""

import io
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

READABLE = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "JPEG2000", "PPM")  # others may run programs, as EPS does
UNREADABLE = (
    OSError,
    RuntimeError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
UPRIGHT = ("PPM", "BMP", "GIF", "TIFF")  # formats without orientation, or whose size Pillow gives with respect to it
PNG_MARKS = (b"eXIf", b"XML:com.adobe.xmp", b"Raw profile type")  # where a PNG file may say it, after its pixels too
FEWEST_LEVELS = 16  # of eight bits, that sixteen must leave
MOST_OF_SIXTEEN = 65_535
TOO_DARK = "not a readable image (sixteen bits, but no value above {}: scale all images alike and save them with eight)"
LYING = (5, 6, 7, 8)  # EXIF's orientations that exchange height and width


def shape(encoded: bytes) -> tuple[int, int]:
    """(height, width) of what ``decode`` makes of an image file; its pixels are read only where its orientation may stand behind them.

    Raises ValueError if the file is no readable image.
    """
    with _opened(encoded) as image:
        width, height = image.size
        turned = _may_be_turned(image, encoded) and image.getexif().get(ExifTags.Base.Orientation, 1) in LYING
    return (width, height) if turned else (height, width)


def _may_be_turned(image: Image.Image, encoded: bytes) -> bool:
    return image.format not in UPRIGHT and (image.format != "PNG" or any(mark in encoded for mark in PNG_MARKS))


@contextmanager
def _opened(encoded: bytes) -> Iterator[Image.Image]:
    """Raises ValueError if the file, or what the block does with it, shows that it is no readable image."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(encoded), formats=READABLE) as image:
                yield image
    except UnidentifiedImageError as error:
        reason = f"none of {', '.join(READABLE)}; convert it" if encoded else "the file is empty"
        raise ValueError(f"not a readable image ({reason})") from error
    except UNREADABLE as error:
        raise ValueError(f"not a readable image ({error})") from error


def decode(encoded: bytes) -> npt.NDArray[np.uint8]:
    """One image file as uint8 RGB (height, width, 3), upright by its EXIF orientation.

    Sixteen bits a channel keep their high byte; transparency is dropped; of several frames the first is taken. Raises ValueError if the
    file is no readable image, or one whose values are fractions, beyond sixteen bits, or too small for these, as those of ten and twelve
    bits are: little would be left of them.
    """
    with _opened(encoded) as image:
        sixteen = ";16" in str(getattr(image, "tile", ""))  # of colour Pillow keeps the high bytes alone
        image.load()
        upright = ImageOps.exif_transpose(image)
    if upright.mode == "F":
        raise ValueError("not a readable image (its values are fractions; save it with eight bits a channel)")
    if upright.mode.startswith("I"):
        return _high_bytes(np.asarray(upright))
    pixels = np.asarray(upright.convert("RGB"))
    if sixteen and pixels.max() < FEWEST_LEVELS:
        raise ValueError(TOO_DARK.format((int(pixels.max()) + 1 << 8) - 1))
    return pixels


def _high_bytes(values: npt.NDArray[np.integer]) -> npt.NDArray[np.uint8]:
    """Of a grey image of sixteen bits (height, width), three equal channels."""
    least, most = values.min(), values.max()
    if least < 0 or most > MOST_OF_SIXTEEN:
        raise ValueError(f"not a readable image (values from {least} to {most}; save it with eight bits a channel)")
    if 0 < most < FEWEST_LEVELS << 8:
        raise ValueError(TOO_DARK.format(most))
    return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=-1)


def fit(pixels: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The largest part in the centre that has the shape of ``size`` (height, width), resized to it (bicubic); as it is where it fits."""
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(ImageOps.fit(Image.fromarray(pixels), size[::-1], Image.Resampling.BICUBIC))
