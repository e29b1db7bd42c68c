"""What a student learns from, which the field calls the transfer set (Hinton et al., 2015): images, labels and the teachers' answers."""

from dataclasses import dataclass
from functools import cached_property

from amalgam.batches import steps_per_epoch
from amalgam.combination import FittedTarget
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.fitting import fitted_target
from amalgam.targets import StoredTargets
from amalgam.teaching import Teaching, TrainingSubset


@dataclass(frozen=True)
class TransferSet:
    """One task's, as the settings in ``teaching`` use it."""

    label_sets: LabelSets
    split: PreparedSplit
    targets: StoredTargets
    teaching: Teaching
    subset: TrainingSubset

    @classmethod
    def of(cls, label_sets: LabelSets, split: PreparedSplit, targets: StoredTargets, teaching: Teaching) -> "TransferSet":
        """Raises UserError where images and stored targets are not what these settings learn from."""
        return cls(label_sets, split, targets, teaching, TrainingSubset.of(split, label_sets, targets, teaching))

    @cached_property
    def fitted(self) -> FittedTarget | None:
        """The target, fitted to the teachers' answers, where it is one that is."""
        return fitted_target(self.label_sets, self.targets, self.subset, self.teaching) if self.teaching.is_fitted else None

    @property
    def steps_per_epoch(self) -> int:
        return steps_per_epoch(len(self.subset.image_rows), self.teaching.batch_size)
