"""The guide to the parameters is the definition's, whole and current."""

import re

import pytest

from amalgam.guide import allowed, guide
from amalgam.params import Params, TeacherSettings
from amalgam.params_file import read_yaml
from amalgam.source_settings import SuppliedTeacher
from amalgam.student_settings import StudentSettings
from conftest import ROOT
from shipped import SHIPPED


def test_the_page_is_what_the_definition_says() -> None:
    shipped, _ = read_yaml(SHIPPED, "params.yaml")
    assert (ROOT / "docs" / "parameters.md").read_text() == guide(shipped), "make guide writes it anew"


def test_every_parameter_has_its_row_with_text_and_shipped_value() -> None:
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", (ROOT / "docs" / "parameters.md").read_text(), re.MULTILINE))
    for name, field in StudentSettings.model_fields.items():
        assert field.description is not None
        assert field.description.replace("<", "&lt;") in rows[name]
    assert set(rows) >= {f"teacher.{name}" for name in TeacherSettings.model_fields} | set(SuppliedTeacher.model_fields)
    assert rows["alpha"].startswith("0.5 | number, ≥ 0 and ≤ 1 | Weight of the teachers")
    assert rows["gdrive.fetch.data_sha256"].startswith("null | text or null | ")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("target", "mean, blocks, joint, confidence, stacked, balanced"),
        ("clip_norm", "number, > 0 or null"),
        ("seed", "whole number, ≥ 0 and ≤ 4294967295"),
        ("pretrained", "true or false"),
        ("run", "text"),
    ],
)
def test_what_a_parameter_may_be_is_said_in_words(name: str, expected: str) -> None:
    assert allowed(Params.model_fields[name]) == expected
