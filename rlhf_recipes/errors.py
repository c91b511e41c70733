"""The one exception that is the user's to mend."""


class UserError(Exception):
    """Bad input. The message is one line: what failed, what was expected, the fix. Exit code 2 at the shell."""
