"""A student as it travels: one program from pixels to logits, with the code that feeds it."""

import shutil
from pathlib import Path

import torch
from torch import Tensor, nn

from amalgam.files import sha256_of_file, write_json
from amalgam.models import Classifier
from amalgam.provenance import fingerprint
from amalgam.serving import model as served

SERVING = Path(served.__file__).parent


def package() -> str:
    """The name under which the code of serving/ travels: not this package's, which may be there too, and another one for other code, so
    that two students of two versions work in one program."""
    code = {file.name: sha256_of_file(file) for file in sorted(SERVING.glob("*.py"))}
    return f"amalgam_student_{fingerprint(code=code)[:8]}"


class _FromPixels(nn.Module):
    """A classifier with its preprocessing, as one module."""

    def __init__(self, student: Classifier) -> None:
        super().__init__()
        self.network = student.network
        self.preprocessing = student.preprocessing

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.preprocessing(images))
        return logits


def export_student(student: Classifier, size: tuple[int, int], folder: Path) -> tuple[Path, Path]:
    """Write the student (left on the CPU, in evaluation mode) for images of ``size`` (height, width).

    Returns the folders of its data and of its code, both inside ``folder``.
    """
    data, code = folder / "data", folder / package()
    data.mkdir(parents=True)
    student.to(torch.device("cpu")).network.eval().to(memory_format=torch.contiguous_format)  # as files hold it
    example = torch.zeros(2, *size, 3, dtype=torch.uint8)  # two: an example of one would fix the batch at one
    dynamic = ({0: torch.export.Dim("batch")},)
    torch.export.save(torch.export.export(_FromPixels(student), (example,), dynamic_shapes=dynamic), data / served.NETWORK)
    write_json(data / served.DESCRIPTION, {"classes": list(student.classes), "size": list(size)})
    shutil.copytree(SERVING, code, ignore=shutil.ignore_patterns("__pycache__"))
    return data, code
