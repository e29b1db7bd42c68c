"""Containers of images: a folder, a .zip or a .tar.*, whoever packed them."""

import re
import shutil
import struct
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amalgam.errors import UserError
from amalgam.files import sha256_of_file
from amalgam.sources import folder
from amalgam.sources.raw import read_classes, read_split
from archives import fetch, files_of, pack_zip


def test_the_same_images_give_the_same_bytes_from_any_container(images_folder: Path, tmp_path: Path) -> None:
    expected = files_of(fetch(images_folder, tmp_path))
    (images_folder / "train" / "red" / "Thumbs.db").write_bytes(b"windows")
    assert files_of(fetch(images_folder, tmp_path)) == expected
    assert files_of(fetch(pack_zip(images_folder, tmp_path / "a.zip"), tmp_path)) == expected
    assert files_of(fetch(pack_zip(images_folder, tmp_path / "b.zip", "pictures/", reverse=True), tmp_path)) == expected
    for name, mode in (("c.tar", "w"), ("c.tar.gz", "w:gz"), ("c.tar.bz2", "w:bz2"), ("c.tar.xz", "w:xz")):
        (images_folder / "train" / "red" / "Thumbs.db").unlink(missing_ok=True)
        with tarfile.open(tmp_path / name, mode) as archive:  # type: ignore[call-overload]
            archive.add(images_folder, "set")
        assert files_of(fetch(tmp_path / name, tmp_path)) == expected


def pack_foreign(images: Path, target: Path, encode: Callable[[str], bytes]) -> Path:
    """A zip archive whose names are encoded otherwise than zipfile would, and which does not say how."""
    names = {}
    with zipfile.ZipFile(target, "w") as archive:
        for number, file in enumerate(sorted(images.rglob("*.png"))):
            encoded = encode(str(file.relative_to(images)))
            names[f"{number:04d}".ljust(len(encoded), "_").encode()] = encoded
            archive.writestr(f"{number:04d}".ljust(len(encoded), "_"), file.read_bytes())
    content = target.read_bytes()
    for plain, encoded in names.items():
        assert content.count(plain) == 2, "before the content, and in the directory"
        content = content.replace(plain, encoded)
    target.write_bytes(content)
    return target


def with_letters(images: Path) -> Path:
    for split in ("train", "test"):
        (images / split / "red").rename(images / split / "café")
    return images


def test_a_zip_archive_of_a_mac_is_read_as_utf8(images_folder: Path, tmp_path: Path) -> None:
    """Its archiver writes UTF-8, decomposed, and does not say so."""
    images = with_letters(images_folder)
    mac = pack_foreign(images, tmp_path / "mac.zip", lambda name: unicodedata.normalize("NFD", name).encode())
    with zipfile.ZipFile(mac) as archive:
        assert any("╠" in name for name in archive.namelist()), "zipfile takes it for code page 437"
    assert "café" in read_classes(fetch(mac, tmp_path))
    assert files_of(fetch(mac, tmp_path)) == files_of(fetch(pack_zip(images, tmp_path / "linux.zip"), tmp_path))


def test_a_zip_archive_in_code_page_437_is_read_as_that(images_folder: Path, tmp_path: Path) -> None:
    """As old archivers write it: é alone is 0x82, which is no UTF-8."""
    old = pack_foreign(with_letters(images_folder), tmp_path / "old.zip", lambda name: name.encode("cp437"))
    assert "café" in read_classes(fetch(old, tmp_path))


def test_a_hidden_link_to_nothing_is_passed_over(images_folder: Path, tmp_path: Path) -> None:
    before = files_of(fetch(images_folder, tmp_path))
    (images_folder / "train" / "red" / ".#000.png").symlink_to("someone@somewhere")
    assert files_of(fetch(images_folder, tmp_path)) == before


@pytest.mark.parametrize("name", ["../outside/train/red/x.png", "/abs/train/red/x.png"])
def test_an_archive_that_points_outside_is_refused(images_folder: Path, tmp_path: Path, name: str) -> None:
    archive = pack_zip(images_folder, tmp_path / "a.zip")
    with zipfile.ZipFile(archive, "a") as more:
        more.writestr(name, b"x")
    with pytest.raises(UserError, match="points outside the archive"):
        fetch(archive, tmp_path)


def test_a_tar_with_links_is_refused(images_folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(images_folder, "set")
        link = tarfile.TarInfo("set/train/red/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    with pytest.raises(UserError, match="is a link"):
        fetch(tmp_path / "a.tar", tmp_path)


@pytest.mark.parametrize(("told", "message"), [(50_000_000, r"unpacks to more than 0\.01 GB; raise"), (1000, r"bomb\.zip is damaged")])
def test_an_archive_bomb_is_stopped_whatever_its_headers_say(told: int, message: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/red/x.png", bytes(50_000_000))
    content = (tmp_path / "bomb.zip").read_bytes().replace(struct.pack("<L", 50_000_000), struct.pack("<L", told))
    (tmp_path / "bomb.zip").write_bytes(content)
    with pytest.raises(UserError, match=message):
        fetch(tmp_path / "bomb.zip", tmp_path, max_bytes=10_000_000)


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.bz2", "a.tar.xz"])
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_a_damaged_archive_is_named(name: str, damage: str, images_folder: Path, tmp_path: Path) -> None:
    shutil.make_archive(
        str(tmp_path / "a"), {"a.tar.gz": "gztar", "a.tar.bz2": "bztar", "a.tar.xz": "xztar"}.get(name, name[2:]), images_folder
    )
    content = bytearray((tmp_path / name).read_bytes())
    if damage == "flipped":
        for place in range(len(content) // 2, len(content) // 2 + 400, 7):
            content[place] ^= 0x55
    else:
        del content[len(content) // 2 :]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=rf"{re.escape(name)}.*(is damaged|is neither)|\S\.png: not a readable image"):
        fetch(tmp_path / name, tmp_path)


@pytest.mark.parametrize("place", [-1, -5])
def test_the_checksum_and_the_length_at_the_end_of_a_compressed_archive_are_looked_at(
    place: int, images_folder: Path, tmp_path: Path
) -> None:
    """Else an image of which a bit has changed, and that can be decoded still, would be another one without a word."""
    archive = Path(shutil.make_archive(str(tmp_path / "a"), "gztar", images_folder))
    content = bytearray(archive.read_bytes())
    content[place] ^= 1
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tar\.gz is damaged"):
        fetch(archive, tmp_path)


PACKINGS: dict[str, Callable[[Path, Path], Any]] = {
    "a.zip": lambda images, path: shutil.make_archive(str(path.with_suffix("")), "zip", images),
    "stored.zip": lambda images, path: pack_zip(images, path),
    "bzip2.zip": lambda images, path: pack_zip(images, path, compression=zipfile.ZIP_BZIP2),
    "lzma.zip": lambda images, path: pack_zip(images, path, compression=zipfile.ZIP_LZMA),
    "a.tar": lambda images, path: shutil.make_archive(str(path.with_suffix("")), "tar", images),
    "b.tar.gz": lambda images, path: shutil.make_archive(str(path.with_name("b")), "gztar", images),
    "c.tar.bz2": lambda images, path: shutil.make_archive(str(path.with_name("c")), "bztar", images),
    "d.tar.xz": lambda images, path: shutil.make_archive(str(path.with_name("d")), "xztar", images),
}

CHECKED = ("b.tar.gz", "c.tar.bz2", "d.tar.xz")  # by sums over all that is in them


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", PACKINGS)
@given(start=st.floats(0, 1), removed=st.integers(0, 300), put=st.binary(max_size=40))
def test_whatever_the_damage_the_message_names_the_archive_or_the_image(
    name: str, start: float, removed: int, put: bytes, images_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    PACKINGS[name](images_folder, path)
    expected = tmp_path / "expected"
    if not expected.exists():
        folder.fetch(expected, tmp_path, str(path), None, 10**9)
    content = bytearray(path.read_bytes())
    place = int(start * len(content))
    content[place : place + removed] = put
    path.write_bytes(content)
    told = name  # the damage may lie where nothing is read
    with tempfile.TemporaryDirectory(dir=tmp_path) as work:
        try:
            folder.fetch(Path(work) / "raw", tmp_path, str(path), None, 10**9)
        except UserError as error:
            told = str(error)
        else:
            if name in CHECKED:
                assert files_of(Path(work) / "raw") == files_of(expected)
    assert name in told or ".png" in told


def test_a_name_that_is_no_text_is_refused(images_folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.add(images_folder / "train" / "red" / "000.png", "train/red/\u00e9t\u00e9.png")
    with pytest.raises(UserError, match=r"the name 'train/red/.*png' is not valid text; rename the file"):
        fetch(tmp_path / "a.tar", tmp_path)


def test_linked_class_folders_are_followed(images_folder: Path, tmp_path: Path) -> None:
    expected = files_of(fetch(images_folder, tmp_path))
    (images_folder / "train" / "red").rename(tmp_path / "elsewhere")
    (images_folder / "train" / "red").symlink_to(tmp_path / "elsewhere")
    assert files_of(fetch(images_folder, tmp_path)) == expected


def test_something_else_than_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("<html>quota exceeded</html>")
    with pytest.raises(UserError, match=r"x\.zip is neither a folder nor a \.zip or \.tar\.\* archive.*remove it to have it fetched anew"):
        fetch(tmp_path / "x.zip", tmp_path)


def test_the_hash_pins_the_archive(images_folder: Path, tmp_path: Path) -> None:
    archive = pack_zip(images_folder, tmp_path / "a.zip")
    fetch(archive, tmp_path, sha256=sha256_of_file(archive))
    with pytest.raises(UserError, match=f"has the sha256 {sha256_of_file(archive)}, but folder.fetch.sha256 is 0000"):
        fetch(archive, tmp_path, sha256="0" * 64)
    with pytest.raises(UserError, match=r"pins an archive, but .* is a folder"):
        fetch(images_folder, tmp_path, sha256="0" * 64)


def test_a_zip_archive_of_windows_may_have_backslashes(images_folder: Path, tmp_path: Path) -> None:
    """As old archivers there write paths, of folders too."""
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        folder = zipfile.ZipInfo("train\\red\\")
        folder.create_system = 0
        archive.writestr(folder, b"")
        for file in sorted(images_folder.rglob("*.png")):
            info = zipfile.ZipInfo(str(file.relative_to(images_folder)).replace("/", "\\"))
            info.create_system = 0
            archive.writestr(info, file.read_bytes())
    assert files_of(fetch(tmp_path / "windows.zip", tmp_path)) == files_of(fetch(images_folder, tmp_path))


def test_a_tar_whose_last_member_is_a_zip_is_read_as_the_tar(images_folder: Path, tmp_path: Path) -> None:
    """Spreadsheets and PyTorch's files are zips; where one ends an archive, that looks like a zip from behind."""
    pack_zip(images_folder / "test", tmp_path / "labels.xlsx")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(images_folder, ".")
        archive.add(tmp_path / "labels.xlsx", "zlabels.xlsx")
    assert zipfile.is_zipfile(tmp_path / "a.tar")
    assert files_of(fetch(tmp_path / "a.tar", tmp_path)) == files_of(fetch(images_folder, tmp_path))


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_member_that_stands_twice_is_refused(kind: str, images_folder: Path, tmp_path: Path) -> None:
    """As ``tar --append`` leaves it: one would be trained on and the other might be held out."""
    path = Path(shutil.make_archive(str(tmp_path / "a"), kind, images_folder))
    image = images_folder / "train" / "red" / "000.png"
    if kind == "tar":
        with tarfile.open(path, "a") as tar:
            tar.add(image, "./train/red/000.png")
    else:
        with zipfile.ZipFile(path, "a") as packed, pytest.warns(UserWarning, match="Duplicate name"):
            packed.write(image, "train/red/000.png")
    with pytest.raises(UserError, match=r"a\.(tar|zip) holds 'train/red/000\.png' twice, and both would be read; pack it again"):
        fetch(path, tmp_path)


def test_a_member_that_stands_in_two_spellings_of_unicode_is_refused(images_folder: Path, tmp_path: Path) -> None:
    """Both are one name for whoever reads it: an archive packed on macOS and again on Linux."""
    image = (images_folder / "train" / "red" / "000.png").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for form in ("NFC", "NFD"):
            packed.writestr(unicodedata.normalize(form, "train/rosé/000.png"), image)
    with pytest.raises(UserError, match=r"holds 'train/rosé/000\.png' twice"):
        fetch(tmp_path / "a.zip", tmp_path)


@pytest.mark.parametrize("name", ["Screenshot at 3.00.00\u202fPM.png", "a\u00a0b.png", "\u3000.png", "\U0001f469\u200d\U0001f52c.png"])
def test_a_name_with_unusual_blanks_and_signs_is_text(name: str, images_folder: Path, tmp_path: Path) -> None:
    """The first is what macOS calls a screenshot."""
    (images_folder / "train" / "red" / "000.png").rename(images_folder / "train" / "red" / name)
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", images_folder)
    assert f"train/red/{name}" in list(read_split(fetch(Path(archive), tmp_path), "train").names)


def test_a_hidden_name_that_is_no_text_is_passed_over(images_folder: Path, tmp_path: Path) -> None:
    expected = files_of(fetch(images_folder, tmp_path))
    (images_folder / "train" / "red" / ".a\nb").write_bytes(b"")
    archive = shutil.make_archive(str(tmp_path / "a"), "tar", images_folder)
    assert files_of(fetch(Path(archive), tmp_path)) == expected
