"""The exceptions a person at the shell meets."""


class UserError(Exception):
    """Bad input. The message is one line: what failed, what was expected, the fix. Exit code 2 at the shell."""


class Stopped(Exception):
    """A signal asked the run to stop, and it did, with a checkpoint saved. Exit code 128 + the signal's number."""

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}, checkpoint saved; the same command goes on from there")
        self.number = number
