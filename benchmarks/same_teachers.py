"""A seed's teachers are the same for all its rows, wherever these are run."""

from typing import Any

from amalgam.errors import UserError


def refuse_other_arithmetic(before: dict[str, Any], here: dict[str, str], seed: int, task: str) -> None:
    """Raise UserError if a seed's teachers were made, by what the results say of them, where sums come out otherwise: here they would be
    others."""
    if before.get("arithmetic", here["arithmetic"]) != here["arithmetic"]:
        raise UserError(
            f"the teachers of seed {seed} of {task} were made on {before['machine']}, where sums end in other bits than on "
            f"{here['machine']} (python -m benchmarks.arithmetic: {before['arithmetic']}, here {here['arithmetic']}): processor, threads, "
            "libraries or code are others; finish the seed where it was begun, or add another to the protocol"
        )


def refuse_other_teachers(before: dict[str, Any], found: dict[str, Any], seed: int, task: str) -> None:
    """Raise UserError if what a seed's teachers reach is not what the results say, so far as both say it."""
    if any(found.get(name, value) != value for name, value in before.items()):
        raise UserError(
            f"seed {seed} of {task} was begun with other teachers (unrouted {before['unrouted']} %, here {found['unrouted']} %): teachers "
            "are the same on the same kind of machine alone; finish the seed there, or add another to the protocol"
        )
