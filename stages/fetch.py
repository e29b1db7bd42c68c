"""Bring the raw images of the chosen source into fetched/data, in the canonical layout."""

from pathlib import Path

from amalgam.files import repository_root, whole_folder, write_json
from amalgam.params import Params
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


def main() -> None:
    params = stage_params()
    with whole_folder(DATA) as work:
        fetch(params, work)
    with whole_folder(MODELS) as work:
        write_json(work / "supplied.json", {})  # no source supplies teachers: every one is trained


if __name__ == "__main__":
    run_stage(main)
