"""A network's first try, on images that say nothing: what it refuses is told before work is spent on it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from amalgam.errors import UserError
from amalgam.hardware import is_the_gpus, on_gpu
from amalgam.inference import device_name


@dataclass(frozen=True)
class Remedies:
    """What to do about a network that gives another result each time, and about one that does not take the images."""

    unsteady: str
    images: str


@contextmanager
def trial(what: str, purpose: str, images: str, remedies: Remedies) -> Iterator[None]:
    """Raises UserError for what the network ``what`` refuses in the block, in which it is ``purpose`` (trained, run) on ``images``.

    Some networks are made for one size alone; for some, CUDA has no kernel that gives the same bits each time. A GPU's own failure says
    nothing of them and stays what it is.
    """
    try:
        yield
    except (AssertionError, RuntimeError, ValueError) as error:
        if is_the_gpus(error):
            raise
        reason = str(error).partition("\n")[0] or "no reason given"
        if "deterministic" in reason:
            hide = ", or hide the GPU (CUDA_VISIBLE_DEVICES= before the command)" if on_gpu() else ""
            problem = f"cannot be {purpose} on {device_name()} with the same result each time ({reason.partition(',')[0]})"
            raise UserError(f"{what} {problem}; {remedies.unsteady}{hide}") from error
        raise UserError(f"{what} does not take {images} ({reason}); {remedies.images}") from error
