"""What every loop of the benchmark is given: the same images, teachers, student and batch size."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.models import Classifier
from amalgam.networks import build_network
from amalgam.params import Params
from amalgam.params_file import load_params
from amalgam.preparing import plan_split, stored_size, write_split
from amalgam.preprocessing import Preprocessing, channel_statistics
from amalgam.sources import folder as folder_source
from amalgam.sources.raw import read_classes, read_split
from amalgam.student_settings import StudentSettings
from amalgam.targets import StoredTargets, ViewSettings, write_targets

ROOT = Path(__file__).parent.parent.parent
TASK = "taskA"
MOST_BYTES = 50_000_000_000
VIEWS = 10
IN_ACCURACY_TABLE = {"student_resolution": 64, "pretrained": False, "views": VIEWS, "alpha": 0.5, "temperature": 4, "target": "blocks"}


@dataclass(frozen=True)
class Setting:
    """One combination to be measured; ``work`` holds the prepared images and the stored targets."""

    work: Path
    student: str
    batch_size: int

    @property
    def settings(self) -> StudentSettings:
        """The shipped ones, with those of the accuracy table."""
        shipped = parameters()
        values = {name: getattr(shipped, name) for name in StudentSettings.model_fields}
        own = {"student_model": self.student, "batch_size": self.batch_size, "num_epochs": 1000}  # it is stopped from outside
        return StudentSettings.model_validate(values | IN_ACCURACY_TABLE | own)

    @property
    def split(self) -> PreparedSplit:
        return PreparedSplit.read(self.work / "trainval")

    @property
    def label_sets(self) -> LabelSets:
        return LabelSets.read(self.work / "trainval")

    @property
    def targets(self) -> StoredTargets:
        return StoredTargets.read(self.work / "targets", self.split, self.label_sets)


def processor(device: str) -> str:
    """A device's name as a table gives it: without the threads and the stepping, and without what every processor is called."""
    plain = " ".join(re.sub(r"\((R|TM)\)|Processor|,.*", "", device).split())
    return re.sub(r" (\d+) (\d+) \d+$", r" (family \1, model \2)", plain)


def parameters() -> Params:
    return load_params(ROOT / "params.yaml").model_copy(update={"source": "folder"})


def prepare(archive: Path, work: Path) -> None:
    """Everything that is no training: images without a validation split, so that epochs are steps alone, and targets of every view.

    Exits where there is a GPU: the loops that the shipped one is compared with know the CPU alone.
    """
    if torch.cuda.is_available():
        raise SystemExit("these benchmarks compare loops on the CPU; hide the GPU: CUDA_VISIBLE_DEVICES= before the command")
    folder_source.fetch(work / "raw", Path.cwd(), str(archive), None, MOST_BYTES)
    available, raw = read_classes(work / "raw"), read_split(work / "raw", "train")
    label_sets = LabelSets.of_task(parameters().folder.tasks[TASK], available, "folder", TASK)
    size = stored_size([raw], available, label_sets.classes, None)
    write_split(plan_split([raw], available, label_sets.classes, 0.0, 0), size, work / "trainval")
    label_sets.write(work / "trainval")
    split, augmentation = PreparedSplit.read(work / "trainval"), parameters().folder.augmentation
    views = ViewSettings(VIEWS, augmentation.crop, augmentation.flip, data_seed=0)
    write_targets(work / "targets", split, label_sets, untrained_teachers(split, label_sets), views, "covering")


def untrained_teachers(split: PreparedSplit, label_sets: LabelSets) -> dict[str, Classifier]:
    """What a teacher costs does not depend on what it has learnt."""
    torch.manual_seed(0)
    height, width = split.images.shape[1:3]
    preprocessing = Preprocessing((height, width), *channel_statistics(split.images, np.arange(len(split.images))))
    return {
        name: Classifier("ReferenceCNN", build_network("ReferenceCNN", len(classes)), classes, preprocessing, weights_sha256="untrained")
        for name, classes in label_sets.teachers.items()
    }
