"""Images and labels as ``torch.save`` wrote them: a dict of ``data`` and ``labels``, read without running any of its code."""

import codecs
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from amalgam.errors import UserError
from amalgam.states import first_line, is_inflated, read_plain

COLOURS = 3


def _array_parts() -> list[Any]:
    """What a pickled numpy array is made of, under the names that different versions of numpy give it."""
    multiarray: Any = importlib.import_module("numpy._core.multiarray")
    parts = {"_reconstruct": multiarray._reconstruct, "scalar": multiarray.scalar}
    named = [(part, f"{module}.multiarray.{name}") for module in ("numpy.core", "numpy._core") for name, part in parts.items()]
    numbers = [type(np.dtype(code)) for code in np.typecodes["AllInteger"] + np.typecodes["Float"] + "?"]
    return [*named, np.ndarray, np.dtype, *numbers, codecs.encode]


def read_images(path: Path, name: str) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Pixels uint8 (N, height, width, 3) and labels (N,) of the file at ``path``, called ``name`` in messages.

    Raises UserError if it is damaged, could run code, or can be read in more than one way.
    """
    try:
        found = read_plain(path, _array_parts())
    except Exception as error:  # damage makes PyTorch's reader raise whatever its place leads to
        raise UserError(
            f"{name} is damaged, or holds more than arrays and numbers, which could run code and is not read ({first_line(error)}); "
            "fetch it again, or save a dict of arrays"
        ) from error
    if not isinstance(found, dict) or not {"data", "labels"} <= set(found):
        raise UserError(f"{name} is no dict of images, 'data', and 'labels', as the published archives hold; save such a one")
    pixels, labels = _pixels(_as_array(found["data"], name), name), _labels(found["labels"], name)
    if len(pixels) != len(labels):
        raise UserError(f"{name} has {len(pixels)} images and {len(labels)} labels; it must have a label for each image")
    return pixels, labels


def _as_array(values: Any, name: str) -> npt.NDArray[Any]:
    if isinstance(values, torch.Tensor) and is_inflated(values):
        raise UserError(f"{name} is damaged: its data is larger than what the file holds of it; fetch it again")
    array = values.numpy() if isinstance(values, torch.Tensor) else values
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "uif":
        raise UserError(f"{name}: data is neither an array nor a tensor of numbers; save the images as one array N x H x W x 3")
    return array


def _pixels(data: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    """Colours last, 0 … 255, whatever the order of axes and the scale."""
    if data.ndim != 4 or 0 in data.shape:
        raise UserError(f"{name}: data has the shape {data.shape}; it must be images of {COLOURS} colours, N x 3 x H x W or N x H x W x 3")
    first, last = data.shape[1] == COLOURS, data.shape[3] == COLOURS
    if first == last:
        problem = "both could be" if first else "none is"
        raise UserError(f"{name}: data has the shape {data.shape}: of its second and last axis, {problem} the {COLOURS} colours")
    return _bytes(np.moveaxis(data, 1, 3) if first else data, name)


def _bytes(values: npt.NDArray[Any], name: str) -> npt.NDArray[np.uint8]:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 255):  # NaN too
        raise UserError(f"{name}: pixels run from {low:g} to {high:g}; they must be 0 … 255, or floats from 0 to 1 (not normalised)")
    if values.dtype.kind == "f":
        values = np.rint(values * (255 if high <= 1 else 1))
    return np.ascontiguousarray(values.astype(np.uint8))


def _labels(values: Any, name: str) -> npt.NDArray[np.int64]:
    labels = np.asarray(values.numpy() if isinstance(values, torch.Tensor) else values)
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise UserError(f"{name}: labels must be one row of whole numbers, not {labels.dtype} of the shape {labels.shape}")
    return labels.astype(np.int64)
