"""The one exception that a user is meant to read."""


class UserError(Exception):
    """Something the user can put right: one line that says what, where and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """
