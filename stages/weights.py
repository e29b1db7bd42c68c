"""Check and copy what the user brings: the weights that students start from, and whole teachers."""

from pathlib import Path

from amalgam.files import repository_root, sha256_of_file, whole_folder, write_json
from amalgam.params import Source, StudentSettings
from amalgam.stage import run_stage, stage_params

WEIGHTS = Path("fetched/weights")
TEACHERS = Path("fetched/teachers")


def supply(settings: StudentSettings, folder: Path) -> None:
    """Write the weights of one task, or that there are none. Raises UserError unless they fit the student."""
    supplied = None
    if settings.student_weights:
        from amalgam.models import save_weights
        from amalgam.networks import build_network, read_state

        path = repository_root() / Path(settings.student_weights).expanduser()
        state = read_state(path)
        build_network(settings.student_model, 2, True, path)  # refuses what does not fit
        save_weights(state, folder / "weights.safetensors")
        supplied = {"file": path.name, "sha256": sha256_of_file(path)}
    write_json(folder / "supplied.json", supplied)


def supply_teachers(source: Source, folder: Path) -> None:
    """Write each supplied teacher. Raises UserError unless its file fits its settings."""
    for task, teachers in source.supplied.items():
        for name, given in teachers.items():
            from amalgam.supplied import copy_supplied

            path = repository_root() / Path(given.weights).expanduser()
            copy_supplied(given, tuple(given.classes or source.tasks[task][name]), path, f"teacher {task} {name}", folder / task / name)


def main() -> None:
    params = stage_params()
    for task in params.task_names:
        with whole_folder(WEIGHTS / task) as work:
            supply(params.student(task), work)
    with whole_folder(TEACHERS) as work:
        supply_teachers(params.source_block, work)


if __name__ == "__main__":
    run_stage(main)
