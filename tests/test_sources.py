"""Sources: everything ends in the canonical layout, or in a message that names what is wrong."""

import hashlib
import http.server
import io
import pickle
import re
import shutil
import tarfile
import tempfile
import threading
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from amalgam.errors import UserError
from amalgam.files import sha256_of_file
from amalgam.serving.pixels import shape
from amalgam.sources import cifar100, digits, folder
from amalgam.sources.raw import array_images, decode, encode_ppm, read_classes, read_split, write_raw
from conftest import COLOURS

GIGABYTE = 10**9


def fetch(path: Path, tmp_path: Path, sha256: str | None = None, max_bytes: int = GIGABYTE) -> Path:
    target = tmp_path / f"raw-{len(list(tmp_path.glob('raw-*')))}"
    target.mkdir()
    folder.fetch(target, tmp_path, str(path), sha256, max_bytes)
    return target


def files_of(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def pack_zip(images: Path, target: Path, prefix: str = "", reverse: bool = False, compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(target, "w", compression) as archive:
        for file in sorted(images.rglob("*.png"), reverse=reverse):
            archive.write(file, prefix + str(file.relative_to(images)))
        archive.writestr(f"{prefix}__MACOSX/train/red/._000.png", b"resource fork")
        archive.writestr(f"{prefix}train/red/.DS_Store", b"finder")
        archive.writestr(f"{prefix}README.txt", b"about")
    return target


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


def test_what_was_written_is_what_is_read(images_folder: Path, tmp_path: Path) -> None:
    target = fetch(images_folder, tmp_path)
    assert read_classes(target) == sorted(COLOURS)
    split = read_split(target, "test")
    assert len(split.labels) == 4 * len(COLOURS)
    for index, name in enumerate(split.names):
        with Image.open(images_folder / name) as image:
            np.testing.assert_array_equal(split.decode(index), np.asarray(image))
        assert name.split("/")[1] == sorted(COLOURS)[split.labels[index]]


def test_a_relative_path_counts_from_the_root(images_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert files_of(fetch(Path(images_folder.name), tmp_path)) == files_of(fetch(images_folder, tmp_path))


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


def test_a_truncated_image_is_named(images_folder: Path, tmp_path: Path) -> None:
    victim = images_folder / "train" / "blue" / "003.png"
    victim.write_bytes(victim.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"train/blue/003\.png: not a readable image"):
        fetch(images_folder, tmp_path)


def test_a_file_that_is_no_image_is_named(images_folder: Path, tmp_path: Path) -> None:
    (images_folder / "test" / "blue" / "notes.txt").write_text("hello")
    with pytest.raises(UserError, match=r"test/blue/notes\.txt: not a readable image"):
        fetch(images_folder, tmp_path)


def test_a_missing_split_is_named(images_folder: Path, tmp_path: Path) -> None:
    shutil.rmtree(images_folder / "test")
    with pytest.raises(UserError, match="has no test images; they must stand at test/<class>/<image>"):
        fetch(images_folder, tmp_path)


@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_a_class_without_images_in_one_split_is_named(images_folder: Path, tmp_path: Path, split: str, other: str) -> None:
    for file in (images_folder / split / "green").iterdir():
        file.unlink()
    with pytest.raises(UserError, match=f"no {split} images of green"):
        fetch(images_folder, tmp_path)


def test_images_outside_a_class_are_named(images_folder: Path, tmp_path: Path) -> None:
    shutil.copyfile(images_folder / "train" / "red" / "000.png", images_folder / "train" / "stray.png")
    with pytest.raises(UserError, match=r"train/stray\.png' belongs to no class"):
        fetch(images_folder, tmp_path)


@pytest.mark.parametrize("spelled", ["unlabelled", "Unlabeled"])
def test_a_folder_that_would_be_left_out_for_its_spelling_is_named(spelled: str, images_folder: Path, tmp_path: Path) -> None:
    (images_folder / spelled).mkdir()
    shutil.copyfile(images_folder / "train" / "red" / "000.png", images_folder / spelled / "a.png")
    with pytest.raises(UserError, match=f"{spelled}/a.png' would be left out: images without label stand in unlabeled/, so spelled"):
        fetch(images_folder, tmp_path)


@pytest.mark.parametrize("spelled", ["Train", "TEST"])
def test_a_split_in_other_letters_is_named_and_not_left_out(spelled: str, images_folder: Path, tmp_path: Path) -> None:
    """Above all where images without label would stand in for those of train."""
    (images_folder / "unlabeled").mkdir()
    shutil.copyfile(images_folder / "train" / "red" / "000.png", images_folder / "unlabeled" / "a.png")
    (images_folder / spelled.lower()).rename(images_folder / "moved")
    (images_folder / "moved").rename(images_folder / spelled)
    with pytest.raises(UserError, match=f"'{spelled}/.*' would be left out: images stand in {spelled.lower()}/<class>/, so spelled"):
        fetch(images_folder, tmp_path)


def test_a_folder_of_validation_images_is_said_not_to_be_read(
    images_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(images_folder / "test", images_folder / "val")
    fetch(images_folder, tmp_path)
    count = sum(1 for path in (images_folder / "val").rglob("*") if path.is_file())
    assert (
        f"{count} files below val or valid or validation are not read; validation images are drawn from train/" in capsys.readouterr().out
    )


def test_class_names_are_the_same_however_their_letters_are_composed(images_folder: Path, tmp_path: Path) -> None:
    """As archives packed on a Mac have them, decomposed."""
    for split in ("train", "test"):
        (images_folder / split / "red").rename(images_folder / split / unicodedata.normalize("NFD", "café"))
    assert unicodedata.normalize("NFC", "café") in read_classes(fetch(images_folder, tmp_path))


def test_names_of_images_are_the_same_however_their_letters_are_composed(images_folder: Path, tmp_path: Path) -> None:
    """They say in which order images stand, and so which are held out."""
    found = []
    for form in ("NFC", "NFD"):
        folder = tmp_path / form
        shutil.copytree(images_folder, folder)
        for number, file in enumerate(sorted((folder / "train" / "red").iterdir())):
            file.rename(file.with_name(unicodedata.normalize(form, f"{'eéz'[number % 3]}{number}.png")))
        found.append(files_of(fetch(folder, tmp_path)))
    assert found[0] == found[1]


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


@pytest.mark.parametrize("where", ["fold2", ".", "fold1/old"])
def test_several_data_sets_in_one_archive_are_refused(where: str, images_folder: Path, tmp_path: Path) -> None:
    """Of cross-validation's folds, one's test images are another's training images."""
    both = tmp_path / "both"
    for name in ("fold1", where):
        shutil.copytree(images_folder, both / name, dirs_exist_ok=True)
    with pytest.raises(UserError, match=r"both holds several data sets: '.*' and '.*' stand in .* of different folders"):
        fetch(both, tmp_path)


def test_a_hidden_link_to_nothing_is_passed_over(images_folder: Path, tmp_path: Path) -> None:
    before = files_of(fetch(images_folder, tmp_path))
    (images_folder / "train" / "red" / ".#000.png").symlink_to("someone@somewhere")
    assert files_of(fetch(images_folder, tmp_path)) == before


def test_images_too_deep_are_named(images_folder: Path, tmp_path: Path) -> None:
    (images_folder / "train" / "red" / "more").mkdir()
    shutil.copyfile(images_folder / "train" / "red" / "000.png", images_folder / "train" / "red" / "more" / "a.png")
    with pytest.raises(UserError, match=r"train/red/more/a\.png' lies too deep"):
        fetch(images_folder, tmp_path)


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


def test_an_archive_bomb_is_stopped_whatever_its_headers_say(images_folder: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train/red/x.png", bytes(50_000_000))
    with pytest.raises(UserError, match=r"unpacks to more than 0.01 GB; raise folder.fetch.max_gigabytes"):
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
    with pytest.raises(UserError, match=rf"{re.escape(name)}.*(is damaged|is neither)|not a readable image"):
        fetch(tmp_path / name, tmp_path)


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


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", PACKINGS)
@given(start=st.floats(0, 1), removed=st.integers(0, 300), put=st.binary(max_size=40))
def test_whatever_the_damage_the_message_names_the_archive_or_the_image(
    name: str, start: float, removed: int, put: bytes, images_folder: Path, tmp_path: Path
) -> None:
    path = tmp_path / name
    PACKINGS[name](images_folder, path)
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


def test_a_path_must_be_set_and_exist(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs folder\.fetch\.path"):
        folder.fetch(tmp_path, tmp_path, None, None, GIGABYTE)
    with pytest.raises(UserError, match="nowhere does not exist"):
        folder.fetch(tmp_path, tmp_path, "nowhere", None, GIGABYTE)


def test_the_digits_are_all_there_split_and_stratified(tmp_path: Path) -> None:
    digits.fetch(tmp_path, 0.2)
    train, test = read_split(tmp_path, "train"), read_split(tmp_path, "test")
    assert (len(train.labels), len(test.labels)) == (1437, 360)
    seen = sorted(part.decode(i)[..., 0].tobytes() for part in (train, test) for i in range(len(part.labels)))
    assert seen == sorted(np.round(image * 255 / 16).astype(np.uint8).tobytes() for image in load_digits().images)
    assert np.bincount(test.labels).min() >= 34


def test_a_class_without_images_is_never_written(tmp_path: Path) -> None:
    images = array_images(np.zeros((2, 4, 4, 3), np.uint8), np.array([0, 0]), "x")
    with pytest.raises(UserError, match="no train images of b"):
        write_raw(tmp_path, "array", ["a", "b"], {"train": images, "test": images})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which it is served."""
    served = tmp_path / "served"
    served.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(served))  # type: ignore[arg-type]

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield served, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def published_layout(served: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """An archive laid out as the published one, two images a split, whose hashes torchvision is told to expect."""
    random = np.random.default_rng(0)
    pixels = {name: random.integers(0, 256, (2, 3, 32, 32), dtype=np.uint8) for name in ("train", "test")}
    contents = {name: pickle.dumps({"data": images.reshape(2, -1), "fine_labels": [1, 0]}) for name, images in pixels.items()} | {
        "meta": pickle.dumps({"fine_label_names": ["apple", "bear"]})
    }
    with tarfile.open(served / "c.tar.gz", "w:gz") as archive:
        for name, content in contents.items():
            info = tarfile.TarInfo(f"cifar-100-python/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    monkeypatch.setattr(cifar100.Download, "tgz_md5", hashlib.md5((served / "c.tar.gz").read_bytes()).hexdigest())
    monkeypatch.setattr(cifar100.Download, "train_list", [["train", md5["train"]]])
    monkeypatch.setattr(cifar100.Download, "test_list", [["test", md5["test"]]])
    monkeypatch.setattr(cifar100.Download, "meta", {"filename": "meta", "key": "fine_label_names", "md5": md5["meta"]})
    return pixels["test"].transpose(0, 2, 3, 1)


def test_cifar100_is_downloaded_checked_and_written(server: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served, address = server
    expected = published_layout(served, monkeypatch)
    target = tmp_path / "raw"
    target.mkdir()
    cifar100.fetch(target, f"{address}/c.tar.gz")
    split = read_split(target, "test")
    assert read_classes(target) == ["apple", "bear"]
    np.testing.assert_array_equal(split.labels, [0, 1])
    np.testing.assert_array_equal(split.decode(0), expected[1])  # ordered by class: the second image is the apple


def test_another_archive_is_not_cifar100(server: tuple[Path, str], tmp_path: Path) -> None:
    served, address = server
    (served / "c.tar.gz").write_bytes(b"<html>moved</html>")
    with pytest.raises(UserError, match="is not the published CIFAR-100 archive"):
        cifar100.fetch(tmp_path, f"{address}/c.tar.gz")


def test_without_network_cifar100_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot download CIFAR-100 from http://127\.0\.0\.1:9/x .* set cifar100\.fetch\.url to file://"):
        cifar100.fetch(tmp_path, "http://127.0.0.1:9/x")
