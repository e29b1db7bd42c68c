"""The reference system's published archives in small, as its loader expects them, and servers that hand them out, well or badly."""

import io
import ssl
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from amalgam.networks import build_network

# By teacher, as the reference's documentation gives them.
TASK_A = {1: [47, 52, 56, 59, 96], 2: [54, 62, 70, 82, 92], 3: [0, 51, 53, 57, 83]}
TASK_B = {1: [34, 137, 159, 173, 201], 2: [24, 34, 80, 135, 202], 3: [124, 125, 130, 173, 202]}
FOLDERS = {1: "Model1_trees_superclass", 2: "Model2_flowers_superclass", 3: "Model3_fruit+veg_superclass"}
STUDENT = "best_models/TaskA/student_model_epoch57_acc81.27.pth"
TEACHER = "weights/A/data1_73.60_epoch12.pth"


def pictures(numbers: list[int], each: int, side: int, teacher: int, seed: int) -> tuple[npt.NDArray[np.uint8], list[int]]:
    """uint8 (N, side, side, 3) of a colour a class, the top left pixel saying which teacher's copy it is; and the labels."""
    labels = [number for number in numbers for _ in range(each)]
    random = np.random.default_rng([seed, teacher])
    colours = np.array([[number % 7, number // 7 % 7, number // 49] for number in labels]) * 36 + 20
    noise = random.normal(0, 10, (len(labels), side, side, 3))
    pixels = np.clip(colours[:, None, None] + noise, 0, 255).astype(np.uint8)
    pixels[:, 0, 0] = teacher
    return pixels, labels


def saved(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def data_files(train: int = 10, test: int = 3) -> dict[str, bytes]:
    files = {}
    for split, each in (("train", train), ("test", test)):
        for teacher, numbers in TASK_A.items():
            pixels, labels = pictures(numbers, each, 32, teacher, each)
            content = {"data": np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), "labels": labels, "indices": list(range(len(labels)))}
            files[f"data/TaskA/{FOLDERS[teacher]}/model{teacher}_{split}_supercls.pth"] = saved(content)
        for teacher, numbers in TASK_B.items():
            pixels, labels = pictures(numbers, each, 64, teacher, each)
            name = f"data/TaskB/{'val' if split == 'test' else 'train'}_dataB_model_{teacher}.pth"
            files[name] = saved({"data": torch.from_numpy(pixels), "labels": torch.tensor(labels)})
    return files


def model_files() -> dict[str, bytes]:
    torch.manual_seed(0)
    return {STUDENT: saved(build_network("MobileNetV3", 15).state_dict()), TEACHER: saved(build_network("ReferenceCNN", 5).state_dict())}


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
            archive.writestr(f"__MACOSX/{name.rpartition('/')[0]}/._{name.rpartition('/')[2]}", b"resource fork")
    return path


QUOTA_PAGE = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>"
    b'<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>\n'
    b'<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently.</p></body></html>'
)
CONFIRM_PAGE = (
    b'<!DOCTYPE html><html><body><form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    b'<input type="hidden" name="id" value="x"><input type="hidden" name="confirm" value="t"></form></body></html>'
)
DRIVE_HOSTS = ("drive.google.com", "docs.google.com", "drive.usercontent.google.com")


class Handler(BaseHTTPRequestHandler):
    """Serves ``server.content`` as ``server.behaviour`` says; through CONNECT also as Google Drive, by its own pages."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, *_: object) -> None:
        pass

    def finish(self) -> None:
        super().finish()
        self.connection.close()  # by now it may be another than the server knows: the one inside TLS

    def do_CONNECT(self) -> None:
        assert self.path.partition(":")[0] in DRIVE_HOSTS, "nothing but the emulated hosts is asked for"
        self.send_response(200)
        self.end_headers()
        assert self.server.tls
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def do_GET(self) -> None:
        behaviour, content = self.server.behaviour, self.server.content
        self.server.requests.append((self.path, self.headers.get("Range")))
        if behaviour == "missing":
            self.send_error(404)
        elif behaviour == "quota":
            self.page(QUOTA_PAGE)
        elif behaviour == "forbidden":
            self.send_error(403)
        elif behaviour == "web page":
            self.page(b"<html><body>Please sign in</body></html>")
        elif behaviour == "confirm" and "/download" not in self.path:
            self.page(CONFIRM_PAGE)
        else:
            self.file(content, behaviour)

    def page(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def file(self, content: bytes, behaviour: str) -> None:
        asked = self.headers.get("Range")
        start = int(asked.removeprefix("bytes=").partition("-")[0]) if asked and behaviour != "no ranges" else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("Content-Type", "application/zip")
        self.send_header("Content-Disposition", 'attachment; filename="published.zip"')
        self.end_headers()
        if behaviour == "breaks off":
            content = content[: start + (len(content) - start) // 2]
            self.close_connection = True
        self.wfile.write(content[start:])


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, content: bytes, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = content
        self.behaviour = "well"
        self.tls = tls
        self.requests: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/published.zip"

    def handle_error(self, *_: object) -> None:
        pass  # a client that goes away


@contextmanager
def serving(content: bytes, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    with Server(content, tls) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def drive_certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """TLS as Google Drive's hosts, and the file of the authority to trust for it."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "emulated Google Drive")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in DRIVE_HOSTS]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    public, private = folder / "drive.pem", folder / "drive.key"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pem = serialization.PrivateFormat.TraditionalOpenSSL
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, pem, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, public
