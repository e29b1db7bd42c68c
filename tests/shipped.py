"""The parameters as they are shipped, to be edited and read."""

from pathlib import Path

from amalgam.params import Params
from amalgam.params_file import load_params
from conftest import ROOT

SHIPPED = (ROOT / "params.yaml").read_text()


def load(text: str, tmp_path: Path) -> Params:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    return load_params(path)


def edited(old: str, new: str) -> str:
    assert SHIPPED.count(f"\n{old}") == 1
    return str(SHIPPED.replace(f"\n{old}", f"\n{new}"))
