"""What a fitted target makes of all teachers' answers together, kept beside the student that was taught by it.

Asked about other images it says what the teachers are worth without a student.
"""

from pathlib import Path

from amalgam.balancing import Balancing
from amalgam.blocks import LabelBlocks
from amalgam.dataset import LabelSets
from amalgam.inference import device
from amalgam.models import save_weights
from amalgam.stacking import Stacking
from amalgam.states import read_state

FittedTarget = Stacking | Balancing
FITTED_FILE = "target.safetensors"


def write_fitted(found: FittedTarget, folder: Path) -> None:
    """Write it into the student's ``folder``."""
    fitted = {"weight": found.weight, "bias": found.bias} if isinstance(found, Stacking) else {"class_weight": found.weight}
    save_weights(fitted, folder / FITTED_FILE)


def read_fitted(folder: Path, label_sets: LabelSets) -> FittedTarget | None:
    """What the student in ``folder`` was taught by; None if its target is not a fitted one."""
    if not (folder / FITTED_FILE).exists():
        return None
    kept = {name: values.to(device()) for name, values in read_state(folder / FITTED_FILE).items()}
    return Stacking(**kept) if "bias" in kept else Balancing(LabelBlocks.of(label_sets, device()), kept["class_weight"])
