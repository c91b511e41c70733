"""From a file's columns to a format, and from a raw row to rows of one kind."""

import importlib
import importlib.util
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import get_args, get_origin

from rlhf_recipes.data.formats import FORMATS
from rlhf_recipes.data.formats.rows import GIVES, KINDS, Drop, as_kind
from rlhf_recipes.data.formats.turns import are_turns, as_text, decoded, from_json, history_turns
from rlhf_recipes.data.sources import Source, peek
from rlhf_recipes.errors import UserError, suggest

# Columns that stand beside those of any format and belong to the prompt: LLaMA-Factory's, Orca's, OpenAI's names.
CONTEXT = ("system", "system_prompt", "history", "tools")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
TURN_KEYS = {"role", "content", "from", "value"}


@dataclass(frozen=True)
class Mapper:
    """A row mapper and what its signature says.

    Args:
        function: a function of formats/ or a user's own.
        needed, optional: the columns that must be there, and those read where they are.
        options: its keyword-only parameters.
        cuts_by_tokens: whether it takes the tokenizer.
        gives: the kinds that its return annotation promises; all of them where it has none.
    """

    function: Callable
    needed: tuple[str, ...]
    optional: tuple[str, ...]
    options: tuple[str, ...]
    cuts_by_tokens: bool
    gives: tuple[str, ...]

    @property
    def takes_rows(self) -> bool:
        """Whether it takes a whole row, whatever its columns are."""
        return self.needed == ("row",)

    def apply(self, row: dict, source: Source, tokenizer=None) -> list[dict]:
        """One raw row through the mapper.

        Raises:
            Drop: the row cannot be used.
        """
        row = row | {ours: row[theirs] for ours, theirs in source.columns.items() if theirs in row}
        keywords = source.options | ({"tokenizer": tokenizer} if self.cuts_by_tokens else {})
        if self.takes_rows:
            made = self.function(row, **keywords)
            return made if isinstance(made, list) else [made]
        if media := next((name for name in MEDIA if row.get(name)), None):
            raise Drop(f"it has {media}, and only text is trained")
        for name in self.needed:
            if row.get(name) is None:
                raise Drop(f"no {name}")
        given = {name: decoded(row[name]) for name in (*self.needed, *self.optional) if name in row}
        try:
            made = self.function(**given, **keywords)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise Drop(f"not in the format {self.function.__name__} ({type(error).__name__}: {error})") from error
        context = {name: row[name] for name in CONTEXT if name not in given and row.get(name)}
        return [_within(one, context) for one in (made if isinstance(made, list) else [made])]

    def rows(self, raw: dict, source: Source, kind: str, tokenizer=None) -> Iterator[dict | Drop]:
        """A raw row as rows of one kind, with a Drop for each that cannot be one."""
        try:
            made = self.apply(raw, source, tokenizer) or [{}]
        except Drop as reason:
            made = [reason]
        for one in made:
            try:
                if isinstance(one, Drop):
                    raise one
                yield from as_kind(one, kind)
            except Drop as reason:
                yield reason

    def unread(self, row: dict, source: Source, *, extra: bool) -> set[str]:
        """The columns of a raw row, and the keys of its turns as messages[].name, that this format does not read.

        Args:
            extra: whether the kind takes every other column along.
        """
        if self.takes_rows or source.group or source.path == "embedded":
            return set()
        read = {source.columns.get(name, name) for name in (*self.needed, *self.optional, *CONTEXT)}
        turn_keys = TURN_KEYS | ({"weight"} if "turns_trained" in self.options else set())
        keys = {
            f"{name}[].{key}"
            for name in read & row.keys()
            if isinstance(row[name], list)
            for turn in row[name]
            if isinstance(turn, dict) and turn.keys() & {"role", "from"}
            for key, value in turn.items()
            if key not in turn_keys and value not in (None, "", [])
        }
        return keys if extra else keys | {name for name, value in row.items() if name not in read and value is not None}


def _within(row: dict, context: dict) -> dict:
    """A mapped row in its context: the history before its prompt, its system prompt and tools beside it.

    Raises:
        Drop: two system prompts, or a history or tools that cannot be read.
    """
    if not context or "prompt" not in row:
        return row
    prompt = row["prompt"]
    if history := history_turns(context.get("history")):
        own = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt.strip()}]
        first = 1 if own[0]["role"] == "system" else 0
        row = row | {"prompt": [*own[:first], *history, *own[first:]]}
    if system := as_text(context.get("system") or context.get("system_prompt"), "system").strip():
        first = prompt[0] if isinstance(prompt, list) and prompt else {"role": "user"}
        if first["role"] == "system" and first["content"] != system:
            raise Drop("two system prompts")
        row = row | {"system": system}
    tools = from_json(context.get("tools"))
    tools = [from_json(tool) for tool in tools] if isinstance(tools, list) else tools
    if isinstance(tools, str) or (isinstance(tools, list) and not all(isinstance(tool, dict) for tool in tools)):
        raise Drop("tools are not JSON")
    return row | {"tools": json.dumps(tools, ensure_ascii=False)} if tools else row


@cache
def mapper(name: str, where: str) -> Mapper:
    """The mapper of a format: of formats/, or a user's `package.module:function` or `./file.py:function`.

    Raises:
        UserError: there is none, with did-you-mean.
    """
    if ":" not in name and name not in FORMATS:
        raise UserError(f"{where}.format={name}: no such format{suggest(name, FORMATS)}")
    function = _users(name, where) if ":" in name else FORMATS[name]
    signature = inspect.signature(function)
    columns = [p for p in signature.parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    promise = signature.return_annotation
    promise = get_args(promise)[0] if get_origin(promise) is list else promise
    return Mapper(
        function,
        needed=tuple(p.name for p in columns if p.default is p.empty),
        optional=tuple(p.name for p in columns if p.default is not p.empty),
        options=tuple(option for option in options if option != "tokenizer"),
        cuts_by_tokens="tokenizer" in signature.parameters,
        gives=GIVES.get(promise, tuple(KINDS)),
    )


def offers(source: Source) -> tuple[str, ...]:
    """The kinds that can be had from a source, as far as its settings and, for a local file, its columns tell."""
    if (name := _named(source)) != "auto":
        return mapper(name, source.where).gives
    peeked = peek(source)
    if peeked is None:  # a hub set: only reading it would tell
        return tuple(KINDS)
    return tuple(kind for kind in KINDS if _detected(*peeked, kind, source)[0])


def _named(source: Source) -> str:
    """The format that a source names; the embedded world's rows have one of their own for each kind."""
    kind = KINDS[source.kind]
    return (kind.embedded or kind.simple) if source.path == "embedded" else source.format


def choose(source: Source, names: list[str], rows: list[dict], kind: str) -> Mapper:
    """The mapper for a source: the one it names, or for `auto` the one that reads most of its columns.

    Raises:
        UserError: a column is missing or no format fits, with the columns there are and the formats that would do.
    """
    where, label = source.where, source.label
    if source.path == "embedded":
        return mapper(_named(source), where)
    if source.group and source.group not in names:
        raise UserError(f"{label}: {where}.group={source.group} is not among its columns {_listed(names)}")
    renamed = {ours: theirs for ours, theirs in source.columns.items() if theirs in names}
    names = [*renamed, *(n for n in names if n not in renamed.values() and n not in renamed)]
    names += ["rows"] if source.group else []
    if source.format == "auto":
        chosen, failed = _detected(names, rows, kind, source)
        if chosen is None:
            raise UserError(
                f"{label} has the columns {_listed(names)}, and no format makes {kind} of them"
                f"{_remedy(names, kind, where, failed, rows)}"
            )
    else:
        chosen = mapper(source.format, where)
        missing = [] if chosen.takes_rows else [column for column in chosen.needed if column not in names]
        if missing:
            raise UserError(
                f"{label}: format={source.format} needs {_listed(missing)} to make "
                f"{kind}; the file has {_listed(names)}{_remedy(names, kind, where, {}, rows)}"
            )
        if kind not in chosen.gives:
            raise UserError(
                f"{label}: format={source.format} gives {', '.join(chosen.gives)}, not {kind}"
                f"{_remedy(names, kind, where, {}, rows)}"
            )
    for option in source.options:
        if option not in chosen.options:
            takes = ", ".join(chosen.options) or "no options"
            raise UserError(
                f"no setting {where}.options.{option} of format={chosen.function.__name__}, which takes {takes}; "
                f"~{where}.options leaves them out"
            )
    return chosen


def fits(names: list[str], kind: str) -> list[str]:
    """Names of the formats whose columns are all there and that give the kind; those that read most columns come first.

    >>> fits(["prompt", "chosen", "rejected"], "preferences")
    ['preference', 'hh']
    """
    mappers = {name: mapper(name, "") for name in FORMATS}
    fitting = [name for name, m in mappers.items() if set(m.needed) <= set(names) and kind in m.gives]
    return sorted(fitting, key=lambda n: (-sum(c in names for c in mappers[n].needed + mappers[n].optional), n))


def _detected(names: list[str], rows: list[dict], kind: str, source: Source) -> tuple[Mapper | None, dict[str, str]]:
    """The format that reads most of the columns and can make the kind of one of the first rows; why others cannot."""
    plain, failed = replace(source, options={}), {}
    for name in fits(names, kind):
        candidate = mapper(name, "")
        if candidate.cuts_by_tokens:  # the user must say how much of a text is its prompt
            continue
        if not rows:  # a saved folder is judged by its columns alone
            return candidate, failed
        for made in (made for row in rows for made in candidate.rows(row, plain, kind)):
            if not isinstance(made, Drop):
                return candidate, failed
            failed.setdefault(name, str(made))
    return None, failed


def _remedy(names: list[str], kind: str, where: str, failed: dict[str, str], rows: list[dict]) -> str:
    if failed:
        return f". Tried: {', '.join(f'{name} ({reason})' for name, reason in failed.items())}"
    if fitting := fits(names, kind):
        return f". These formats fit: {', '.join(fitting)} ({where}.format={fitting[0]})"
    dialogue = next((name for name in names if any(are_turns(decoded(row.get(name))) for row in rows)), None)
    if dialogue and kind in mapper("messages", where).gives:
        wanted = f"messages: {dialogue}"
    else:
        wanted = ", ".join(f"{name}: <yours>" for name in mapper(KINDS[kind].simple, where).needed)
    return f". Rename: {where}.columns='{{{wanted}}}', or give another {where}.format"


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none"


def _users(name: str, where: str) -> Callable:
    place, _, function = name.rpartition(":")
    try:
        if place.endswith(".py"):
            spec = importlib.util.spec_from_file_location(Path(place).stem, place)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(place)
        return getattr(module, function)
    except (ImportError, AttributeError, FileNotFoundError) as error:
        raise UserError(
            f"{where}.format={name}: {error}; expected ./file.py:function or package.module:function"
        ) from error
