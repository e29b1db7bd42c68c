"""Teachers that the user brings: checked when they are copied, measured before they teach.

::

    fetched/teachers/<task>/<teacher>/weights.safetensors or program.pt2
    fetched/teachers/<task>/<teacher>/manifest.json    as in models/, less what the images tell
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_file, write_json
from amalgam.inference import device, images_at_a_time, predict_logits
from amalgam.models import Classifier, load_classifier, save_weights, weights_file
from amalgam.networks import build_network, load_whole
from amalgam.places import TEACHER_MANIFEST, WEIGHTS_FILE
from amalgam.preprocessing import Preprocessing, channel_statistics
from amalgam.programs import PROGRAM, read_program
from amalgam.source_settings import SuppliedTeacher
from amalgam.states import read_state
from amalgam.teachers import OwnImages
from amalgam.trial import Remedies, trial

SAME = (1e-3, 1e-3)  # relative and absolute tolerance of two answers about one image
ANY_STATISTICS = (0.5, 0.5, 0.5)  # until the images are there
DOUBT = "may have been trained on validation or test images of this task"


def copy_supplied(given: SuppliedTeacher, classes: tuple[str | None, ...], path: Path, what: str, folder: Path) -> None:
    """Write a supplied teacher into ``folder``; ``classes`` are those of its outputs, None where nobody asks for one.

    Raises UserError, naming it ``what``, unless file and settings agree.
    """
    folder.mkdir(parents=True)
    network, weights = _read(given, len(classes), path, what)
    statistics = {"mean": given.mean or ANY_STATISTICS, "std": given.std or ANY_STATISTICS}
    preprocessing = Preprocessing.from_plain({"size": [given.resolution] * 2} | statistics)
    asked = {name: output for output, name in enumerate(classes) if name is not None}
    order, outputs = (tuple(asked.values()), len(classes)) if None in classes else (None, None)
    classifier = Classifier(given.architecture or PROGRAM, network, tuple(asked), preprocessing, order, outputs, exact=True)
    _check_output(classifier, f"{what}: {path}")
    kept = folder / weights
    if given.architecture is None:
        shutil.copyfile(path, kept)
    else:
        save_weights(network.state_dict(), kept)
    origin = {"origin": "supplied", "file": path.name, "file_sha256": sha256_of_file(path), "trained_elsewhere": given.trained_elsewhere}
    described = classifier.manifest() | {"weights_sha256": sha256_of_file(kept)}
    settings = {"min_accuracy": given.min_accuracy, "own_statistics": given.mean is None}
    write_json(folder / TEACHER_MANIFEST, described | origin | settings)


def _read(given: SuppliedTeacher, outputs: int, path: Path, what: str) -> tuple[nn.Module, str]:
    """The network, and the name of its file in a teacher's folder."""
    if given.architecture is None:
        return read_program(path), f"{PROGRAM}.pt2"
    network = build_network(given.architecture, outputs)
    load_whole(network, read_state(path), architecture=f"{given.architecture} of {outputs} classes", origin=f"{what}: {path}")
    return network, WEIGHTS_FILE


def _check_output(classifier: Classifier, what: str) -> None:
    """Raises UserError unless batches of any size give finite logits, no probabilities, one an output, and an image the same in each."""
    classifier = classifier.to(device())
    classifier.network.eval()
    outputs, before = classifier.outputs or len(classifier.classes), None
    size = classifier.preprocessing.size
    for batch in (2, 3, 3, images_at_a_time(classifier.architecture, size, size, device().type), 1):
        logits = _answer(classifier, batch, what)
        if problem := _problem(logits, (batch, outputs), before):
            raise UserError(f"{what} {problem}")
        before = logits


@torch.inference_mode()
def _answer(classifier: Classifier, batch: int, what: str) -> Any:
    """What the network makes of so many random images. Raises UserError if it does not take them."""
    height, width = classifier.preprocessing.size
    images = torch.randint(0, 256, (batch, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    dynamic = "export it with a dynamic number of images: dynamic_shapes=({0: torch.export.Dim.AUTO},)"
    remedies = Remedies("export it without that operation", f"correct resolution, or {dynamic}")
    with trial(what, "run", f"{batch} images of {height} x {width} pixels", remedies):
        return classifier.network(classifier.preprocessing(images.to(device())))


def _problem(logits: Any, shape: tuple[int, int], before: torch.Tensor | None) -> str | None:
    """What is wrong with logits that should have this ``shape``, and be those of ``before`` for the same images."""
    found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if found != shape:
        return (
            f"gives {found} for {shape[0]} images, not {shape}: a logit for each of its classes, where null is an output of no class here; "
            "correct classes"
        )
    if not logits.isfinite().all():
        return "gives logits that are not finite; save the weights of an epoch before the training diverged"
    if _are_probabilities(logits):
        return (
            "gives probabilities, and logits are needed (of softened probabilities a student learns next to nothing); export the network "
            "without its softmax, or their logarithms"
        )
    same = 0 if before is None else min(len(before), len(logits))
    if before is not None and not torch.allclose(logits[:same], before[:same], *SAME):
        return "gives different logits for the same image on repeated calls or in another batch; export it after network.eval()"
    return None


def _are_probabilities(values: torch.Tensor) -> bool:
    return bool((values >= 0).all()) and torch.allclose(values.sum(1), torch.ones_like(values[:, 0]), atol=1e-2)


def provide_supplied(folder: Path, own: OwnImages, what: str, target: Path) -> str:
    """Copy a supplied teacher into ``target`` with its accuracy on the images of its classes (held out, where some are); say
    whence it is.

    Raises UserError if it is below the stated minimum, or the task gives it other classes.
    """
    manifest: dict[str, Any] = read_json(folder / TEACHER_MANIFEST)
    teacher = load_classifier(weights_file(folder), folder / TEACHER_MANIFEST).to(device())
    if set(teacher.classes) != set(own.classes):
        raise UserError(
            f"{what} was supplied for {', '.join(teacher.classes)}, but the task says {', '.join(own.classes)}; run "
            "dvc repro --force --single-item weights, then dvc repro"
        )
    outputs = dict(zip(teacher.classes, teacher.order or range(len(teacher.classes)), strict=True))
    teacher = replace(teacher, classes=own.classes, order=tuple(outputs[name] for name in own.classes))
    what = f"{what}, supplied as {manifest['file']},"
    if not len(own.labels):
        _check_trusted(manifest, what)
    elif manifest["own_statistics"]:
        statistics = channel_statistics(own.images, np.arange(len(own.labels)))
        teacher = replace(teacher, preprocessing=Preprocessing(teacher.preprocessing.size, *statistics))
    measured = _measured(teacher, own, manifest["min_accuracy"], what) if len(own.labels) else {"validation_accuracy": None}
    target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(weights_file(folder), target / weights_file(folder).name)
    write_json(target / TEACHER_MANIFEST, manifest | teacher.manifest() | measured)
    return ", ".join(filter(None, (f"supplied as {manifest['file']}", enlarged(teacher, own), doubt(manifest))))


def enlarged(teacher: Classifier, own: OwnImages) -> str | None:
    """That a teacher sees more pixels than the images are stored in, if it does: they may have been stored too small."""
    seen, stored = teacher.preprocessing.size, own.images.shape[1:3]
    if seen[0] <= stored[0] and seen[1] <= stored[1]:
        return None
    return f"sees {seen[0]} × {seen[1]} pixels, to which images stored as {stored[0]} × {stored[1]} are enlarged"


def _check_trusted(manifest: dict[str, Any], what: str) -> None:
    """Raises UserError unless the user takes the teacher as it is: without a labelled training image nothing here can tell."""
    if manifest["min_accuracy"] > 0:
        raise UserError(
            f"{what} cannot be held to its min_accuracy {manifest['min_accuracy']:g}: no training image of its classes has a label; give "
            "some, or set min_accuracy to 0 to take it as it is (evaluation measures it on the test images)"
        )
    if manifest["own_statistics"]:
        raise UserError(f"{what} has mean and std null, and no training image of its classes has a label to tell them by; give both")


def _measured(teacher: Classifier, own: OwnImages, least: float, what: str) -> dict[str, Any]:
    """The teacher's accuracy in percent on the images of its classes, and which these are. Raises UserError if it is below ``least``."""
    rows = np.flatnonzero(own.validation) if own.validation.any() else np.arange(len(own.labels))
    right = predict_logits(teacher, own.images, rows).argmax(1) == own.labels[rows]
    accuracy = round(100 * float(right.mean()), 2)
    if accuracy < least:
        raise UserError(
            f"{what} is right for {accuracy} % of {len(rows)} images of its classes, below its "
            f"min_accuracy {least:g}; are classes in the order of its outputs, resolution, mean and std those of its training, and the "
            "images stored large enough (the source's resolution)?"
        )
    return {"validation_accuracy": accuracy, "measured_on": "validation" if own.validation.any() else "training"}


def doubt(manifest: dict[str, Any]) -> str | None:
    """What makes a supplied teacher's figures here optimistic, if anything does."""
    if manifest["origin"] != "supplied" or manifest["trained_elsewhere"]:
        return None
    return DOUBT
