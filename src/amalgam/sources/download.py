"""One file from Google Drive, another address or a path: kept, gone on with after a break, checked by hash.

::

    .amalgam/downloads/<key of the address>/file               what came, whole
    .amalgam/downloads/<key of the address>/incoming*.part     the beginning of a transfer that broke off
    .amalgam/downloads/<key of the address>/incoming-*.tail    what was cut off it, to see that it comes again (seam.py)
"""

import hashlib
import os
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import gdown
import requests
from gdown.exceptions import DownloadError, FileURLRetrievalError
from gdown.parse_url import is_google_drive_url
from tqdm import tqdm

from amalgam.errors import UserError, without_passwords
from amalgam.files import sha256_of_file
from amalgam.places import repository_root
from amalgam.sources import seam
from amalgam.sources.archive import check_hash
from amalgam.store import DOWNLOADS, STORE, locked

ANEW = "AMALGAM_REFETCH"  # environment variable: what is there already is fetched again, and kept until the new has come
SECONDS_WITHOUT_A_BYTE = 60
RETRIES = 3
WEB_PAGE = (b"<!doctype html", b"<html")


def obtain(address: str, sha256: str | None, root: Path, parameter: str) -> Path:
    """The archive (or folder) at ``address``, which the setting ``parameter`` holds; a relative path counts from ``root``.

    Raises UserError, with what to do, if it cannot be had or has not the hash of ``<parameter>_sha256``. Where that is None, says which
    line pins what came.
    """
    path, remote = reach(address, root, parameter), is_remote(address)
    try:
        check_hash(path, sha256, f"{parameter}_sha256")
    except UserError as error:
        raise UserError(f"{error}; remove {path} to have it fetched anew" if remote else str(error)) from error
    if sha256 is None and path.is_file():
        block, _, name = parameter.rpartition(".")
        pin = f"set in params.yaml, under {block}:\n  {name}_sha256: {sha256_of_file(path)}"
        print(f"{without_passwords(address)} is not pinned; to refuse anything else from now on, {pin}")
    return path


def is_remote(address: str) -> bool:
    return urlsplit(address).scheme in ("http", "https")


def reach(address: str, root: Path, parameter: str) -> Path:
    """What ``obtain`` gives, whatever its hash."""
    try:
        return _downloaded(address, parameter) if is_remote(address) else _local(address, root, parameter)
    except UserError as error:
        raise UserError(without_passwords(error)) from error


def _local(address: str, root: Path, parameter: str) -> Path:
    path = root / Path(unquote(urlsplit(address).path) if address.startswith("file://") else address).expanduser()
    if not path.exists():
        raise UserError(f"{parameter}: {path} does not exist; correct the path (a relative one counts from the repository root)")
    return path


def _downloaded(address: str, parameter: str) -> Path:
    """The file at an address; it is transferred once, and again after it was removed or where ``ANEW`` says so."""
    folder = repository_root() / STORE / DOWNLOADS / hashlib.sha256(address.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "file"
    with locked(folder):
        if os.environ.get(ANEW) or not target.exists():
            _transfer(address, folder / "incoming", parameter)
            (folder / "incoming").replace(target)
        os.utime(folder)  # the time of last use
    return target


def _transfer(address: str, target: Path, parameter: str) -> None:
    by_hand = f"or fetch it by hand, with a browser say, and set {parameter} to file:///path/of/it"
    part = _part(target)
    if part and not seam.set_back(part, target):
        _forget(target)
        part = None
    begun = part.stat().st_size if part else 0
    try:
        _get(address, target)
    except FileURLRetrievalError as error:
        raise UserError(
            f"{parameter}: Google Drive does not hand out {address}: too many have fetched it today, or it is not shared with everyone "
            f"({_reason(error)}); try again tomorrow, {by_hand}"
        ) from error
    except requests.HTTPError as error:
        raise UserError(f"{parameter}: {address} answers {error}; correct it, {by_hand}") from error
    except (DownloadError, requests.RequestException) as error:
        kept = part.stat().st_size if (part := _part(target)) else 0
        if kept and kept == begun and error.__cause__ is None and isinstance(error, DownloadError):
            _forget(target)  # the server cannot go on, or the file there is another now
            _transfer(address, target, parameter)
            return
        problem, remedy = ("did not come whole", f"{kept:,} bytes are kept, repeat the command to go on")
        if not kept:
            problem, remedy = ("cannot be fetched", f"check the address and the network, {by_hand}")
        raise UserError(f"{parameter}: {address} {problem} ({_reason(error)}); {remedy}") from error
    if not seam.holds(target, target):  # another file is there now
        target.unlink()
        _forget(target)
        _transfer(address, target, parameter)
        return
    seam.forget(target)
    _refuse_web_page(address, target, parameter, by_hand)


def _get(address: str, target: Path) -> None:
    """Transfer the file, with a bar on a terminal."""
    with tqdm(desc=f"fetch {target.parent.name}", unit="B", unit_scale=True, disable=None, dynamic_ncols=True) as bar:

        def show(received: int, total: int | None) -> None:
            bar.total = total
            bar.update(received - bar.n)

        gdown.download(address, str(target), quiet=True, resume=True, progress=show, timeout=SECONDS_WITHOUT_A_BYTE, retries=RETRIES)


def _part(target: Path) -> Path | None:
    """The beginning of a transfer that broke off, if one did. Where a killed one left several, the longest stays."""
    parts = _parts(target)
    for shorter in parts[:-1]:
        shorter.unlink()
    return parts[-1] if parts else None


def _parts(target: Path) -> list[Path]:
    """The shortest first."""
    return sorted(target.parent.glob(f"{target.name}*.part"), key=lambda path: path.stat().st_size)


def _forget(target: Path) -> None:
    print("the transfer cannot go on where it broke off, and begins anew", file=sys.stderr)
    for part in _parts(target):
        part.unlink()
    seam.forget(target)


def _refuse_web_page(address: str, target: Path, parameter: str, by_hand: str) -> None:
    with target.open("rb") as file:
        beginning = file.read(512).lstrip().lower()
    if beginning.startswith(WEB_PAGE):
        target.unlink()
        hint = "is it shared with everyone?" if is_google_drive_url(address) else "is it the address of the file itself?"
        raise UserError(f"{parameter}: {address} gave a web page instead of an archive; {hint} Correct it, {by_hand}")


def _reason(error: Exception) -> str:
    """The telling words of a message that may be long."""
    words = " ".join(str(error).split()).removeprefix("Failed to retrieve file url: ")
    words = words.partition(" You may still be able")[0].partition(". The received bytes")[0]
    return words.rpartition(": ")[2].rstrip("'\")") if "Caused by" in words else words
