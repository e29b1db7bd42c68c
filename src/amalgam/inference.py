"""Running a classifier over many images."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch

from amalgam.models import Classifier
from amalgam.provenance import cpu_model
from amalgam.views import View, plain_view

BATCH = 256


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu_model()}, {torch.get_num_threads()} threads"


def view_batches(images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], view: View, size: int) -> Iterator[tuple[slice, torch.Tensor]]:
    """The images of ``rows`` in order as the view shows them: (place in ``rows``, uint8 (B, height, width, 3))."""
    for start in range(0, len(rows), size):
        place = slice(start, min(start + size, len(rows)))
        yield place, torch.from_numpy(view.render(images, rows[place])).to(device())


@torch.inference_mode()
def predict_logits(
    classifier: Classifier, images: npt.NDArray[np.uint8], rows: npt.NDArray[np.int64], view: View | None = None
) -> npt.NDArray[np.float32]:
    """Logits (len(rows), classes) of the images of ``rows``, shown as they are or by ``view``."""
    shown = plain_view(len(images)) if view is None else view
    logits = np.empty((len(rows), len(classifier.classes)), dtype=np.float32)
    classifier.network.eval()
    for place, batch in view_batches(images, rows, shown, BATCH):
        logits[place] = classifier.logits(batch).cpu().numpy()
    return logits
