"""Teachers' logits as they are stored, in half precision, or why they cannot be."""

import numpy as np
import numpy.typing as npt
import torch

from amalgam.errors import UserError
from amalgam.models import Classifier
from amalgam.programs import PROGRAM

Logits = npt.NDArray[np.float16]

MOST_LOGIT = 1024.0  # beyond it float16 knows no halves
MOST_OFF = 0.05  # by which storing logits may change a probability at temperature 1
OF_OTHERS = (
    "have it give logits of which the softmax is its probabilities, with a mean near zero (one constant, added to all its logits of every "
    "image, changes nothing)"
)
OF_OURS = "lower teacher.lr, or raise teacher.num_epochs"


def storable(logits: npt.NDArray[np.float32], classifier: Classifier) -> Logits:
    """Logits (N, |Lᵢ|) as float16. Raises UserError if that would change what they mean, or one is no number."""
    whose, largest = f"the teacher of {', '.join(classifier.classes)}", float(np.abs(logits).max(initial=0))
    remedy = OF_OTHERS if classifier.exact else OF_OURS
    if classifier.architecture == PROGRAM and logits.size and logits.min() >= 0 and largest <= 1:
        raise UserError(
            f"{whose} gives values from 0 to 1 alone, as after a sigmoid (of which a student learns next to nothing); export it without, "
            "or torch.logit of them"
        )
    if not np.isfinite(largest):
        raise UserError(f"{whose} gives logits that are not finite ({classifier.architecture}); train it anew, or bring another")
    if largest > MOST_LOGIT:
        problem = f"gives a logit of {largest:g} ({classifier.architecture}), and {MOST_LOGIT:g} is the largest that is stored"
        raise UserError(f"{whose} {problem} precisely enough; {remedy}")
    stored = logits.astype(np.float16)
    before, after = (torch.softmax(torch.from_numpy(values), 1) for values in (logits, stored.astype(np.float32)))
    off = float((before - after).abs().max()) if len(logits) else 0.0
    if off > MOST_OFF:
        problem = f"gives logits of up to {largest:g} ({classifier.architecture}), stored with steps by which a probability would be off by"
        raise UserError(f"{whose} {problem} {off:.2g}; {remedy}")
    return stored
