"""Store what a task's teachers say of every view of its training images."""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

from amalgam.brought import refuse_changed
from amalgam.dataset import LabelSets, PreparedSplit
from amalgam.feasibility import check_labels, check_student
from amalgam.params import Params
from amalgam.places import MODELS, PREPARED, TARGETS
from amalgam.processes import in_processes
from amalgam.progress import progress_bar
from amalgam.provenance import configure_execution
from amalgam.stage import check_task, run_stage, stage_params, task_argument
from amalgam.targets import ViewSettings, write_targets
from amalgam.teachers import load_teachers
from amalgam.team import Team, joined


def main() -> None:
    task = task_argument(__doc__)
    params = stage_params()
    check_task(task, params.task_names)
    refuse_changed(params)
    configure_execution()
    with joined() as team:
        write(task, params, team)


def write(task: str, params: Params, team: Team) -> None:
    settings = params.student(task)
    label_sets = LabelSets.read(PREPARED / task / "trainval")
    split = PreparedSplit.read(PREPARED / task / "trainval")
    check_labels(task, settings, label_sets, split.labels[split.training_rows])
    check_student(settings, label_sets.classes)
    teachers = load_teachers(MODELS / task, label_sets)
    views = ViewSettings.of(settings, params.source_block.augmentation, params.data_seed)
    with progress_bar(f"targets {task}", views.stored_views, "view") as (on_view, _):
        write_targets(TARGETS / task, split, label_sets, teachers, views, settings.stored_teachers, on_view, team)
    if team.is_first:
        print(f"targets {task}: {len(teachers)} teachers on {views.stored_views} views of {len(split.training_rows)} images")


if __name__ == "__main__":
    run_stage(in_processes(main))
