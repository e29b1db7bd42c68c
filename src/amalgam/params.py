"""The whole of ``params.yaml`` and what its parts ask of each other. ``params_file.py`` reads it."""

from typing import Annotated, Any, Literal

from pydantic import Field, create_model, model_validator
from pydantic.fields import FieldInfo

from amalgam.contradictions import contradiction
from amalgam.source_settings import Cifar100, Digits, Folder, Gdrive, Source
from amalgam.student_settings import Section, StudentSettings


class TeacherSettings(Section):
    """How a teacher is trained where no weights are supplied."""

    resolution: int | None = Field(
        ge=8,
        le=1024,
        description="Side in pixels of the square to which teachers resize their input; null keeps the stored size.",
    )
    lr: float = Field(gt=0, le=10, description="Peak learning rate of the teachers (AdamW, one cycle).")
    batch_size: int = Field(ge=2, le=65536, description="Images a step.")
    num_epochs: int = Field(
        ge=1, le=100000, description="Passes over a teacher's training images. Raise it for stronger teachers; lower it to save time."
    )
    weight_decay: float = Field(ge=0, le=10, description="Decoupled weight decay. Raise it when the teachers over-fit.")
    label_smoothing: float = Field(
        ge=0,
        lt=1,
        description="Share of the label spread over all classes, from 0 to below 1. It can raise the teachers' accuracy, but "
        "flattens what they say about similar classes.",
    )
    mixup: float = Field(
        ge=0,
        le=10,
        description="Strength of mixing each training image with another (Beta distribution's parameter, usually 0.1 to 0.4), "
        "0 for none. Raise it when the teachers over-fit; lower it when training is short.",
    )
    seed: int = Field(
        ge=0,
        le=2**32 - 1,
        description="Random seed of the teachers: initial weights, order, augmentation, dropout; each starts from the same.",
    )


class EvaluationSettings(Section):
    """What ``evaluate`` looks at in place of the trained students."""

    checkpoint: dict[str, str | None] = Field(
        description="For each task, a file of weights to evaluate instead of the student trained here: a student's .safetensors, or a "
        ".pth state dict as published; null for the trained one. A relative path counts from the repository root; one below fetched/ "
        "names a file that fetch brought. After changing the file under the same name: dvc repro --force --single-item weights."
    )
    resolution: int = Field(
        ge=16,
        le=1024,
        description="Side in pixels to which the input of such a student is resized, where no student.json beside the file says it.",
    )


def _optional(field: FieldInfo) -> tuple[Any, Any]:
    """The same field, where null means that the global value holds."""
    kind: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return (kind | None, Field())


_OPTIONAL: Any = {name: _optional(field) for name, field in StudentSettings.model_fields.items()}
Overrides: type[Section] = create_model("Overrides", __base__=Section, **_OPTIONAL)


class Params(StudentSettings):
    """The whole of ``params.yaml``; ``tasks`` collects the blocks ``taskA``, ``taskB``, …"""

    source: Literal["digits", "cifar100", "folder", "gdrive"] = Field(
        description="Where the images come from: digits (scikit-learn's handwritten digits, no download), cifar100 "
        "(downloaded), folder (your own images) or gdrive (the reference system's published archives). Its settings stand in the block "
        "of its name."
    )
    data_seed: int = Field(
        ge=0, le=2**32 - 1, description="Random seed of the validation split, of the views, and of which labels label_fraction shows."
    )
    val_fraction: float = Field(
        ge=0,
        lt=1,
        description="Share of the training images, stratified by class, held out to choose the best epoch (a student's, where at most 500 "
        "choose or label_fraction is below 1, is the latest within one standard error of the best); 0 trains on all of them and takes "
        "the last epoch.",
    )
    teacher: TeacherSettings
    digits: Digits
    cifar100: Cifar100
    folder: Folder
    gdrive: Gdrive
    evaluate: EvaluationSettings
    overrides: Overrides
    tasks: dict[str, Overrides]

    @property
    def source_block(self) -> Source:
        block: Source = getattr(self, self.source)
        return block

    @property
    def preparation(self) -> dict[str, Any]:
        """What prepared images depend on, beside their classes."""
        names = ("source", "data_seed", "val_fraction")
        return {name: getattr(self, name) for name in names} | {"resolution": self.source_block.resolution}

    @property
    def task_names(self) -> list[str]:
        return list(self.source_block.tasks)

    def student(self, task: str) -> StudentSettings:
        """The settings of one task: its own where given, else the global ones."""
        own = self.tasks[task].model_dump(exclude_none=True)
        common = {name: getattr(self, name) for name in StudentSettings.model_fields}
        return StudentSettings.model_validate(common | own)

    @model_validator(mode="after")
    def _overrides_only_lists_keys(self) -> "Params":
        for name in self.overrides.model_dump(exclude_none=True):
            raise ValueError(f"overrides.{name} must stay null, it only lists the keys; set {name} itself, or in a task's block")
        return self

    @model_validator(mode="after")
    def _tasks_agree(self) -> "Params":
        blocks, defined = set(self.tasks), set(self.source_block.tasks)
        for name in sorted(defined - blocks):
            raise ValueError(f"{self.source}.tasks.{name} has no block '{name}:' for its settings; add one like taskA's")
        for name in sorted(blocks - defined):
            raise ValueError(f"the block '{name}:' has no teachers; add {self.source}.tasks.{name}")
        return self

    @model_validator(mode="after")
    def _settings_suit_each_other_and_the_teachers(self) -> "Params":
        for task, teachers in self.source_block.tasks.items():
            if problem := contradiction(teachers, self.student(task)):
                raise ValueError(f"{task}: {problem}")
        return self

    @model_validator(mode="after")
    def _checkpoints_belong_to_tasks(self) -> "Params":
        for task, named in self.evaluate.checkpoint.items():
            if named is not None and task not in self.tasks:
                raise ValueError(f"evaluate.checkpoint.{task}: there is no such task; the tasks are {', '.join(self.tasks)}")
        return self
