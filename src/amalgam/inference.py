"""Running a classifier over many images."""

import numpy as np
import numpy.typing as npt
import torch

from amalgam.models import Classifier
from amalgam.provenance import cpu_model
from amalgam.team import SOLO, Team
from amalgam.views import Images, View, plain_view

BATCH = 256


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else f"{cpu_model()}, {torch.get_num_threads()} threads"


def shown(images: Images, view: View, rows: npt.NDArray[np.int64]) -> torch.Tensor:
    """The images of ``rows`` as the view shows them: uint8 (B, height, width, 3), on this process's device."""
    return torch.from_numpy(view.render(images, rows)).to(device())


@torch.inference_mode()
def predict_logits(
    classifier: Classifier, images: Images, rows: npt.NDArray[np.int64], view: View | None = None, team: Team = SOLO
) -> npt.NDArray[np.float32]:
    """Logits (len(rows), classes) of the images of ``rows``, shown as they are or by ``view``; a team shares the work."""
    view = plain_view(len(images)) if view is None else view
    own = rows[team.share(len(rows))]
    logits = torch.empty((len(own), len(classifier.classes)), device=device())
    classifier.network.eval()
    for start in range(0, len(own), BATCH):
        place = slice(start, start + BATCH)
        logits[place] = classifier.logits(shown(images, view, own[place]))
    return team.gather(logits, len(rows)).cpu().numpy()
