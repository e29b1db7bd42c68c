"""Images in containers, fetched as ``source: folder`` fetches them."""

import zipfile
from pathlib import Path

from amalgam.sources import folder

GIGABYTE = 10**9


def fetch(path: Path, tmp_path: Path, sha256: str | None = None, max_bytes: int = GIGABYTE, test_fraction: float | None = None) -> Path:
    target = tmp_path / f"raw-{len(list(tmp_path.glob('raw-*')))}"
    target.mkdir()
    folder.fetch(target, tmp_path, str(path), sha256, max_bytes, test_fraction)
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
