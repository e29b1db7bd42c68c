"""Where images come from, which teachers each task has, and which of them the user brings."""

import re
import unicodedata
from collections.abc import Sequence
from functools import partial
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from amalgam.student_settings import STUDENTS, TIMM, Section

T = TypeVar("T", str, str | None)
T2 = TypeVar("T2")

TORCHVISION = "torchvision/"
TASK_NAME = re.compile(r"task[A-Z]\w*")
SHA256 = r"^[0-9a-f]{64}$"


def _distinct(names: list[T]) -> list[T]:
    repeated = sorted({name for name in names if name is not None and names.count(name) > 1})
    if repeated:
        raise ValueError(f"named twice: {', '.join(repeated)}")
    return names


def _apart(named: dict[str, T2]) -> dict[str, T2]:
    """Names are folders, and some disks take upper and lower case for the same."""
    folded: dict[str, str] = {}
    for name in named:
        if (other := folded.setdefault(name.casefold(), name)) != name:
            raise ValueError(f"{other} and {name} differ in upper and lower case alone; rename one")
    return named


def _task_name(name: str) -> str:
    if not TASK_NAME.fullmatch(name):
        raise ValueError(f"'{name}' is refused: a task is named task and a capital letter, and what you like, as taskBirds")
    return name


TeacherName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w+.-]*$", max_length=60)]
ClassName = Annotated[str, StringConstraints(min_length=1), AfterValidator(partial(unicodedata.normalize, "NFC"))]
Classes = Annotated[list[ClassName], Field(min_length=2), AfterValidator(_distinct)]
Outputs = Annotated[list[ClassName | None], Field(min_length=2), AfterValidator(_distinct)]
Teachers = Annotated[dict[TeacherName, Classes], Field(min_length=1), AfterValidator(_apart)]
TaskName = Annotated[str, AfterValidator(_task_name)]
Tasks = Annotated[dict[TaskName, Teachers], Field(min_length=1), AfterValidator(_apart)]


class Augmentation(Section):
    """Which changes of an image keep its class: a property of the images, hence part of the source."""

    crop: int = Field(
        ge=0,
        le=512,
        description="Largest shift of a view in each direction, in pixels of the stored image: usually an eighth of its side, always less "
        "than half; 0 for none.",
    )
    flip: bool = Field(
        description="true mirrors half of the views left to right; false where a mirror image is another class, as in digits."
    )


class DigitsFetch(Section):
    test_fraction: float = Field(ge=0.05, le=0.95, description="Share of the images, stratified by class, set aside as the test split.")


class Cifar100Fetch(Section):
    url: str = Field(
        pattern=r"^(https?|file)://", description="Address of the archive (the published one, or a mirror); its content is checked by hash."
    )


class FolderFetch(Section):
    path: str | None = Field(
        min_length=1,
        description="A folder, .zip or .tar.* of train/<class>/*, test/<class>/* and, of images without label, unlabeled/*; a "
        "relative path counts from the repository root.",
    )
    test_fraction: float | None = Field(
        ge=0.05,
        le=0.95,
        description="Share of each class's images in train/ that is set aside as the test split, where there is no test/; null where "
        "there is one.",
    )
    sha256: str | None = Field(pattern=SHA256, description="SHA-256 that the archive must have (sha256sum prints it); null accepts any.")
    max_gigabytes: float = Field(gt=0, description="Refuse to unpack more than this many gigabytes: raise it for larger data sets.")


class GdriveFetch(Section):
    data: str = Field(
        min_length=1,
        description="Where the archive of images is, in the published layout: a link to Google Drive, another http address, or a path "
        "(a folder or an archive; a relative one counts from the repository root).",
    )
    data_sha256: str | None = Field(
        pattern=SHA256, description="SHA-256 that it must have; null accepts any, and prints the line that pins it."
    )
    models: str | None = Field(
        min_length=1, description="Where the archive of published weights is, in the same ways; null to do without it."
    )
    models_sha256: str | None = Field(
        pattern=SHA256, description="SHA-256 that it must have; null accepts any, and prints the line that pins it."
    )
    max_gigabytes: float = Field(gt=0, description="Refuse to unpack more than this many gigabytes of either.")


def _known_architecture(name: str) -> str:
    if name not in (*STUDENTS, "ReferenceCNN") and not name.startswith((TIMM, TORCHVISION)):
        raise ValueError(f"'{name}' is refused: it should be {TORCHVISION} or {TIMM} and a name there, ReferenceCNN, or null for a program")
    return name


Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


def _check_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raises ValueError unless pixels from 0 to 1 can have them: with others a network sees next to nothing of an image."""
    if min(mean) < 0 or max(mean) > 1 or min(std) <= 0 or max(std) > 1:
        raise ValueError(
            f"mean {list(mean)} and std {list(std)} are none of pixels scaled to 0 … 1 (std above 0); divide those of pixels 0 … 255 by 255"
        )


class SuppliedTeacher(Section):
    """A teacher that the user brings, and how it sees images."""

    weights: str = Field(
        min_length=1,
        description="Its file: a state dict (.pth, .safetensors) or an exported program (.pt2). After changing it under the same name: "
        "dvc repro --force --single-item weights.",
    )
    architecture: Annotated[str, AfterValidator(_known_architecture)] | None = Field(
        None, description="torchvision/ or timm/ and a name there, or ReferenceCNN; none for an exported program."
    )
    classes: Outputs | None = Field(
        None,
        description="In the order of its outputs, null for one of no class here, where that is not just the order in tasks.",
    )
    resolution: int = Field(ge=8, le=1024, description="Side in pixels of its input.")
    mean: Channels | None = Field(
        description="Mean of each channel of pixels scaled to 0 … 1, as in its training; null, and for std too, takes those of its "
        "classes' images."
    )
    std: Channels | None = Field(description="Standard deviation of each channel, likewise; null where mean is null.")
    min_accuracy: float = Field(
        ge=0,
        le=100,
        description="In percent, on the validation images of its classes (the training images where val_fraction is 0); below it, it is "
        "refused. Where no training image of its classes has a label, only 0 takes it, as it is.",
    )
    trained_elsewhere: bool = Field(
        False, description="true if it was trained on none of these images: its accuracies are then not marked as optimistic."
    )

    @model_validator(mode="after")
    def _program_or_state_dict(self) -> "SuppliedTeacher":
        if self.weights.endswith(".pt2") == (self.architecture is not None):
            raise ValueError("a .pt2 program has no architecture, every other file needs one")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both, or null for both")
        if self.mean is not None and self.std is not None:
            _check_statistics(self.mean, self.std)
        return self


Supplied = dict[str, dict[TeacherName, SuppliedTeacher]]


class Source(Section):
    """What each source's block holds beside its own way to fetch."""

    resolution: int | None = Field(
        ge=4,
        le=1024,
        description="Side in pixels of the square in which images are stored (shorter side resized, centre kept); null keeps "
        "the native size if all images share one (above 1024 pixels it must be set), else stores 64 pixels.",
    )
    augmentation: Augmentation
    tasks: Tasks = Field(
        description="For each task, the teachers by name, each with the classes it knows. Quote names like null, True, +1 and dates."
    )
    supplied: Supplied = Field(
        description="Teachers that you bring instead of having them trained: for each task, by name, the file and how it sees images, "
        "as docs/your_own.md shows."
    )

    @model_validator(mode="after")
    def _supplied_teachers_have_a_place(self) -> "Source":
        for task, teachers in self.supplied.items():
            for name, given in teachers.items():
                known = self.tasks.get(task, {}).get(name)
                if known is None:
                    raise ValueError(f"supplied.{task}.{name}: there is no such teacher in tasks; add {task}.{name} there with its classes")
                named = [output for output in given.classes or known if output is not None]
                if set(named) != set(known):
                    raise ValueError(
                        f"supplied.{task}.{name}.classes are {', '.join(named)}, but tasks says {', '.join(known)}; "
                        "name the same ones, null for an output of no class here"
                    )
        return self


class Digits(Source):
    fetch: DigitsFetch


class Cifar100(Source):
    fetch: Cifar100Fetch


class Folder(Source):
    fetch: FolderFetch


class Gdrive(Source):
    fetch: GdriveFetch
