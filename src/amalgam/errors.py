"""The one exception a user is meant to read, and what no message tells."""

import re
from collections.abc import Sequence

CREDENTIALS = re.compile(r"(?<=://)[^/?#\s]+@")  # in an address: all before the last @ of its host
SECRETS = re.compile(r"([?&][\w.-]*(?:token|sig|secret|passw|credential|key)[\w.-]*=)[^&#\s'\"]+", re.IGNORECASE)  # in its query


class UserError(ValueError):
    """Something the user can put right; its text names the thing, the value and the remedy."""


def without_passwords(text: object) -> str:
    """What ``text`` says, its addresses without the name, password, key or token that they may hold: others read messages and notes."""
    return SECRETS.sub(r"\1…", CREDENTIALS.sub("", str(text)))


def listed(names: Sequence[object], most: int) -> str:
    """The first of many names, and how many more there are."""
    return ", ".join(map(str, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")
