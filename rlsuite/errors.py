"""The exceptions that a user is meant to read, or that become one."""


class UserError(Exception):
    """Something the user can put right: one line that says what, where and the remedy.

    The command line prints it without a traceback and exits with code 2.
    """


class NotFiniteError(ValueError):
    """A number that a computation gave is infinite or none. Within a run it becomes a UserError."""
