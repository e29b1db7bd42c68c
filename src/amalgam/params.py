"""The one definition of every parameter: names, types, ranges and what they mean. ``params_file.py`` reads them."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, create_model, model_validator
from pydantic.fields import FieldInfo

STUDENTS = ("MobileNetV3", "EfficientNet", "ResNet18")
TIMM = "timm/"
TORCHVISION = "torchvision/"
SHA256 = r"^[0-9a-f]{64}$"

Target = Literal["mean", "blocks", "joint", "confidence", "stacked", "balanced"]
FITTED_TARGETS = ("stacked", "balanced")  # to all teachers' answers, before training
Objective = Literal["kl", "dkd", "dist"]
OptimizerName = Literal["adam", "adamw", "sgd"]
SchedulerName = Literal["step", "cosine", "one_cycle"]


def _distinct(names: list[str]) -> list[str]:
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ValueError(f"named twice: {', '.join(repeated)}")
    return names


def _known_model(name: str) -> str:
    if name not in STUDENTS and not name.startswith(TIMM):
        raise ValueError(f"'{name}' is refused: it should be {', '.join(STUDENTS)} or {TIMM} and a name of timm's")
    return name


StudentModel = Annotated[str, AfterValidator(_known_model)]
TeacherName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][\w+.-]*$", max_length=60)]
ClassName = Annotated[str, StringConstraints(min_length=1)]
Classes = Annotated[list[ClassName], Field(min_length=2), AfterValidator(_distinct)]
Teachers = Annotated[dict[TeacherName, Classes], Field(min_length=1)]
Tasks = Annotated[dict[str, Teachers], Field(min_length=1)]


class Section(BaseModel):
    """A block of ``params.yaml``: exactly these keys, never changed after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class StudentSettings(Section):
    """What makes a student from prepared images and teachers; each task may override any of these keys."""

    student_model: StudentModel = Field(
        description="Student architecture: MobileNetV3 (small; 1.3 M parameters, the fastest), EfficientNet (B0; 4 M), ResNet18 "
        "(11 M), or timm/ and a name of that library, as timm/tf_efficientnet_lite0. Larger ones are more accurate with enough "
        "images and epochs, and slower."
    )
    pretrained: bool = Field(
        description="true starts from published ImageNet weights (downloaded once) or from student_weights, false from random "
        "weights. Prefer true for photographs, false where the images look nothing like photographs or a comparison must be from "
        "scratch."
    )
    student_weights: str | None = Field(
        min_length=1,
        description="A file of weights to start from instead of the published ones: .safetensors or a PyTorch state dict of the "
        "student's architecture, of any number of classes (the head starts anew); a relative path counts from the repository root. "
        "After changing the file under the same name: dvc repro --force --single-item weights.",
    )
    student_resolution: int = Field(
        ge=16,
        le=1024,
        description="Side in pixels of the square to which the student resizes its input, 16 to 1024. Raise it for fine "
        "detail; lower it for speed: the cost grows with its square.",
    )
    alpha: float = Field(
        ge=0,
        le=1,
        description="Weight of the teachers in the loss of a labelled image, 0 to 1, usually 0.1 to 0.7: 0 learns from labels only, 1 from "
        "teachers only. "
        "Raise it to lean on good teachers or when over-fitting; lower it where the teachers may be wrong. Above 0, images without "
        "label are learnt from the teachers alone.",
    )
    temperature: float = Field(
        ge=0.01,
        le=100,
        description="Softness of the teachers' distributions, 0.01 to 100, usually 1 to 10. Raise it to emphasise relations "
        "between classes; lower it for more confident targets.",
    )
    target: Target = Field(
        description="What the student learns from the teachers of an image. blocks: each teacher's distribution, inside its own classes; "
        "how one teacher's compare with another's, labels or shared classes must tell. mean: the mean of their distributions, "
        "padded with zeros to all classes. confidence: the same, weighted by how sure each teacher is, for images without "
        "label. joint: the one distribution over all classes that agrees best with them. stacked: what a linear classifier, "
        "fitted on the labelled images, makes of all teachers' logits (needs stored_teachers all and some labels). balanced: "
        "joint, with each class weighed so that all are equally frequent over the training images, for images that show every "
        "class about equally often (needs stored_teachers all; temperature 1)."
    )
    objective: Objective = Field(
        description="How the distance to the target is measured. kl: Kullback-Leibler divergence. dkd: its part about the image's "
        "class and its part about the others, weighted apart. dist: correlation within images and within classes."
    )
    standardize_logits: bool = Field(
        description="true brings the logits of teachers and student to the same mean and spread before they are compared (inside "
        "each teacher's classes), so that only relations count, not how sure a network is. Try it with a temperature around 2."
    )
    confidence_temperature: float = Field(
        gt=0,
        le=100,
        description="Under target confidence, how evenly the teachers of an image are weighted: raise it towards equal weights, "
        "lower it, to 0.1 say, to follow the surest one.",
    )
    label_fraction: float = Field(
        ge=0,
        le=1,
        description="Share of the labelled training images, stratified by class, whose label the student may use. The others are "
        "learnt from all teachers, whether they know the class or not (below 1 needs stored_teachers all). Lower it to see what labels "
        "are worth, not because some images have none; at 0 no label is used at all.",
    )
    label_smoothing: float = Field(
        ge=0,
        lt=1,
        description="Share of a label that is spread over all classes, from 0 to below 1. Raise it, to 0.1 say, when over-fitting.",
    )
    mixup: float = Field(
        ge=0,
        le=10,
        description="Strength of mixing each image with another of the batch (Beta distribution's parameter, usually 0.1 to 1), 0 "
        "for none. Raise it when over-fitting and for long trainings.",
    )
    lr: float = Field(
        gt=0,
        le=10,
        description="Learning rate (the peak under scheduler one_cycle), usually 0.0001 to 0.01. Raise it if progress is "
        "slow; lower it if the validation accuracy fluctuates or the loss diverges.",
    )
    batch_size: int = Field(
        ge=2,
        le=65536,
        description="Images a step, usually 16 to 128. Raise it for smoother gradients where memory allows (and lr with it); "
        "lower it for more steps an epoch on few images.",
    )
    num_epochs: int = Field(
        ge=1,
        le=100000,
        description="Passes over the training images, usually 30 to 200. Raise it if the accuracy still climbs at the end; lower it to "
        "save time.",
    )
    weight_decay: float = Field(
        ge=0,
        le=10,
        description="Strength of weight decay: an L2 penalty under optimizer adam (usually 0.0001 to 0.001), decoupled under "
        "adamw (0.01 to 0.1). Raise it when over-fitting; lower it when under-fitting.",
    )
    optimizer: OptimizerName = Field(
        description="adam (with L2 penalty, as in the classic recipe), adamw (decoupled weight decay, usually better) or sgd "
        "(Nesterov momentum 0.9, L2 penalty; lr then around 0.05). Under one_cycle momentum, and Adam's first beta, go from 0.95 to 0.85 "
        "and back while lr rises and falls."
    )
    scheduler: SchedulerName = Field(
        description="step multiplies lr by scheduler_gamma every scheduler_step epochs; cosine falls from lr to zero by the last "
        "epoch; one_cycle warms up to lr over 30 % of the steps first, which usually wins when num_epochs is fixed beforehand."
    )
    warmup_epochs: float = Field(
        ge=0,
        le=1000,
        description="Epochs over which lr rises to its value under step and cosine; one_cycle has its own. Raise it, to a few, "
        "when the loss diverges at the start.",
    )
    scheduler_step: int = Field(
        ge=1,
        le=100000,
        description="Epochs between drops of lr under scheduler step, usually 10 to 50. Raise it for a later, more gradual decay.",
    )
    scheduler_gamma: float = Field(
        gt=0,
        le=1,
        description="Factor of each drop of lr under scheduler step, above 0 up to 1, usually 0.1 to 0.9. Raise it for a slower decay.",
    )
    ema_decay: float = Field(
        ge=0,
        lt=1,
        description="Decay of the running average of the weights that is validated and kept, as 0.999; 0 keeps the weights "
        "themselves. Of use where lr stays high; under one_cycle the last epochs average by themselves.",
    )
    clip_norm: float | None = Field(
        gt=0,
        description="Longest gradient, as the norm over all weights; longer ones are shortened to it. null for no limit. Set it, "
        "to 1 say, when the loss jumps.",
    )
    seed: int = Field(
        ge=0,
        le=2**32 - 1,
        description="Random seed of the student: initial weights, order of images, dropout. Vary it to see how much of a "
        "difference is chance.",
    )
    run: str = Field(
        max_length=100,
        description="Optional suffix of the MLflow run's name. It changes no result, but a new name is a new run.",
    )
    views: int = Field(
        ge=0,
        le=10000,
        description="Augmented views of each image on which the teachers are run beforehand; epoch e uses view e mod views (each a "
        "new one at alpha 0). Raise it, up to num_epochs, against over-fitting; lower it to save the teachers' time; 0 shows "
        "every image as it is.",
    )
    view_zoom: float = Field(
        gt=0,
        le=1,
        description="Smallest share of an image's area that a view may show, enlarged to full size; 1 shows all of it. Lower it, "
        "to 0.5 say, against over-fitting, where a part of an object still tells its class.",
    )
    view_colour: float = Field(
        ge=0,
        le=1,
        description="How much brightness, contrast and saturation of a view may change, 0 to 1; 0.4 is strong. Raise it against "
        "over-fitting, where colour does not tell the class.",
    )
    stored_teachers: Literal["covering", "all"] = Field(
        description="covering stores, for each image, the logits of the teachers that know its class (cheap); all stores every teacher's."
    )


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
    seed: int = Field(ge=0, le=2**32 - 1, description="Random seed of the teachers: initial weights, order, augmentation, dropout.")


class Augmentation(Section):
    """Which changes of an image keep its class: a property of the images, hence part of the source."""

    crop: int = Field(
        ge=0,
        le=512,
        description="Largest shift of a view in each direction, in pixels of the stored image, usually an eighth of its side; 0 for none.",
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
        description="A folder, .zip or .tar.* of train/<class>/* and test/<class>/*; a relative path counts from the repository root.",
    )
    sha256: str | None = Field(pattern=SHA256, description="Hash that the archive must have (sha256sum prints it); null accepts any.")
    max_gigabytes: float = Field(gt=0, description="Refuse to unpack more than this many gigabytes: raise it for larger data sets.")


class GdriveFetch(Section):
    data: str = Field(
        min_length=1,
        description="Where the archive of images is, in the published layout: a link to Google Drive, another http address, or a path "
        "(a folder or an archive; a relative one counts from the repository root).",
    )
    data_sha256: str | None = Field(pattern=SHA256, description="Hash that it must have; null accepts any, and says which line pins it.")
    models: str | None = Field(min_length=1, description="The same for the archive of published weights; null to do without it.")
    models_sha256: str | None = Field(pattern=SHA256, description="The same for its hash.")
    max_gigabytes: float = Field(gt=0, description="Refuse to unpack more than this many gigabytes of either.")


def _known_architecture(name: str) -> str:
    if name not in (*STUDENTS, "ReferenceCNN") and not name.startswith((TIMM, TORCHVISION)):
        raise ValueError(f"'{name}' is refused: it should be {TORCHVISION} or {TIMM} and a name there, ReferenceCNN, or null for a program")
    return name


Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


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
    classes: Classes | None = Field(None, description="In the order of its outputs, where that is not the order in tasks.")
    resolution: int = Field(ge=8, le=1024, description="Side in pixels of its input.")
    mean: Channels | None = Field(
        description="A channel, of pixels scaled to 0 … 1, as in its training; null, and for std too, for those of its classes' images."
    )
    std: Channels | None = Field(description="Likewise.")
    min_accuracy: float = Field(
        ge=0,
        le=100,
        description="In percent, on the validation images of its classes; below it, it is refused. Where no training image of its "
        "classes has a label, only 0 takes it, as it is.",
    )
    trained_elsewhere: bool = Field(False, description="Whether none of these images was in its training.")

    @model_validator(mode="after")
    def _program_or_state_dict(self) -> "SuppliedTeacher":
        if self.weights.endswith(".pt2") == (self.architecture is not None):
            raise ValueError("a .pt2 program has no architecture, every other file needs one")
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std belong together: give both, or null for both")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std {self.std} must be above 0")
        return self


Supplied = dict[str, dict[TeacherName, SuppliedTeacher]]


class Source(Section):
    """What each source's block holds beside its own way to fetch."""

    resolution: int | None = Field(
        ge=4,
        le=1024,
        description="Side in pixels of the square in which images are stored (shorter side resized, centre kept); null keeps "
        "the native size if all images share one, else stores 64 pixels.",
    )
    augmentation: Augmentation
    tasks: Tasks = Field(description="For each task, the teachers by name, each with the classes it knows. Quote a class named null.")
    supplied: Supplied = Field(
        description="Teachers that you bring instead of having them trained: for each task, by name, the file and how it sees images, "
        "as README.md shows."
    )

    @model_validator(mode="after")
    def _supplied_teachers_have_a_place(self) -> "Source":
        for task, teachers in self.supplied.items():
            for name, given in teachers.items():
                known = self.tasks.get(task, {}).get(name)
                if known is None:
                    raise ValueError(f"supplied.{task}.{name}: there is no such teacher in tasks; add {task}.{name} there with its classes")
                if given.classes and set(given.classes) != set(known):
                    raise ValueError(
                        f"supplied.{task}.{name}.classes are {', '.join(given.classes)}, but tasks says {', '.join(known)}; "
                        "name the same ones"
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


class Evaluation(Section):
    """What ``evaluate`` looks at in place of the trained students."""

    checkpoint: dict[str, str | None] = Field(
        description="For each task, a file of weights to evaluate instead of the student trained here: a student's .safetensors, or a "
        ".pth state dict as published; null for the trained one. A relative path counts from the repository root, below fetched/ from "
        "what fetch brought. After changing the file under the same name: dvc repro --force --single-item weights."
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
    data_seed: int = Field(ge=0, le=2**32 - 1, description="Random seed of the validation split and of the views.")
    val_fraction: float = Field(
        ge=0,
        lt=1,
        description="Share of the training images, stratified by class, held out to choose the best epoch; 0 trains on all "
        "of them and takes the last epoch.",
    )
    teacher: TeacherSettings
    digits: Digits
    cifar100: Cifar100
    folder: Folder
    gdrive: Gdrive
    evaluate: Evaluation
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
    def _each_task_has_what_it_needs(self) -> "Params":
        for task in self.tasks:
            problem = impossible(self.student(task))
            if problem:
                raise ValueError(f"{task}: {problem}")
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
    def _something_relates_the_teachers(self) -> "Params":
        for task, teachers in self.source_block.tasks.items():
            settings = self.student(task)
            needed = 2 if settings.standardize_logits or settings.objective == "dist" else 1
            no_label = settings.alpha == 1 or settings.label_fraction == 0
            if settings.target == "blocks" and no_label and (alone := separate(teachers, needed)):
                reason = "alpha 1" if settings.alpha == 1 else "label_fraction 0"
                lacking = "no class" if needed == 1 else "fewer than two classes (one does not fix how far apart logits are)"
                raise ValueError(
                    f"{task}: target blocks says nothing of one teacher's classes beside another's; {alone} share {lacking} with the "
                    f"others, and with {reason} no label says it either; choose another target, as mean or balanced, or use labels too"
                )
        return self

    @model_validator(mode="after")
    def _standardized_logits_say_something(self) -> "Params":
        for task, teachers in self.source_block.tasks.items():
            settings, pair = self.student(task), next((name for name, classes in teachers.items() if len(classes) == 2), None)
            if settings.standardize_logits and settings.alpha > 0 and pair:
                raise ValueError(
                    f"{task}: standardize_logits makes the same numbers of any two logits, and {pair} knows two classes; set it to false"
                )
        return self

    @model_validator(mode="after")
    def _checkpoints_belong_to_tasks(self) -> "Params":
        for task, named in self.evaluate.checkpoint.items():
            if named is not None and task not in self.tasks:
                raise ValueError(f"evaluate.checkpoint.{task}: there is no such task; the tasks are {', '.join(self.tasks)}")
        return self


def separate(teachers: Mapping[str, Sequence[str]], needed: int = 1) -> str | None:
    """Teachers, by name, whose classes no ``needed`` shared ones connect with the first one's, by however many others; None if there are
    none."""
    waiting = dict(teachers)
    reached = set(waiting.pop(next(iter(waiting))))
    while near := [name for name, classes in waiting.items() if len(reached & set(classes)) >= needed]:
        for name in near:
            reached |= set(waiting.pop(name))
    return ", ".join(waiting) or None


def impossible(settings: StudentSettings) -> str | None:
    """What in these settings contradicts itself, and the remedy."""
    if settings.student_weights and not settings.pretrained:
        return (
            f"student_weights {settings.student_weights} is of no use with pretrained false; set that to true, or this to null (a task's "
            "null takes the value of all tasks: name the file in the block of the task that starts from it)"
        )
    if settings.label_fraction < 1 and settings.alpha > 0 and settings.stored_teachers != "all":
        return (
            f"label_fraction {settings.label_fraction:g} learns unlabelled images from all teachers, but stored_teachers is "
            f"{settings.stored_teachers}; set stored_teachers to all, or label_fraction to 1"
        )
    if settings.target == "stacked" and settings.alpha > 0 and (settings.stored_teachers != "all" or settings.label_fraction == 0):
        return (
            "target stacked learns from labels how all teachers belong together, but stored_teachers is "
            f"{settings.stored_teachers} and label_fraction {settings.label_fraction:g}; set the first to all, the second above 0"
        )
    if settings.target == "balanced" and settings.alpha > 0 and settings.stored_teachers != "all":
        return f"target balanced compares what all teachers say, but stored_teachers is {settings.stored_teachers}; set it to all"
    if settings.label_fraction == 0 and settings.alpha == 0:
        return "label_fraction 0 with alpha 0 leaves nothing to learn from; raise one of them"
    return None
