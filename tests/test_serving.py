"""What travels with a student: it reads any image, and answers as the student does."""

import base64
import importlib
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from amalgam.export import export_student, package
from amalgam.models import Classifier
from amalgam.networks import build_network
from amalgam.preprocessing import Preprocessing
from amalgam.serving.model import ServedStudent, _load_pyfunc
from amalgam.serving.pixels import decode, fit
from conftest import ROOT

CLASSES = ("class", "dog", "größe")  # the first is also the name of a column


def random_image(height: int, width: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def file_of(pixels: npt.NDArray[np.uint8], kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def student() -> Classifier:
    torch.manual_seed(0)
    network = build_network("MobileNetV3", len(CLASSES)).eval()
    return Classifier("MobileNetV3", network, CLASSES, Preprocessing((32, 32), (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)))


@pytest.fixture(scope="module")
def exported(student: Classifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_student(student, (24, 20), folder)
    return folder


@pytest.fixture(scope="module")
def served(exported: Path) -> ServedStudent:
    return _load_pyfunc(str(exported / "data"))


def test_fit_cuts_the_centre() -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 200
    np.testing.assert_array_equal(fit(pixels, (10, 10)), np.full((10, 10, 3), 200))
    np.testing.assert_array_equal(fit(pixels, (10, 30)), pixels)


@given(height=st.integers(1, 60), width=st.integers(1, 60), down=st.integers(1, 40), across=st.integers(1, 40))
def test_fit_always_gives_the_size(height: int, width: int, down: int, across: int) -> None:
    assert fit(random_image(height, width), (down, across)).shape == (down, across, 3)


def test_fit_enlarges_no_more_than_it_shows() -> None:
    """One row of two million pixels, enlarged as a whole to 64 rows, would take 25 GB."""
    sliver = np.zeros((1, 2_000_000, 3), dtype=np.uint8)
    sliver[:, 999_990:1_000_010] = 200
    np.testing.assert_array_equal(fit(sliver, (64, 64)), np.full((64, 64, 3), 200))


@given(height=st.integers(2, 60), width=st.integers(2, 60), down=st.integers(1, 40), across=st.integers(1, 40))
def test_fit_keeps_the_shape_of_what_it_shows(height: int, width: int, down: int, across: int) -> None:
    """Of a ramp from left to right and one from top to bottom, both in the middle what the image has there, and neither stretched."""
    ramps = np.zeros((height, width, 3))
    ramps[..., 0], ramps[..., 1] = np.linspace(60, 190, width), np.linspace(60, 190, height)[:, None]
    found = fit(ramps.round().astype(np.uint8), (down, across)).astype(float)
    assert abs(found[..., 0].mean() - 125) < 3
    assert abs(found[..., 1].mean() - 125) < 3
    scale = max(down / height, across / width)
    for ramp, count, pixels in ((found[0, :, 0], across, width), (found[:, 0, 1], down, height)):
        if scale > 1 and count > 8 and pixels > 8:  # enlarged, the slope between two points well inside is that of the image
            slope = (ramp[count * 3 // 4] - ramp[count // 4]) / (count * 3 // 4 - count // 4)
            assert abs(slope - 130 / (pixels - 1) / scale) < 1.5


@pytest.mark.parametrize("rows", [1, 2, 70])
def test_it_answers_as_the_student_does(student: Classifier, served: ServedStudent, rows: int) -> None:
    """On images of the size that the student was trained on, in any number."""
    images = np.stack([random_image(24, 20, seed) for seed in range(rows)])
    expected = student.logits(torch.from_numpy(images)).softmax(1).detach().numpy()
    found = served.predict(pd.DataFrame({"image": list(images)}))
    np.testing.assert_allclose(np.array([list(shares.values()) for shares in found["probabilities"]]), expected, atol=1e-5)
    assert list(found["class"]) == [CLASSES[index] for index in expected.argmax(1)]
    np.testing.assert_allclose(found["probability"], expected.max(1), atol=1e-5)
    assert set(found["probabilities"][0]) == set(CLASSES)


def test_each_answer_stands_under_its_images_index(served: ServedStudent) -> None:
    """As in a table that was sorted or filtered: pandas joins columns by their index."""
    images = pd.DataFrame({"image": [random_image(24, 20, seed) for seed in range(4)]})
    whole, part = served.predict(images), served.predict(images.loc[[3, 1]])
    assert [*part.index] == [3, 1]
    assert part["class"].to_dict() == whole["class"].loc[[3, 1]].to_dict()


def test_one_process_exports_several_students_of_the_same_sizes(tmp_path: Path) -> None:
    """What the first export computes for itself is not taken for the second's, nor for live images."""
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(2), torch.nn.Flatten(), torch.nn.Linear(12, len(CLASSES)))
    own = Classifier("MobileNetV3", network, CLASSES, Preprocessing((34, 38), (0.5, 0.4, 0.3), (0.2, 0.2, 0.3)))
    images = torch.from_numpy(np.stack([random_image(17, 19, seed) for seed in range(3)]))
    for number in range(2):
        served = _load_pyfunc(str(export_student(own, (17, 19), tmp_path / str(number))[0]))
        found = served.predict(pd.DataFrame({"image": list(images.numpy())}))
        with torch.inference_mode():
            expected = torch.softmax(own.logits(images), dim=1)
        np.testing.assert_allclose([list(row.values()) for row in found["probabilities"]], expected, atol=1e-5)


def test_every_way_to_give_an_image_is_the_same(served: ServedStudent) -> None:
    pixels = random_image(50, 70)
    png = file_of(pixels)
    ways = [pixels, pixels.tolist(), png, bytearray(png), base64.b64encode(png).decode()]
    found = served.predict(pd.DataFrame({"image": ways}))
    assert len({json.dumps(shares) for shares in found["probabilities"]}) == 1


def test_a_jpeg_is_read_as_it_decodes(served: ServedStudent) -> None:
    encoded = file_of(random_image(50, 70), "JPEG")
    found = served.predict(pd.DataFrame({"image": [encoded, decode(encoded)]}))
    assert found["probabilities"][0] == found["probabilities"][1]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"<html>", "image 1: not a readable image"),
        ("no base64!", "image 1: .*give the bytes of a PNG or JPEG file"),
        (np.zeros((4, 4)), r"image 1: pixels are whole numbers from 0 to 255, \(height, width, 3\), not float64 of shape \(4, 4\)"),
        (np.full((4, 4, 3), 0.5), "whole numbers"),
        (np.full((4, 4, 3), 256), "from 0 to 255"),
        (np.zeros((0, 4, 3), dtype=np.uint8), "of shape"),
        ([[1, 2], [3]], "image 1"),
        (None, "image 1"),
    ],
)
def test_what_is_no_image_is_refused_by_its_row(served: ServedStudent, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        served.predict(pd.DataFrame({"image": pd.Series([random_image(5, 5), value], dtype=object)}))


def test_the_example_without_mlflow_names_a_class(exported: Path, tmp_path: Path) -> None:
    """As docs/running.md has it, by PyTorch alone."""
    (example,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/running.md").read_text(), re.MULTILINE | re.DOTALL)
    shutil.copytree(exported / "data", tmp_path / "student/data/data")
    program = f"import sys; sys.modules |= dict.fromkeys(('amalgam', 'mlflow', 'torchvision', 'timm', 'pandas', 'PIL'))\n{example}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.stdout.strip() in CLASSES, result.stderr


def test_two_versions_of_its_code_work_in_one_program(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As students of two commits in one notebook; in ``sys.modules`` one would stand for the other."""
    shutil.copytree(exported.joinpath(package()), tmp_path / "serving", ignore=shutil.ignore_patterns("__pycache__"))
    text = (tmp_path / "serving/model.py").read_text()
    (tmp_path / "serving/model.py").write_text(text.replace('COLUMN = "image"', 'COLUMN = "photo"'))
    before = package()
    monkeypatch.setattr("amalgam.export.SERVING", tmp_path / "serving")
    assert package() != before
    shutil.copytree(tmp_path / "serving", tmp_path / "new" / package())
    found = []
    for folder, name in ((exported, before), (tmp_path / "new", package())):
        monkeypatch.syspath_prepend(folder)
        found.append(importlib.import_module(f"{name}.model").COLUMN)
    assert found == ["image", "photo"]


def test_it_runs_where_this_package_cannot_be_imported(exported: Path) -> None:
    program = (
        "import sys; sys.modules |= dict.fromkeys(('amalgam', 'torchvision', 'timm', 'sklearn', 'scipy', 'dvc'))\n"
        f"sys.path.insert(0, {str(exported)!r})\n"
        "import numpy, pandas\n"
        f"from {package()}.model import _load_pyfunc\n"
        f"model = _load_pyfunc({str(exported / 'data')!r})\n"
        "print(len(model.predict(pandas.DataFrame({'image': [numpy.zeros((9, 9, 3), 'uint8')]}))))\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd="/")
    assert result.stdout == "1\n", result.stderr
