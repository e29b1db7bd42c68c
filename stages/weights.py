"""Check and copy what the user brings: the weights that students start from, whole teachers, students to evaluate."""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

from pathlib import Path

from amalgam.brought import refuse_misplaced
from amalgam.files import sha256_of_file, write_json
from amalgam.params import EvaluationSettings
from amalgam.places import SUPPLIED_CHECKPOINTS, SUPPLIED_TEACHERS, SUPPLIED_WEIGHTS, WEIGHTS_FILE, brought_file
from amalgam.provenance import configure_execution
from amalgam.source_settings import Source
from amalgam.stage import no_arguments, run_stage, stage_params
from amalgam.student_settings import StudentSettings
from amalgam.whole import whole_folder


def supply(settings: StudentSettings, folder: Path) -> None:
    """Write the weights of one task, or that there are none. Raises UserError unless they fit the student."""
    supplied = None
    if settings.student_weights:
        from amalgam.models import save_weights
        from amalgam.networks import build_network
        from amalgam.states import read_state

        path = brought_file(settings.student_weights)
        state = read_state(path)
        build_network(settings.student_model, 2, True, path)  # refuses what does not fit
        save_weights(state, folder / WEIGHTS_FILE)
        supplied = {"file": path.name, "sha256": sha256_of_file(path)}
    write_json(folder / "supplied.json", supplied)


def supply_teachers(source: Source, folder: Path) -> None:
    """Write each supplied teacher. Raises UserError unless its file fits its settings."""
    for task, teachers in source.supplied.items():
        for name, given in teachers.items():
            from amalgam.supplied import copy_supplied

            configure_execution()  # it is tried as later stages run it
            classes, path = tuple(given.classes or source.tasks[task][name]), brought_file(given.weights)
            copy_supplied(given, classes, path, f"teacher {task} {name}", folder / task / name)


def supply_checkpoints(evaluation: EvaluationSettings, source: Source, folder: Path) -> None:
    """Write each student that evaluation is given. Raises UserError unless it is one of the task's classes."""
    for task, named in evaluation.checkpoint.items():
        if named is not None:
            from amalgam.given_student import copy_checkpoint

            union = {name for classes in source.tasks[task].values() for name in classes}
            copy_checkpoint(brought_file(named), union, evaluation.resolution, f"evaluate.checkpoint.{task}", folder / task)


def main() -> None:
    no_arguments(__doc__)
    params = stage_params()
    refuse_misplaced(params)
    for task in params.task_names:
        with whole_folder(SUPPLIED_WEIGHTS / task) as work:
            supply(params.student(task), work)
    with whole_folder(SUPPLIED_TEACHERS) as work:
        supply_teachers(params.source_block, work)
    with whole_folder(SUPPLIED_CHECKPOINTS) as work:
        supply_checkpoints(params.evaluate, params.source_block, work)


if __name__ == "__main__":
    run_stage(main)
