"""The one exception that the entry points turn into a single line."""


class UserError(Exception):
    """A mistake the user can mend: printed in one line without a traceback."""
