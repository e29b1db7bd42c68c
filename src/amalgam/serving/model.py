"""A student as MLflow's ``pyfunc`` flavour loads it: images of any size or kind in, classes and probabilities out."""

import base64
import binascii
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch

from .pixels import decode, fit

NETWORK = "network.pt2"  # an exported program: from uint8 (batch, height, width, 3) to logits (batch, classes)
DESCRIPTION = "student.json"  # {"classes": […], "size": [height, width]}
COLUMN = "image"
BATCH = 64


def _load_pyfunc(data: str) -> "ServedStudent":
    """The entry by which MLflow loads the model from the folder ``data``."""
    description = json.loads((Path(data) / DESCRIPTION).read_text(encoding="utf-8"))
    height, width = description["size"]
    return ServedStudent(torch.export.load(Path(data) / NETWORK).module(), description["classes"], (height, width))


class ServedStudent:
    """The network, its classes, and the size (height, width) in which it was given images when it learnt."""

    def __init__(self, network: torch.nn.Module, classes: list[str], size: tuple[int, int]) -> None:
        self.network = network
        self.classes = classes
        self.size = size

    def predict(self, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:  # noqa: ARG002
        """For each row of column ``image``, under its index: the most probable class, its probability, and all classes' probabilities.

        An image is uint8 pixels (height, width, 3), as an array or nested lists, or a PNG or JPEG file, as bytes or in base64.
        Raises ValueError that names the row if one is neither.
        """
        images = [fit(_pixels(value, row), self.size) for row, value in enumerate(model_input[COLUMN])]
        batches = [torch.from_numpy(np.stack(images[start : start + BATCH])) for start in range(0, len(images), BATCH)]
        with torch.inference_mode():
            shares = [dict(zip(self.classes, row, strict=True)) for batch in batches for row in self.network(batch).softmax(1).tolist()]
        best = [max(share, key=share.__getitem__) for share in shares]
        return pd.DataFrame(
            {
                "class": best,
                "probability": [share[name] for share, name in zip(shares, best, strict=True)],
                "probabilities": shares,
            },
            index=model_input.index,
        )


def _pixels(value: Any, row: int) -> npt.NDArray[np.uint8]:
    try:
        if isinstance(value, str):
            value = base64.b64decode(value, validate=True)
        if isinstance(value, bytes | bytearray):
            return decode(bytes(value))
        pixels = np.asarray(value)
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"image {row}: {error}; give the bytes of a PNG or JPEG file (in JSON as base64), or pixels") from error
    whole = np.issubdtype(pixels.dtype, np.integer) and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size > 0
    if not whole or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(
            f"image {row}: pixels are whole numbers from 0 to 255, (height, width, 3), not {pixels.dtype} of shape {pixels.shape}"
        )
    return pixels.astype(np.uint8)
