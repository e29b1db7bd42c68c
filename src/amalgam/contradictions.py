"""Settings that contradict each other, or lack what they need of each other: each with the reason and the remedy."""

from collections.abc import Collection, Mapping, Sequence

from amalgam.student_settings import StudentSettings
from amalgam.target_names import Objective


def contradiction(teachers: Mapping[str, Sequence[str]], settings: StudentSettings) -> str | None:
    """What in these settings contradicts itself, or the label sets of these ``teachers``, and the remedy."""
    return impossible(settings) or unrelated(teachers, settings) or incomparable(teachers, settings) or too_few_classes(teachers, settings)


def impossible(settings: StudentSettings) -> str | None:
    """What in these settings contradicts itself, and the remedy."""
    if settings.student_weights and not settings.pretrained:
        return (
            f"student_weights {settings.student_weights} is of no use with pretrained false; set pretrained to true, or student_weights to "
            "null (in a task's block null takes the value of all tasks: name the file in the block of the task that starts from it)"
        )
    if settings.label_fraction < 1 and settings.alpha > 0 and settings.stored_teachers != "all":
        return (
            f"label_fraction {settings.label_fraction:g} learns unlabelled images from all teachers, but stored_teachers is "
            f"{settings.stored_teachers}; set stored_teachers to all, or label_fraction to 1"
        )
    if settings.target == "stacked" and settings.alpha > 0 and (lacking := _not_stackable(settings)):
        return f"target stacked learns from labels how all teachers belong together, but {lacking}"
    if settings.target == "balanced" and settings.alpha > 0 and settings.stored_teachers != "all":
        return f"target balanced compares what all teachers say, but stored_teachers is {settings.stored_teachers}; set it to all"
    if settings.label_fraction == 0 and settings.alpha == 0:
        return "label_fraction 0 with alpha 0 leaves nothing to learn from; raise one of them"
    return _idle_views(settings) or _idle_warm_up(settings)


def _not_stackable(settings: StudentSettings) -> str | None:
    """What target stacked lacks, and the remedy."""
    others, none = settings.stored_teachers != "all", settings.label_fraction == 0
    if others and none:
        return f"stored_teachers is {settings.stored_teachers} and label_fraction 0; set the first to all, the second above 0"
    if others:
        return f"stored_teachers is {settings.stored_teachers}; set it to all"
    return "label_fraction is 0; raise it, or choose target joint or balanced" if none else None


def _idle_views(settings: StudentSettings) -> str | None:
    for name, without in (("view_zoom", 1.0), ("view_colour", 0.0)):
        if settings.views == 0 and (value := getattr(settings, name)) != without:
            return f"{name} {value:g} has no effect with views 0, which shows every image as it is; set it to {without:g}, or raise views"
    return None


def _idle_warm_up(settings: StudentSettings) -> str | None:
    if settings.warmup_epochs > 0 and settings.scheduler == "one_cycle":
        return (
            f"warmup_epochs {settings.warmup_epochs:g} has no effect under scheduler one_cycle, which has a warm-up of its own; set it to "
            "0, or scheduler to step or cosine"
        )
    if settings.warmup_epochs >= settings.num_epochs:
        return (
            f"with warmup_epochs {settings.warmup_epochs:g} of num_epochs {settings.num_epochs} lr never reaches its value; lower the first"
        )
    if settings.scheduler == "step" and settings.warmup_epochs >= settings.scheduler_step:
        return (
            f"with warmup_epochs {settings.warmup_epochs:g} and scheduler_step {settings.scheduler_step} lr would drop before it has "
            "reached its value; lower the first, or raise the second"
        )
    return None


def unrelated(teachers: Mapping[str, Sequence[str]], settings: StudentSettings) -> str | None:
    """Under target blocks, the teachers whose classes nothing relates to the others', and the remedy; None if all are related, so far as
    can be said without the images."""
    if settings.target != "blocks" or (settings.alpha < 1 and settings.label_fraction > 0):
        return None
    needed = classes_that_relate(settings.objective, settings.standardize_logits)
    reason = "alpha 1" if settings.alpha == 1 else "label_fraction 0"
    if alone := separate(teachers, needed):
        return (
            f"target blocks says nothing of one teacher's classes beside another's; {alone} share {_lacking(needed)} with the others, and "
            f"with {reason} no label says it either; choose another target, as mean or balanced, or use labels too"
        )
    return None


def classes_that_relate(objective: Objective, standardize_logits: bool) -> int:
    """How many classes two teachers must share so that, each compared inside its own, they say how theirs stand to each other."""
    return 2 if standardize_logits or objective == "dist" else 1


def _lacking(needed: int) -> str:
    return "no class" if needed == 1 else "fewer than two classes (one does not fix how far apart logits are)"


def untold(teachers: Mapping[str, Sequence[str]], needed: int) -> str | None:
    """What target blocks with alpha 1 leaves untold where every training image has its label, so that only teachers that know its class
    are asked, and the remedy; None if it is nothing.

    ``needed`` as of ``classes_that_relate``.
    """
    remedy = "choose another target, as joint or mean, or an alpha below 1"
    for own in dict.fromkeys(name for classes in teachers.values() for name in classes):
        asked = {name: classes for name, classes in teachers.items() if own in classes}
        heard = f"target blocks with alpha 1 asks of an image of {own} the teachers alone that know it, and"
        known = {name for classes in asked.values() for name in classes}
        if foreign := next((name for classes in teachers.values() for name in classes if name not in known), None):
            return f"{heard} none of them knows {foreign}; {remedy}"
        if alone := separate(asked, needed):
            return f"{heard} of these {alone} share {_lacking(needed)} with the others; {remedy}"
    return None


def too_few_classes(teachers: Mapping[str, Sequence[str]], settings: StudentSettings) -> str | None:
    """Whose logits say nothing once they are standardised or correlated: those of two classes are then always the same; and the remedy."""
    if settings.alpha == 0:
        return None
    union = {"the task": {name for classes in teachers.values() for name in classes}}
    problem = "makes the same numbers of any two logits, and {} has two classes"
    standardized = _of_two_classes(union if settings.target == "stacked" else teachers)
    if settings.standardize_logits and standardized:
        return f"standardize_logits {problem.format(standardized)}; set it to false"
    correlated = _of_two_classes(teachers if settings.target == "blocks" else union)
    if settings.objective == "dist" and (settings.alpha == 1 or settings.label_fraction == 0) and correlated:
        return f"objective dist {problem.format(correlated)}; choose kl or dkd, or use labels too"
    return None


def incomparable(teachers: Mapping[str, Sequence[str]], settings: StudentSettings) -> str | None:
    """A target over all classes from logits standardised inside each teacher's, which no standardised student attains, or one whose
    classes standardising would make unequally frequent again; and the remedy."""
    if not settings.standardize_logits or settings.alpha == 0:
        return None
    if settings.target == "balanced":
        return "standardize_logits changes how frequent the classes are that target balanced has made equally frequent; set it to false"
    if len(teachers) == 1 or settings.target in ("blocks", "stacked"):
        return None
    return (
        f"standardize_logits brings logits inside each teacher's classes to one spread, and target {settings.target} is one distribution "
        "over the classes of all, which no student of that spread attains; set it to false, or target to blocks or stacked"
    )


def without_labels(alpha: float) -> str:
    """What is wrong with a share of the labels above 0 where no training image has one, and the remedy."""
    if alpha == 0:
        return (
            "no training image of the task has a label, and with alpha 0 the student learns from labels alone; bring some, or raise alpha"
        )
    return (
        "no training image of the task has a label; set label_fraction to 0 and stored_teachers to all, and target to joint where the "
        "teachers share classes, to balanced where they do not"
    )


def _of_two_classes(compared: Mapping[str, Collection[str]]) -> str | None:
    """The first that has two."""
    return next((name for name, classes in compared.items() if len(classes) == 2), None)


def separate(teachers: Mapping[str, Sequence[str]], needed: int = 1) -> str | None:
    """Teachers, by name, whose classes no ``needed`` shared ones connect with the first one's, by however many others; None if there are
    none."""
    waiting = dict(teachers)
    reached = set(waiting.pop(next(iter(waiting))))
    while near := [name for name, classes in waiting.items() if len(reached & set(classes)) >= needed]:
        for name in near:
            reached |= set(waiting.pop(name))
    return ", ".join(waiting) or None
