"""What makes a student from prepared images and teachers: names, types, ranges and what they mean."""

from dataclasses import fields
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from amalgam.target_names import Objective, Target

STUDENTS = ("MobileNetV3", "EfficientNet", "ResNet18")
TIMM = "timm/"

OptimizerName = Literal["adam", "adamw", "sgd"]
SchedulerName = Literal["step", "cosine", "one_cycle"]
StoredTeachers = Literal["covering", "all"]


def _known_model(name: str) -> str:
    if name not in STUDENTS and not name.startswith(TIMM):
        raise ValueError(f"'{name}' is refused: it should be {', '.join(STUDENTS)} or {TIMM} and a name of timm's")
    return name


StudentModel = Annotated[str, AfterValidator(_known_model)]


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
        description="Weight of the teachers in the loss of a labelled image, 0 to 1, usually 0.1 to 0.7: 0 learns from labels only, "
        "1 from teachers only. Raise it to lean on good teachers or when over-fitting; lower it where the teachers may be wrong. "
        "Images without label are learnt from the teachers alone, and left out at 0; where none has one (label_fraction 0), any other "
        "alpha is as good as 1.",
    )
    temperature: float = Field(
        ge=0.1,
        le=100,
        description="Softness of the teachers' distributions, 0.1 to 100, usually 1 to 10. Raise it to emphasise relations "
        "between classes; lower it for more confident targets. The teachers' part of the loss is multiplied by its square.",
    )
    target: Target = Field(
        description="What the student learns from the teachers of an image. blocks: each teacher's distribution, inside its own "
        "classes; how the classes of different teachers compare must follow from labels (alpha below 1) or, for images without "
        "label, from shared classes. mean: the mean of their distributions, padded with zeros to all classes. confidence: the same, "
        "weighted by how sure each teacher is, meant for images without label. joint: the one distribution over all classes that "
        "agrees best with them; to classes that none of an image's teachers knows it gives an average share, so it is meant for "
        "images without label, of which all teachers are asked. stacked: what a linear classifier, fitted on the labelled images, "
        "makes of all teachers' logits (needs stored_teachers all and some labels). balanced: joint, raised to the power of 4 over "
        "the temperature, with each class weighed so that all are equally frequent over the training images, for images that show every "
        "class about equally often (needs stored_teachers all; measured with temperature 1)."
    )
    objective: Objective = Field(
        description="How the distance to the target is measured. kl: Kullback-Leibler divergence. dkd: its part about the image's "
        "class and its part about the others, weighted apart. dist: correlation within images and within classes."
    )
    standardize_logits: bool = Field(
        description="true brings the logits of teachers and student to the same mean and spread before they are compared (under "
        "target blocks inside each teacher's classes, under stacked over all; the others cannot be so compared), so that "
        "only relations count, not how sure a network is. Try it with a temperature around 2."
    )
    confidence_temperature: float = Field(
        ge=0.001,
        le=100,
        description="Under target confidence, how evenly the teachers of an image are weighted: raise it towards equal weights, "
        "lower it, to 0.1 say, to follow the surest one.",
    )
    label_fraction: float = Field(
        ge=0,
        le=1,
        description="Share of the labelled training images, stratified by class, whose label the student may use. The others are, at "
        "alpha above 0, learnt from all teachers, whether they know the class or not (below 1 needs stored_teachers all). Lower it "
        "to see what labels are worth, not because some images have none; at 0 none is used in training. Set it to 0 where no training "
        "image has a label.",
    )
    label_smoothing: float = Field(
        ge=0,
        lt=1,
        description="Share of a label that is spread over all classes, from 0 to below 1. Raise it, to 0.1 say, when over-fitting. Where "
        "no label is learnt from (alpha 1, or label_fraction 0) it has no effect.",
    )
    mixup: float = Field(
        ge=0,
        le=10,
        description="Strength of mixing each image with another of the batch (Beta distribution's parameter, usually 0.1 to 1), 0 "
        "for none. Teachers are not run on mixed images: their logits for the two originals are used. Raise it when over-fitting and "
        "for long trainings.",
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
        description="Epochs over which lr rises to its value under step and cosine; one_cycle has its own (then 0 here). Raise it, to "
        "a few, when the loss diverges at the start.",
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
        description="Decay of the running average of the weights that is validated and kept, as 0.99, and at most (1 + n) / (10 + n) "
        "after n steps, which reaches 0.99 at the 890th step and 0.999 at the 8,990th. 0 keeps the weights themselves. Of use where lr "
        "stays high; under one_cycle the last epochs average by themselves.",
    )
    clip_norm: float | None = Field(
        gt=0,
        description="Largest norm of the gradient over all weights; a larger one is scaled down to it. null for no limit. Set it, to 1 "
        "say, when the loss jumps.",
    )
    compile: bool = Field(
        description="true trains with PyTorch's compiler, which takes about a minute before the first step for each of an epoch's one or "
        "two sizes of batch and needs a C++ compiler on the machine (on a GPU a C compiler and Python's headers). Results differ as with "
        "another seed. On a CPU it gains little; on a GPU, where it was not measured, it takes more memory and should pay most for a small "
        "student in small batches. One process only."
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
        description="Number of augmented views of each image; the teachers' logits for all of them are computed before training, and "
        "epoch e uses view e mod views (at alpha 0 each epoch has new ones). Raise it, up to num_epochs, against over-fitting; lower "
        "it to save the teachers' time; 0 shows every image as it is.",
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
    stored_teachers: StoredTeachers = Field(
        description="covering stores, for each image, the logits of the teachers that know its class (cheap; of an image without label "
        "every teacher's); all stores every teacher's, which targets stacked and balanced and a label_fraction below 1 need."
    )

    def shared_with(self, kind: type) -> dict[str, Any]:
        """The settings that a dataclass has under the same names."""
        return {field.name: getattr(self, field.name) for field in fields(kind) if field.name in type(self).model_fields}
