"""From an image file to pixels: what is read, and what is refused by name."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from amalgam.errors import UserError
from amalgam.serving.pixels import shape
from amalgam.sources.raw import decode, encode_ppm


def test_common_formats_sizes_and_colour_modes_are_read() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (9, 13, 3), dtype=np.uint8)
    for kind, exact in (("PNG", True), ("BMP", True), ("TIFF", True), ("PPM", True), ("WEBP", False), ("JPEG", False), ("GIF", False)):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        decoded = decode(buffer.getvalue(), kind)
        assert decoded.shape == (9, 13, 3)
        assert decoded.dtype == np.uint8
        if exact:
            np.testing.assert_array_equal(decoded, pixels)
    for mode in ("L", "LA", "RGBA", "P", "1", "CMYK"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(buffer, "TIFF" if mode == "CMYK" else "PNG")
        assert decode(buffer.getvalue(), mode).shape == (9, 13, 3)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4), "its values are fractions"),
        (np.full((4, 4), 200, dtype=np.uint16), "sixteen bits, but no value above 200"),
        (np.full((4, 4), 4095, dtype=np.uint16), "sixteen bits, but no value above 4095: scale all images alike and save them with eight"),
    ],
)
def test_an_image_of_which_nothing_would_be_left_is_refused(pixels: np.ndarray, message: str) -> None:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "TIFF")
    with pytest.raises(UserError, match=f"a.tif: not a readable image \\({message}"):
        decode(encoded.getvalue(), "a.tif")


def test_sixteen_bit_grey_keeps_its_high_byte() -> None:
    grey = np.array([[0, 256 * 7 + 3, 65535]], dtype=np.uint16)
    buffer = io.BytesIO()
    Image.fromarray(grey).save(buffer, "PNG")
    np.testing.assert_array_equal(decode(buffer.getvalue(), "x")[..., 0], [[0, 7, 255]])


def png_of_sixteen_bits(pixels: np.ndarray) -> bytes:
    """A colour PNG file of uint16 pixels (height, width, 3), which Pillow reads and does not write."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    height, width, _ = pixels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_keeps_its_high_bytes_where_anything_is_left_of_them() -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    np.testing.assert_array_equal(decode(png_of_sixteen_bits(pixels), "x"), pixels >> 8)
    with pytest.raises(UserError, match=r"dark\.png: not a readable image \(sixteen bits, but no value above 1023: scale all images alike"):
        decode(png_of_sixteen_bits(pixels >> 6), "dark.png")


@pytest.mark.parametrize("most", [70_000, -5])
def test_grey_beyond_sixteen_bits_is_refused(most: int) -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.array([[0, most]], dtype=np.int32)).save(buffer, "TIFF")
    with pytest.raises(UserError, match=r"not a readable image \(values from -?\d+ to \d+; save it with eight bits a channel\)"):
        decode(buffer.getvalue(), "x")


def test_of_several_frames_the_first_is_taken() -> None:
    buffer = io.BytesIO()
    first, second = (Image.new("L", (3, 2), level) for level in (10, 200))
    first.save(buffer, "GIF", save_all=True, append_images=[second])
    assert (decode(buffer.getvalue(), "x") == 10).all()


def test_a_photograph_taken_sideways_stands_upright() -> None:
    pixels = np.zeros((4, 8, 3), dtype=np.uint8)
    pixels[:, :4] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned a quarter to the left
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", exif=exif)
    upright = decode(buffer.getvalue(), "x")
    assert upright.shape == (8, 4, 3)
    assert upright[0].min() == 255
    assert upright[-1].max() == 0


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_shape_is_known_without_decoding(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, kind, exif=exif)
    assert shape(buffer.getvalue()) == decode(buffer.getvalue(), kind).shape[:2]


def test_a_png_may_say_behind_its_pixels_how_it_was_held() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "PNG", exif=exif)
    whole = buffer.getvalue()
    start = whole.index(b"eXIf") - 4
    size = 12 + int.from_bytes(whole[start : start + 4], "big")
    end = whole.index(b"IEND") - 4
    moved = whole[:start] + whole[start + size : end] + whole[start : start + size] + whole[end:]
    assert shape(moved) == decode(moved, "x").shape[:2] == (8, 4)


def test_a_file_without_a_head_has_no_shape() -> None:
    with pytest.raises(ValueError, match="not a readable image"):
        shape(b"no image")


def test_ppm_is_lossless() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    np.testing.assert_array_equal(decode(encode_ppm(pixels), "x"), pixels)


@pytest.mark.parametrize("kind", [1, 2, 7], ids=["bytes", "text", "anything"])
def test_an_orientation_that_is_no_number_turns_nothing(kind: int) -> None:
    """As some programs write it, in one of EXIF's other types."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4)).save(buffer, "JPEG", exif=exif)
    number, other = b"\x01\x12\x00\x03", bytes([1, 0x12, 0, kind])
    assert buffer.getvalue().count(number) == 1
    encoded = buffer.getvalue().replace(number, other)
    assert shape(encoded) == decode(encoded, "x").shape[:2] == (4, 8)


def test_a_damaged_avif_is_named() -> None:
    """Its decoder raises RuntimeError."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "AVIF")
    content = bytearray(buffer.getvalue())
    start = content.index(b"mdat") + 8
    content[start : start + 16] = bytes(16)
    with pytest.raises(UserError, match=r"a\.avif: not a readable image"):
        decode(bytes(content), "a.avif")


def test_no_image_runs_a_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow hands PostScript, which is a program itself, to Ghostscript."""
    ghostscript = tmp_path / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    picture = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n"
    with pytest.raises(UserError, match=r"a\.png: not a readable image"):
        decode(picture, "a.png")
    assert not (tmp_path / "ran").exists()
