"""The one exception a user is meant to read, and what no message tells."""

import re

CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")  # in an address


class UserError(ValueError):
    """Something the user can put right; its text names the thing, the value and the remedy."""


def without_passwords(text: object) -> str:
    """What ``text`` says, its addresses without the name and password that they may hold: others read messages and notes."""
    return CREDENTIALS.sub("", str(text))
