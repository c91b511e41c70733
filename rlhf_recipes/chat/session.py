"""A talk with one model or several: what was said, the settings, and the commands that change them."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from rlhf_recipes.chat.sampling import ALL, Sampling, changed
from rlhf_recipes.chat.speaker import Reply, Speaker
from rlhf_recipes.errors import UserError, suggest

HELP = """\
/set                  the settings
/set temperature 0.7  change one; also top_p, top_k, repetition_penalty, max_new_tokens, seed, history, system
/reset                forget the talk, keep the settings
/prompt               the last prompt to the letter, as the model saw it
/save talk.jsonl      the talk as rows of messages, which data.demos.path reads
/quit, Ctrl-D         end; Ctrl-C stops an answer
//word                a line that begins with a slash"""
COMMANDS = ("set", "reset", "prompt", "save", "help", "quit")


class Session:
    """Args:
    speakers: each has a talk of its own, with its own answers.
    sampling: where the settings start.
    """

    def __init__(self, speakers: list[Speaker], sampling: Sampling):
        self.speakers, self.sampling = speakers, sampling
        self.talks: list[list[dict]] = [[] for _ in speakers]
        self.prompts: list[list[int]] = [[] for _ in speakers]
        self.saved: set[Path] = set()

    def ask(self, number: int, text: str, emit: Callable[[str], None] = lambda text: None) -> Reply:
        """Speaker `number`'s answer to a line. It joins the talk, as does one that Ctrl-C cut short.

        Raises:
            UserError: the line does not fit the model; the talk is as it was.
        """
        speaker, talk = self.speakers[number], self.talks[number]
        turns = [*talk, {"role": "user", "content": text}]
        self.prompts[number] = speaker.prompt_ids(turns, self.sampling)
        reply = speaker.answer(turns, self.sampling, emit)
        self.talks[number] = [*turns, {"role": "assistant", "content": reply.text}]
        return reply

    def command(self, line: str) -> str | None:
        """Does what a line such as `/set seed 3` says.

        Returns:
            What to tell; None ends the talk.

        Raises:
            UserError: no such command, setting or value, or the file cannot be written.
        """
        word, _, rest = line.removeprefix("/").partition(" ")
        rest = rest.strip()
        match word:
            case "quit" | "exit":
                return None
            case "help":
                return HELP
            case "set":
                return self._set(rest)
            case "reset":
                self.talks = [[] for _ in self.speakers]
                return "the talk is forgotten"
            case "prompt":
                shown = zip(self.speakers, self.prompts, strict=True)
                return "\n".join(f"{s.name}: {s.tokenizer.decode(ids)!r}" for s, ids in shown)
            case "save":
                return self._save(rest)
        raise UserError(f"no command /{word}{suggest(word, COMMANDS, '/')} (//{word} sends it as words)")

    def _set(self, rest: str) -> str:
        name, value = [*re.split(r"[\s=]+", rest, maxsplit=1), ""][:2]
        if not rest:
            return "\n".join(f"{key} {_shown(key, of)}" for key, of in asdict(self.sampling).items())
        if not value:
            raise UserError(f"/set {name}: no value given; expected /set {name} <value>")
        self.sampling = changed(self.sampling, name, value)
        return f"{name} {_shown(name, getattr(self.sampling, name))}"

    def _save(self, rest: str) -> str:
        if not rest:
            raise UserError("/save: no file given; expected /save talk.jsonl")
        path = Path(rest).expanduser()
        if path.exists() and path.resolve() not in self.saved:
            raise UserError(f"/save {rest}: the file is there already; choose another name")
        settings = asdict(self.sampling)
        rows = [
            {"messages": talk, "model": speaker.name, "path": speaker.found.path, "settings": settings}
            for speaker, talk in zip(self.speakers, self.talks, strict=True)
        ]
        part = path.with_name(f".{path.name}.part")
        try:
            part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            os.replace(part, path)
        except OSError as error:
            raise UserError(f"/save {rest}: cannot be written ({error.strerror})") from error
        self.saved.add(path.resolve())
        turns = sum(len(talk) for talk in self.talks)
        return f"{turns} turns saved in {path}"


def _shown(name: str, value) -> str:
    if value is None:
        return "own"
    return {("history", ALL): "all", ("system", ""): "none"}.get((name, value), str(value))
