"""A student that evaluation is given in place of the trained one: a checkpoint of ours, or a bare state dict as others publish it.

::

    fetched/checkpoints/<task>/weights.safetensors
    fetched/checkpoints/<task>/checkpoint.json      file, place in the repository, sha256, architecture, resolution; classes,
                                                    preprocessing, what chose the epoch and the split's hash, where the
                                                    student.json beside the file said so, and its sha256
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from amalgam.brought import beside
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.files import read_json, sha256_of_file, write_json
from amalgam.inference import device
from amalgam.models import Classifier, save_weights
from amalgam.networks import ANOTHER, build_network, load_whole
from amalgam.places import WEIGHTS_FILE, repository_relative
from amalgam.preprocessing import Preprocessing, channel_statistics
from amalgam.states import State, read_state
from amalgam.student_files import STUDENT_MANIFEST, own_manifest
from amalgam.student_settings import STUDENTS

CHECKPOINT_MANIFEST = "checkpoint.json"
OTHER_CLASSES = "knows {}, but the task says {}; evaluate it with the task that it was trained for"
NEEDED = ("architecture", "classes", "preprocessing")  # of a student.json, to use the weights


def copy_checkpoint(path: Path, classes: Collection[str], resolution: int, what: str, folder: Path) -> None:
    """Write the student at ``path`` into ``folder``.

    Raises UserError, naming the setting ``what``, unless it is one of these ``classes``, or, where nothing says which it knows, of as many.
    """
    state, own = read_state(path), own_manifest(path)
    if lacking := [name for name in NEEDED if own and not own.get(name)]:
        manifest = path.with_name(STUDENT_MANIFEST)
        raise UserError(f"{manifest} lacks {', '.join(lacking)}; restore it, or move it away to have the bare weights taken")
    if own and set(own["classes"]) != set(classes):
        raise UserError(f"{what}: {path} {OTHER_CLASSES.format(', '.join(own['classes']), ', '.join(sorted(classes)))}")
    architecture = own["architecture"] if own else recognised(state, len(classes), f"{what}: {path}")
    check_fit(architecture, len(classes), state, f"{what}: {path}")
    folder.mkdir(parents=True, exist_ok=True)
    save_weights(state, folder / WEIGHTS_FILE)
    told = {name: own.get(name) for name in ("classes", "preprocessing", "selected_on")}
    split = None if told["selected_on"] else own.get("training_images")
    entry = {
        "file": path.name,
        "place": repository_relative(path),
        "sha256": sha256_of_file(path),
        "architecture": architecture,
        "resolution": resolution,
        "beside": beside(path),
    }
    write_json(folder / CHECKPOINT_MANIFEST, entry | {"split": split} | told)


def recognised(state: State, classes: int, what: str) -> str:
    """The reference's student that has these weights. Raises UserError if none has."""
    problems = []
    for architecture in STUDENTS:
        try:
            check_fit(architecture, classes, state, architecture)
        except UserError as error:
            problems.append(str(error).removeprefix(f"{architecture}: not the weights of ").removesuffix(ANOTHER))
        else:
            return architecture
    reasons = "; ".join(problems)
    raise UserError(
        f"{what} is none of the students of {classes} classes ({reasons}), and no student.json beside it says what it is; "
        "name a file of one of them, or copy its student.json beside it"
    )


def check_fit(architecture: str, classes: int, state: State, what: str) -> None:
    network = build_network(architecture, classes)
    load_whole(network, state, architecture=architecture, origin=what)


def load_checkpoint(folder: Path, label_sets: LabelSets, training: PreparedSplit) -> Classifier:
    """The student in ``folder``.

    A bare one has its outputs in the order of the task's classes and sees images normalised by the statistics of all training images,
    as the published ones do. Raises UserError if it knows other classes than the task.
    """
    entry = read_json(folder / CHECKPOINT_MANIFEST)
    classes = tuple(entry["classes"] or label_sets.classes)
    if classes != label_sets.classes:
        raise UserError(f"{entry['file']} {OTHER_CLASSES.format(', '.join(classes), ', '.join(label_sets.classes))}")
    if problem := other_images(entry, training):
        raise UserError(problem)
    network = build_network(entry["architecture"], len(classes))
    load_whole(network, read_state(folder / WEIGHTS_FILE), architecture=entry["architecture"], origin=entry["file"])
    return Classifier(entry["architecture"], network, classes, preprocessing(entry, training)).to(device())


def other_images(entry: dict[str, Any], training: PreparedSplit) -> str | None:
    """That the student learnt from other images than ``training``, and the remedy; None if from these, or where nothing says from which."""
    if entry["split"] in (None, training.content):
        return None
    return (
        f"{entry['file']} was trained on other images, or another split, than the pipeline has now, and may know its test images; run "
        f"dvc repro with the settings of its training, or, to evaluate it all the same, copy it with its {STUDENT_MANIFEST}, and take "
        "training_images out of that"
    )


def preprocessing(entry: dict[str, Any], training: PreparedSplit) -> Preprocessing:
    if entry["preprocessing"]:
        return Preprocessing.from_plain(entry["preprocessing"])
    return Preprocessing((entry["resolution"],) * 2, *channel_statistics(training.images, np.arange(len(training.images))))


def described(folder: Path) -> dict[str, str] | None:
    """For the results: which file was evaluated, and what chose its epoch where that is known; None where ``folder`` holds none."""
    if not (folder / CHECKPOINT_MANIFEST).is_file():
        return None
    entry = read_json(folder / CHECKPOINT_MANIFEST)
    about = {name: entry[name] for name in ("file", "place", "sha256", "architecture")}
    about |= {} if entry["preprocessing"] else {"resolution": str(entry["resolution"])}
    return about | ({"selected_on": entry["selected_on"]} if entry["selected_on"] else {})
