"""The environment that ``make install`` creates: every pinned version installs on every Python that the project admits."""

import re
import tomllib
from importlib.metadata import PackageNotFoundError, metadata

from packaging.specifiers import SpecifierSet

from conftest import ROOT


def test_every_pinned_version_installs_on_the_oldest_python() -> None:
    """As Debian's, whose 3.11.2 is older than what some versions ask for."""
    (oldest,) = re.findall(r">=(3\.\d+)", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    checked = []
    for name in pinned:
        try:
            asked = ",".join(metadata(name).get_all("Requires-Python", []))  # some packages say nothing
        except PackageNotFoundError:  # of another system
            continue
        assert SpecifierSet(asked).contains(f"{oldest}.0"), f"{name} {pinned[name]} needs Python {asked}"
        checked.append(name)
    assert len(checked) > 50
