"""What measurements say against a target that may be chosen all the same, said before a student is trained by it.

The numbers are those of docs/experiments.md, *Side trials* and *Few labels*.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from amalgam.contradictions import separate
from amalgam.teaching import Teaching

FEW = 0.5  # of the training images


def advice(teaching: Teaching, teachers: Mapping[str, Sequence[str]], labels: npt.NDArray[np.int64]) -> str | None:
    """What would teach better, of training images with these ``labels`` (−1: none that may be used); None where nothing is known to."""
    labelled = float((labels >= 0).mean())
    if teaching.alpha == 0 or teaching.is_fitted or labelled >= FEW:
        return None
    if labelled > 0:
        return (
            f"{(labels >= 0).sum()} of {len(labels)} training images have a label that may be used; target stacked (temperature 2, "
            "stored_teachers all) learns from them how the teachers' answers belong together, and was 12 points ahead of blocks where a "
            "tenth of the images had one"
        )
    apart = separate(teachers)
    if apart is None or teaching.target == "blocks":
        return None
    return (
        f"no training image has a label that may be used, and {apart} share no class with the other teachers, so that nothing identifies "
        "how likely their classes are beside the others'; where all classes are about equally frequent, target balanced (temperature 1) "
        "makes more of them: it was 9 points ahead of joint"
    )
