"""The exceptions that a person at the shell sees, and helpers for their messages."""

from difflib import get_close_matches


class UserError(Exception):
    """Bad input. The message is one line: what failed, what was expected, the fix. Exit code 2 at the shell."""


class HubError(UserError):
    """The hub does not answer, or has no such data set."""


class RowError(UserError):
    """One row of a batch is bad. The other rows can still be scored."""


class Stopped(Exception):
    """A signal stopped the run, which saved a checkpoint first. Exit code 128 + the signal's number."""

    def __init__(self, number: int):
        super().__init__(f"stopped by signal {number}, checkpoint saved; run the same command again to continue")
        self.number = number


def suggest(word: str, known, prefix: str = "") -> str:
    """The end of an error's sentence: `; did you mean x?`, or where no known word is close, some of those known.

    >>> suggest("vf_coeff", ["vf_coef", "lam"])
    '; did you mean vf_coef?'
    """
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {prefix}{close[0]}?" if close else f"; known here: {', '.join(sorted(known)[:12])} …"


def one_line(error: BaseException) -> str:
    """An exception's message in one line, the key first, without the lines that OmegaConf adds."""
    lines = [line.strip() for line in str(error).splitlines()]
    key = next((line.partition(":")[2].strip() for line in lines if line.startswith("full_key:")), "")
    text = " ".join(line for line in lines if line and not line.startswith(("full_key:", "object_type=", "reference")))
    return f"{key}: {text}" if key else text
