"""The terminal around a talk: lines in, answers out as they are written. Answers go to stdout, all else to stderr."""

import sys
from contextlib import suppress

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rlhf_recipes.chat.session import Session
from rlhf_recipes.chat.speaker import Reply
from rlhf_recipes.errors import UserError

CONTROL = dict.fromkeys([*range(9), *range(11, 32), 127])
"""Code points that would move the cursor, ring or recolour: all below the space but tab and line feed."""


def once(session: Session, text: str) -> None:
    """One question, one answer: nothing but the answer goes to stdout, under the model's name where there are several.

    Raises:
        UserError: the question does not fit the model.
        KeyboardInterrupt: Ctrl-C, once what was said until then is written.
    """
    if not text.strip():
        raise UserError('prompt= is empty; expected a question, as in prompt="What is 3 plus 4?"')
    if any(reply.stopped for reply in _say(session, text)):
        raise KeyboardInterrupt


def talk(session: Session) -> None:
    """Line by line until Ctrl-D, /quit or the end of what is piped in.

    At a terminal an error is told and the talk goes on; with lines piped in it ends the program, for the answers would
    no longer stand beside their questions.

    Raises:
        UserError: a line piped in that the model or the settings refuse.
        KeyboardInterrupt: Ctrl-C while lines are piped in.
    """
    by_hand = sys.stdin.isatty()
    if by_hand:
        _edit_lines()
    while True:
        try:
            line = _read(by_hand)
            if line is None or not _take(session, line, by_hand):
                return
        except UserError as error:
            if not by_hand:
                raise
            note(str(error))
        except KeyboardInterrupt:
            if not by_hand:
                raise
            note("\nCtrl-D or /quit ends the talk")


def note(text: str) -> None:
    """A line for the person, not for a file of answers."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="dim", markup=False)


def _take(session: Session, line: str, by_hand: bool) -> bool:
    """Answers a line or obeys it. Returns False where it ends the talk."""
    if not line.strip():
        return True
    if line.startswith("/") and not line.startswith("//"):
        told = session.command(line.strip())
        if told:
            note(told)
        return told is not None
    text = line[1:] if line.startswith("//") else line
    say = _side_by_side if len(session.speakers) > 1 and sys.stdout.isatty() else _say
    replies = say(session, text)
    if any(reply.stopped for reply in replies) and not by_hand:
        raise KeyboardInterrupt
    if by_hand:
        note("   ".join(_figures(session, replies)))
    return True


def _say(session: Session, text: str) -> list[Reply]:
    """One answer under the other."""
    replies = []
    for number, speaker in enumerate(session.speakers):
        out = _Stream(f"{speaker.name}: " if len(session.speakers) > 1 else "")
        try:
            replies.append(session.ask(number, text, out.write))
        finally:
            out.end()
        if replies[-1].stopped:
            break
    return replies


class _Stream:
    """stdout, without the space that models put before an answer; at a terminal without control characters."""

    def __init__(self, label: str):
        self.begun = False
        self.label = label
        self.unsafe = CONTROL if sys.stdout.isatty() else {}

    def write(self, piece: str) -> None:
        piece = piece.translate(self.unsafe)
        piece = piece if self.begun else piece.lstrip()
        if piece and not self.begun:
            piece, self.begun = self.label + piece, True
        sys.stdout.write(piece)
        sys.stdout.flush()

    def end(self) -> None:
        sys.stdout.write("\n" if self.begun else f"{self.label}\n")
        sys.stdout.flush()


def _side_by_side(session: Session, text: str) -> list[Reply]:
    """A column a model. They write one after the other, from the same random numbers."""
    said = [""] * len(session.speakers)
    replies: list[Reply] = []

    def table() -> Table:
        grid = Table(box=None, expand=True, padding=(0, 2, 0, 0))
        for speaker in session.speakers:
            grid.add_column(Text(speaker.name), ratio=1)
        grid.add_row(*(Text(words.strip().translate(CONTROL)) for words in said))
        return grid

    console = Console()
    with Live(table(), console=console, auto_refresh=False, transient=True) as live:
        for number in range(len(session.speakers)):

            def emit(piece: str, number: int = number) -> None:
                said[number] += piece
                live.update(table(), refresh=True)

            replies.append(session.ask(number, text, emit))
            said[number] = replies[-1].text
            if replies[-1].stopped:
                break
    console.print(table())  # once more, whole: while it grows, what is higher than the screen is cut
    return replies


def _figures(session: Session, replies: list[Reply]) -> list[str]:
    """«ppo: 12 tokens, 80 a second» and why it ended, where that was not by itself."""
    shown = []
    for speaker, reply in zip(session.speakers, replies, strict=False):
        ended = "stopped" if reply.stopped else "" if reply.finished else "cut off: /set max_new_tokens <more>"
        name = f"{speaker.name}: " if len(session.speakers) > 1 else ""
        rate = reply.tokens / reply.seconds if reply.seconds else 0.0
        shown.append(f"{name}{reply.tokens} tokens, {rate:.0f} a second{', ' + ended if ended else ''}")
    return shown


def _read(by_hand: bool) -> str | None:
    """The next line, None at the end of input."""
    if by_hand and sys.stdout.isatty():
        try:
            return input("> ")
        except EOFError:
            print()
            return None
    if by_hand:
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.rstrip("\n") if line else None


def _edit_lines() -> None:
    """Arrow keys and earlier lines, where Python has readline."""
    with suppress(ImportError):
        import readline  # noqa: F401
