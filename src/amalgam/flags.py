"""Flags of the command line: every setting of a student under its own name, from the one definition of the parameters."""

import argparse
from collections.abc import Collection

from amalgam.errors import UserError
from amalgam.student_settings import StudentSettings

# The reference system's, first in the help; they are the ones that most experiments need.
CLASSIC = (
    "lr batch_size num_epochs weight_decay temperature alpha scheduler_step scheduler_gamma student_model seed run".split()  # noqa: SIM905
)

ONLY_UNDER = {  # settings that count beside one value of another alone
    "scheduler_step": ("scheduler", "step"),
    "scheduler_gamma": ("scheduler", "step"),
    "confidence_temperature": ("target", "confidence"),
}


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting; its text is checked later, by the definition, with everything else."""
    first, others = parser.add_argument_group("what is changed most"), parser.add_argument_group("all other settings of a student")
    rest = [name for name in StudentSettings.model_fields if name not in CLASSIC]
    for group, names in ((first, CLASSIC), (others, rest)):
        for name in names:
            field = StudentSettings.model_fields[name]
            spellings = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
            switch = {"nargs": "?", "const": "true"} if field.annotation is bool else {}
            assert field.description is not None
            described = field.description.replace("%", "%%")
            group.add_argument(*spellings, dest=name, metavar="VALUE", help=described, **switch)  # type: ignore[arg-type]


def given_settings(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings that were named, as text."""
    return {name: value for name in StudentSettings.model_fields if (value := getattr(arguments, name)) is not None}


def refuse_idle(given: Collection[str], settings: StudentSettings) -> None:
    """Raises UserError if a setting that was ``given`` has no effect beside the others, ``settings``."""
    for name, (other, needed) in ONLY_UNDER.items():
        if name in given and (now := getattr(settings, other)) != needed:
            raise UserError(f"--{name} has no effect with --{other} {now}; take --{other} {needed}, or leave it out")
