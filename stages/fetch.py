"""Bring the raw images of the chosen source into fetched/data, in the canonical layout, and weights that it publishes."""

if __name__ == "__main__":
    from amalgam.interruption import end_at_once

    end_at_once()

from pathlib import Path

from amalgam.brought import refuse_emptied, refuse_strays
from amalgam.files import write_json
from amalgam.params import Params
from amalgam.places import FETCHED_DATA, FETCHED_MODELS, repository_root
from amalgam.stage import no_arguments, run_stage, stage_params
from amalgam.whole import whole_folder


def fetch(params: Params, folder: Path) -> None:
    if params.source == "digits":
        from amalgam.sources import digits

        digits.fetch(folder, params.digits.fetch.test_fraction)
    elif params.source == "cifar100":
        from amalgam.sources import cifar100

        cifar100.fetch(folder, repository_root(), params.cifar100.fetch.url)
    elif params.source == "gdrive":
        from amalgam.sources import gdrive
        from amalgam.sources.download import obtain

        given = params.gdrive.fetch
        archive = obtain(given.data, given.data_sha256, repository_root(), "gdrive.fetch.data")
        gdrive.fetch(folder, archive, int(given.max_gigabytes * 1e9))
    else:
        from amalgam.sources import folder as images

        settings = params.folder.fetch
        limit = int(settings.max_gigabytes * 1e9)
        images.fetch(folder, repository_root(), settings.path, settings.sha256, limit, settings.test_fraction)


def fetch_weights(params: Params, folder: Path) -> None:
    """Write the weights that the source publishes, and list them; of most sources there are none."""
    found: list[str] = []
    given = params.gdrive.fetch
    if params.source == "gdrive" and given.models is not None:
        from amalgam.sources import gdrive
        from amalgam.sources.download import obtain

        archive = obtain(given.models, given.models_sha256, repository_root(), "gdrive.fetch.models")
        found = [str(FETCHED_MODELS / place) for place in gdrive.fetch_weights(folder, archive, int(given.max_gigabytes * 1e9))]
        print("published weights, to name under evaluate.checkpoint or supplied:", *found, sep="\n  ")
    write_json(folder / "weights.json", found)


def named_places(params: Params) -> dict[str, str | None]:
    """What the source's settings name, by their keys: paths or addresses."""
    if params.source == "gdrive":
        return {"gdrive.fetch.data": params.gdrive.fetch.data, "gdrive.fetch.models": params.gdrive.fetch.models}
    return {"folder.fetch.path": params.folder.fetch.path} if params.source == "folder" else {}


def main() -> None:
    no_arguments(__doc__)
    params = stage_params()
    for what, named in named_places(params).items():
        if named is not None:
            refuse_emptied(named, what)
    refuse_strays()
    with whole_folder(FETCHED_DATA) as work:
        fetch(params, work)
    with whole_folder(FETCHED_MODELS) as work:
        fetch_weights(params, work)


if __name__ == "__main__":
    run_stage(main)
