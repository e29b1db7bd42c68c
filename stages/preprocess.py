"""Select, decode and split each task's images, and fix which classes its teachers know."""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

from collections.abc import Sequence
from pathlib import Path

from amalgam.dataset import MADE_WITH, LabelSets, PreparedSplit
from amalgam.errors import listed
from amalgam.files import write_json
from amalgam.places import DATA, PREPARED
from amalgam.preparing import plan_split, stored_size, write_split
from amalgam.sources.raw import SPLITS, read_classes, read_split, read_unlabeled
from amalgam.stage import no_arguments, run_stage, stage_params
from amalgam.whole import whole_folder

NAMED = 5  # classes


def main() -> None:
    no_arguments(__doc__)
    params = stage_params()
    block = params.source_block
    available = read_classes(DATA)
    tasks = {task: LabelSets.of_task(teachers, available, params.source, task) for task, teachers in block.tasks.items()}
    train, test = (read_split(DATA, split) for split in SPLITS)
    wanted = {"trainval": ([train, *read_unlabeled(DATA)], params.val_fraction), "test": ([test], 0.0)}
    every = [raw for raws, _ in wanted.values() for raw in raws]
    planned = {  # everything is checked before the first image is decoded
        task: {
            name: plan_split(raws, available, label_sets.classes, fraction, params.data_seed) for name, (raws, fraction) in wanted.items()
        }
        for task, label_sets in tasks.items()
    }
    unset = block.resolution is None
    sizes = {task: stored_size(every, available, label_sets.classes, block.resolution) for task, label_sets in tasks.items()}
    for task, label_sets in tasks.items():
        for name, plan in planned[task].items():
            with whole_folder(PREPARED / task / name) as work:
                write_split(plan, sizes[task], work)
                label_sets.write(work)
                if name == "trainval":
                    write_json(work / MADE_WITH, params.preparation)
        print(
            f"{task}: {len(label_sets.classes)} classes, teachers {', '.join(label_sets.teachers)}; {images(PREPARED / task)}, "
            f"stored as {sizes[task][0]} × {sizes[task][1]} pixels" + f" ({params.source}.resolution sets another size)" * unset
        )
        if foreign := left_out(label_sets, available):
            print(f"{task}: {foreign}")


def left_out(label_sets: LabelSets, available: Sequence[str]) -> str:
    """Which of the data's classes the task does without; empty if none."""
    foreign = [name for name in available if name not in label_sets.classes]
    return f"images of {listed(foreign, NAMED)} are left out, which no teacher of this task knows" if foreign else ""


def images(folder: Path) -> str:
    """How many there are of each kind."""
    training, test = (PreparedSplit.read(folder / name) for name in ("trainval", "test"))
    unlabeled = int((training.labels < 0).sum())
    kinds = f"{len(training.training_rows)} training" + f" ({unlabeled} without label)" * bool(unlabeled)
    return f"{kinds}, {len(training.validation_rows)} validation, {len(test.labels)} test images"


if __name__ == "__main__":
    run_stage(main)
