"""The terminal around a talk: lines and commands in, answers to stdout as they are written, all else to stderr."""

import re
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from rlhf_recipes.chat.speaker import Reply, Speaker
from rlhf_recipes.config import settings
from rlhf_recipes.errors import UserError, suggest
from rlhf_recipes.runs.jsonl import rewrite_jsonl

with suppress(ImportError):
    import readline  # noqa: F401 (arrow keys and earlier lines in `input`)

HELP = """\
/set                  the settings
/set temperature 0.7  change one; also top_p, top_k, repetition_penalty, max_new_tokens, seed, history, system
/reset                forget the talk, keep the settings
/prompt               the last prompt to the letter, as the model saw it
/save talk.jsonl      the talk as rows of messages, which data.demos.path reads
/quit, Ctrl-D         end; Ctrl-C stops an answer
//word                a line that begins with a slash"""
COMMANDS = ("set", "reset", "prompt", "save", "help", "quit")
SETTINGS = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "seed", "history", "system")
CONTROL = dict.fromkeys([*range(9), *range(11, 32), 127])  # would move the cursor, ring or recolour; tab and \n stay


class Talk:
    """One talk with every speaker. `/set` replaces `cfg` by one that has been checked as the first was."""

    def __init__(self, speakers: list[Speaker], cfg: DictConfig):
        self.speakers, self.cfg, self.saved = speakers, cfg, set()

    @property
    def settings(self) -> dict:
        """What `/set` shows and `/save` writes; None stands for what the model was trained with."""
        return {name: self.cfg.seed if name == "seed" else self.cfg.chat[name] for name in SETTINGS}

    def run(self) -> None:
        """Line by line until Ctrl-D, /quit or the end of what is piped in.

        At a terminal an error is shown and the talk goes on. With lines piped in, an error or Ctrl-C ends the program,
        because the answers would no longer stand beside their questions.
        """
        by_hand = sys.stdin.isatty()
        mark = "> " if by_hand and sys.stdout.isatty() else ""
        while True:
            try:
                if by_hand and not mark:
                    print("> ", end="", file=sys.stderr, flush=True)  # stdout is a file of answers
                line = input(mark)
                if line.startswith("/") and not line.startswith("//"):
                    if (message := self.command(line)) is None:
                        return
                    note(message)
                elif line.strip():
                    replies = self.answer(line.removeprefix("/"))
                    if replies[-1].stopped and not by_hand:
                        raise KeyboardInterrupt
                    if by_hand:
                        note("   ".join(map(self._figures, self.speakers, replies)))
            except EOFError:
                return
            except (UserError, KeyboardInterrupt) as error:
                if not by_hand:
                    raise
                note(str(error) or "\nCtrl-D or /quit ends the talk")

    def command(self, line: str) -> str | None:
        """Does what a line such as `/set seed 3` says, or raises UserError.

        Returns the message for the screen; None ends the talk.
        """
        word, _, rest = line.strip().removeprefix("/").partition(" ")
        match word:
            case "quit" | "exit":
                return None
            case "help":
                return HELP
            case "set":
                return self._set(*re.split(r"[\s=]+", rest.strip(), maxsplit=1))
            case "reset":
                for speaker in self.speakers:
                    speaker.turns = []
                return "the talk is forgotten"
            case "prompt":
                return "\n".join(f"{s.name}: {s.tokenizer.decode(s.prompt)!r}" for s in self.speakers)
            case "save":
                return self._save(rest.strip())
        raise UserError(f"no command /{word}{suggest(word, COMMANDS, '/')} (//{word} sends it as words)")

    def _set(self, name: str, value: str | None = None) -> str:
        if name:
            if name not in SETTINGS:
                raise UserError(f"no setting {name}{suggest(name, SETTINGS)}")
            if not value:
                raise UserError(f"/set {name}: no value given; expected /set {name} <value>")
            plain = OmegaConf.to_container(self.cfg)
            value = None if value == "own" else value.replace("${", "\\${")
            (plain if name == "seed" else plain["chat"])[name] = value
            self.cfg = settings.check(OmegaConf.create(plain))
        shown = {key: value for key, value in self.settings.items() if key == (name or key)}
        return "\n".join(f"{key} {'own' if value is None else value}" for key, value in shown.items())

    def _save(self, place: str) -> str:
        path = Path(place).expanduser()
        if not place or (path.exists() and path.resolve() not in self.saved):
            raise UserError(f"/save {place}: expected a file that is not there already, as in /save talk.jsonl")
        rows = [{"messages": s.turns, "model": s.name, "path": s.source.path} for s in self.speakers]
        try:
            rewrite_jsonl(path, [row | {"settings": self.settings} for row in rows])
        except OSError as error:
            raise UserError(f"/save {place}: cannot be written ({error.strerror})") from error
        self.saved.add(path.resolve())
        return f"{sum(len(s.turns) for s in self.speakers)} turns saved in {path}"

    def answer(self, text: str) -> list[Reply]:
        """The models answer one after the other, from the same random numbers; at a terminal in a column each."""
        replies, written, several, terminal = [], [""] * len(self.speakers), len(self.speakers) > 1, sys.stdout.isatty()
        columns = Live(auto_refresh=False, transient=True) if several and terminal else None
        with columns or nullcontext():
            for column, speaker in enumerate(self.speakers):

                def emit(piece: str, column: int = column) -> None:
                    piece = piece.translate(CONTROL) if terminal else piece
                    piece = piece if written[column] else piece.lstrip()  # most answers begin with a space
                    written[column] += piece
                    if columns:
                        columns.update(self._table(written), refresh=True)
                    else:
                        print(piece, end="", flush=True)

                print(f"{speaker.name}: " if several and not columns else "", end="")
                try:
                    replies.append(speaker.answer(text, self.cfg, emit))
                finally:
                    print(end="" if columns else "\n", flush=True)
                if replies[-1].stopped:
                    break
        if columns:
            Console().print(self._table(written))  # once more as a whole: Live cuts what is higher than the screen
        return replies

    def _table(self, written: list[str]) -> Table:
        columns = [Column(Text(speaker.name), ratio=1) for speaker in self.speakers]
        table = Table(*columns, box=None, expand=True, padding=(0, 2, 0, 0))
        table.add_row(*map(Text, written))
        return table

    def _figures(self, speaker: Speaker, reply: Reply) -> str:
        """«ppo: 12 tokens, 80 a second», and why the answer ended where it did not end by itself."""
        ended = ", stopped" if reply.stopped else "" if reply.finished else ", cut off: /set max_new_tokens <more>"
        name = f"{speaker.name}: " if len(self.speakers) > 1 else ""
        rate = reply.tokens / reply.seconds if reply.seconds else 0.0
        return f"{name}{reply.tokens} tokens, {rate:.0f} a second{ended}"


def note(text: str) -> None:
    """A line for the person, not for a file of answers."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, style="dim", markup=False)
