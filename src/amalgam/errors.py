"""The one exception a user is meant to read."""


class UserError(ValueError):
    """Something the user can put right; its text names the thing, the value and the remedy."""
