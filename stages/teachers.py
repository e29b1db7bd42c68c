"""Provide every teacher of every task: trained on its own classes, or from the store if it was ever trained so."""

from functools import partial
from pathlib import Path

from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.files import read_json
from amalgam.params import Params
from amalgam.progress import progress_bar
from amalgam.provenance import configure_execution
from amalgam.stage import run_stage, stage_params
from amalgam.teachers import OwnImages, Recipe, provide_teacher, train_teacher
from amalgam.trainer import steps_per_epoch

PREPARED = Path("outputs/prepared")
TEACHERS = Path("outputs/teachers")


def recipe(params: Params) -> Recipe:
    augmentation = params.source_block.augmentation
    return Recipe(**params.teacher.model_dump(), crop=augmentation.crop, flip=augmentation.flip)


def main() -> None:
    params = stage_params()
    configure_execution()
    for task in params.task_names:
        label_sets = LabelSets.read(PREPARED / task)
        split = PreparedSplit.read(PREPARED / task / "trainval")
        for name in label_sets.teachers:
            provide(recipe(params), OwnImages.of(name, label_sets, split), f"{task} {name}", TEACHERS / task / name)


def provide(how: Recipe, own: OwnImages, label: str, folder: Path) -> None:
    steps = how.num_epochs * steps_per_epoch(int((~own.validation).sum()), how.batch_size)
    with progress_bar(f"teacher {label}", steps, "step") as (on_step, on_epoch):
        trained = provide_teacher(own, how, folder, partial(train_teacher, own, how, on_step, on_epoch))
    accuracy = read_json(folder / "manifest.json")["validation_accuracy"]
    origin = "trained" if trained else "from the store"
    print(f"teacher {label}: {origin}, validation accuracy {'–' if accuracy is None else f'{accuracy} %'}", flush=True)


if __name__ == "__main__":
    run_stage(main)
