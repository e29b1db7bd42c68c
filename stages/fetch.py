"""Bring the raw images of the chosen source into fetched/data, in the canonical layout, and supplied weights into fetched/models."""

from pathlib import Path

from amalgam.files import repository_root, sha256_of_file, whole_folder, write_json
from amalgam.params import Params, StudentSettings
from amalgam.stage import run_stage, stage_params

DATA = Path("fetched/data")
MODELS = Path("fetched/models")


def fetch(params: Params, folder: Path) -> None:
    if params.source == "digits":
        from amalgam.sources import digits

        digits.fetch(folder, params.digits.fetch.test_fraction)
    elif params.source == "cifar100":
        from amalgam.sources import cifar100

        cifar100.fetch(folder, params.cifar100.fetch.url)
    else:
        from amalgam.sources import folder as images

        settings = params.folder.fetch
        images.fetch(folder, repository_root(), settings.path, settings.sha256, int(settings.max_gigabytes * 1e9))


def supply_weights(settings: StudentSettings, folder: Path) -> None:
    """Check and copy the weights that a task's student starts from, if a file of them is given."""
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


def main() -> None:
    params = stage_params()
    with whole_folder(MODELS) as work:
        for task in params.task_names:
            (work / "students" / task).mkdir(parents=True)
            supply_weights(params.student(task), work / "students" / task)
    with whole_folder(DATA) as work:
        fetch(params, work)


if __name__ == "__main__":
    run_stage(main)
