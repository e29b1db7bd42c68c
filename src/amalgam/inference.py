"""Running a classifier over many images."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from amalgam.hardware import cpu_model, on_gpu, switches
from amalgam.models import Classifier
from amalgam.team import SOLO, Team
from amalgam.views import Rows, Selected, View, plain_view

ROWS_AT_A_TIME = 4096  # brought to a GPU
IMAGES_AT_A_TIME = {"ReferenceCNN": 32, "MobileNetV3": 512}  # with which a CPU is fastest, where it is not with the others'
OTHERS_AT_A_TIME = 256
MOST_PIXELS = 1 << 21  # of images, and of a network's input, at a time, so that memory does not grow with their sides

Stored = npt.NDArray[Any] | Selected | torch.Tensor  # on disk, in memory, or on the GPU


def device() -> torch.device:
    return torch.device("cuda" if on_gpu() else "cpu")


def device_name() -> str:
    """The GPU, or the processor, how many of its cores compute, and the variables that tell it how."""
    if on_gpu():
        return torch.cuda.get_device_name()
    told = (f"{name}={value}" for name, value in switches().items())
    return ", ".join((cpu_model(), f"{torch.get_num_threads()} threads", *told))


def to_gpu_if_it_fits(values: Stored) -> Stored:
    """Images, logits or the like in the GPU's memory, if there is one and they take less than half of what is free; else as they are."""
    if device().type == "cpu" or isinstance(values, torch.Tensor):
        return values
    one = values[np.arange(1)]
    if len(values) * one.nbytes >= _free() / 2:
        return values
    return copy_into(torch.empty((len(values), *one.shape[1:]), dtype=torch.from_numpy(one).dtype, device=device()), values)


def _free() -> int:
    """Bytes of the GPU's memory that are free, or that PyTorch holds without a tensor in them."""
    free, _ = torch.cuda.mem_get_info()
    return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()


def copy_into(target: torch.Tensor, values: npt.NDArray[Any] | Selected) -> torch.Tensor:
    """``target`` with the values in it, brought there in parts, so that this machine's memory need not hold them all."""
    for start in range(0, len(values), ROWS_AT_A_TIME):
        rows = np.arange(start, min(start + ROWS_AT_A_TIME, len(values)))
        target[start : start + len(rows)] = torch.from_numpy(values[rows])
    return target


def take_rows(values: Stored, rows: Rows) -> torch.Tensor:
    """Some rows, on this process's device."""
    if isinstance(values, torch.Tensor):
        return values[torch.from_numpy(rows).to(values.device, non_blocking=True)]
    return torch.from_numpy(values[rows]).to(device(), non_blocking=True)


def view_images(images: Stored, view: View, rows: Rows) -> torch.Tensor:
    """The images of ``rows`` as the view shows them: uint8 (B, height, width, 3), on this process's device."""
    return view.apply(take_rows(images, rows), rows)


def images_at_a_time(architecture: str, stored: tuple[int, int], size: tuple[int, int], device: str) -> int:
    """How many images a network is given at once on a device of torch's type, where nothing has to be learnt.

    They are ``stored`` with one (height, width), and brought to the network's ``size``.
    """
    most = IMAGES_AT_A_TIME.get(architecture, OTHERS_AT_A_TIME) if device == "cpu" else OTHERS_AT_A_TIME
    return min(max(MOST_PIXELS // max(math.prod(stored), math.prod(size)), 1), most)


@torch.inference_mode()
def predict_logits(
    classifier: Classifier, images: Stored, rows: Rows, view: View | None = None, team: Team = SOLO
) -> npt.NDArray[np.float32]:
    """Logits (len(rows), classes) of the images of ``rows``, shown as they are or by ``view``; a team shares the work."""
    view = plain_view(len(images)) if view is None else view
    own = rows[team.share(len(rows))]
    logits = torch.empty((len(own), len(classifier.classes)), device=device())
    classifier.network.eval()
    height, width = images.shape[1:3]
    step = images_at_a_time(classifier.architecture, (height, width), classifier.preprocessing.size, device().type)
    for start in range(0, len(own), step):
        place = slice(start, start + step)
        logits[place] = classifier.logits(view_images(images, view, own[place]))
    return team.all_gather(logits, len(rows)).cpu().numpy()
