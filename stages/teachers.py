"""Provide every teacher of every task: supplied, or trained on its own classes, or from the store if it was ever trained so."""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

from functools import partial
from pathlib import Path

import numpy as np

from amalgam.batches import steps_per_epoch
from amalgam.brought import refuse_changed
from amalgam.checkpoint import Checkpoint, checkpoint
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.errors import UserError
from amalgam.feasibility import check_split, check_student
from amalgam.files import read_json
from amalgam.history import Fit
from amalgam.inference import predict_logits
from amalgam.models import Classifier
from amalgam.places import PREPARED, SUPPLIED_TEACHERS, TEACHER_MANIFEST, TEACHERS
from amalgam.processes import in_processes
from amalgam.progress import training_bar
from amalgam.provenance import configure_execution
from amalgam.stage import no_arguments, run_stage, stage_params
from amalgam.storable import storable
from amalgam.supplied import provide_supplied
from amalgam.teacher_training import Recipe, provide_teacher, teacher_key, train_teacher
from amalgam.teachers import OwnImages
from amalgam.team import joined
from amalgam.trainer import DivergedError, Hooks, epochs_done


def main() -> None:
    """A team's processes take turns at the teachers, and work at each alone: one is the same whoever trains it."""
    no_arguments(__doc__)
    params = stage_params()
    refuse_changed(params)
    configure_execution()
    prepared = {task: PREPARED / task / "trainval" for task in params.task_names}
    every = [(task, name) for task, folder in prepared.items() for name in LabelSets.read(folder).teachers]
    with joined() as team:
        for number, (task, folder) in enumerate(prepared.items()):
            if team.turn(number):
                check_student(params.student(task), LabelSets.read(folder).classes)
                check_split(task, params, PreparedSplit.read(folder))
        for number, (task, name) in enumerate(every):
            if team.turn(number):
                provide(
                    task, name, Recipe.of(params), OwnImages.of(name, LabelSets.read(prepared[task]), PreparedSplit.read(prepared[task]))
                )


def provide(task: str, name: str, recipe: Recipe, own: OwnImages) -> None:
    """Write one teacher's folder, and say whence it comes and how good it is."""
    supplied, folder = SUPPLIED_TEACHERS / task / name, TEACHERS / task / name
    if supplied.exists():
        origin = provide_supplied(supplied, own, f"teacher {task} {name}", folder)
    else:
        origin = provide_trained(recipe, own, f"{task} {name}", folder)
    manifest = read_json(folder / TEACHER_MANIFEST)
    accuracy, images = manifest["validation_accuracy"], manifest.get("measured_on", "validation")
    reached = "no validation images" if accuracy is None else f"{images} accuracy {accuracy} %"
    print(f"teacher {task} {name}: {origin}, {reached}", flush=True)


def provide_trained(recipe: Recipe, own: OwnImages, label: str, folder: Path) -> str:
    """Write one teacher's folder, and say whence; a training that was broken off goes on."""
    with checkpoint(teacher_key(own, recipe)[:32]) as kept:
        trained = provide_teacher(own, recipe, folder, partial(train, recipe, own, label, kept))
        kept.remove()
    return "trained" if trained else "from the store"


def train(recipe: Recipe, own: OwnImages, label: str, kept: Checkpoint) -> tuple[Classifier, Fit]:
    steps = steps_per_epoch(int((~own.validation).sum()), recipe.batch_size)
    saved = kept.last()
    with training_bar(f"teacher {label}", recipe.num_epochs, steps, epochs_done(saved)) as (on_step, on_epoch):
        try:
            teacher, result = train_teacher(own, recipe, Hooks(on_step, on_epoch, kept.keep, saved))
            judged = np.flatnonzero(own.validation) if own.validation.any() else np.arange(len(own.labels))
            storable(predict_logits(teacher, own.images, judged), teacher)  # else the next stage says so, when all are trained
        except DivergedError as error:
            raise UserError(f"teacher {label}: {error}; lower teacher.lr") from error
        except UserError as error:
            raise UserError(f"teacher {label}: {error}") from error
    return teacher, result


if __name__ == "__main__":
    run_stage(in_processes(main))
