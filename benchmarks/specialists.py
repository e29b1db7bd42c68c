"""Teachers that are fine-tuned classifiers, as users bring them, in place of the reference CNNs that the pipeline trains.

Each is a student of its own classes' labels alone: network, weights to start from, pixels and recipe are the protocol's block ``teacher``.
"""

from pathlib import Path

import numpy as np

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.distilling import train_student
from amalgam.models import save_classifier
from amalgam.optimization import Optimization
from amalgam.places import TEACHER_MANIFEST
from amalgam.source_settings import Augmentation
from amalgam.student_settings import StudentSettings
from amalgam.students import Architecture, new_student
from amalgam.targets import StoredTargets, ViewSettings
from amalgam.teachers import OwnImages
from amalgam.teaching import Teaching
from amalgam.transfer_set import TransferSet


def finetune(own: OwnImages, settings: StudentSettings, start: Architecture, augmentation: Augmentation, folder: Path) -> None:
    """Train such a teacher into ``folder``, which is then as in models/."""
    images = PreparedSplit(own.images[np.arange(len(own.labels))], own.labels, own.validation, (), own.content)
    classes = LabelSets(own.classes, {"itself": own.classes})
    alone = StoredTargets(Path(), ViewSettings.of(settings, augmentation, settings.seed), settings.stored_teachers)
    teacher = new_student(start, classes, images, settings.seed)
    result = train_student(teacher, TransferSet.of(classes, images, alone, Teaching.of(settings)), Optimization.of(settings))
    teacher.network.load_state_dict(result.best)
    details = {"origin": "fine-tuned", "settings": settings.model_dump(), "epoch": result.best_record.epoch}
    save_classifier(teacher, folder / "weights.safetensors", folder / TEACHER_MANIFEST, details)
