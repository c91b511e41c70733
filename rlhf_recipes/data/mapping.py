"""From a file's columns to a format, and from a raw row to rows of one kind."""

import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import get_args, get_origin

from rlhf_recipes.data import formats
from rlhf_recipes.data.formats.rows import GIVES, KINDS, Drop, as_kind
from rlhf_recipes.errors import UserError, suggest

EMBEDDED = {
    "corpus": "text",
    "demos": "prompt_completion",
    "preferences": "preference",
    "prompts": "rlhf_recipes.data.embedded:question",
    "ranked": "ranked",
}


def find(name: str, where: str) -> Callable:
    """The mapper of that name: of formats/, or a user's `package.module:function` or `./file.py:function`.

    Raises:
        UserError: there is none, with did-you-mean.
    """
    if ":" in name:
        return _users(name, where)
    if name not in formats.__all__:
        raise UserError(f"{where}.format={name}: no such format{suggest(name, formats.__all__)}")
    return getattr(formats, name)


@cache
def columns(mapper: Callable) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(columns that must be there, columns read where they are) of a mapper: its positional parameters."""
    parameters = [p for p in inspect.signature(mapper).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    needed = tuple(p.name for p in parameters if p.default is p.empty)
    return needed, tuple(p.name for p in parameters if p.default is not p.empty)


@cache
def gives(mapper: Callable) -> tuple[str, ...]:
    """The kinds a mapper's return annotation promises; all of them where it has none."""
    promise = inspect.signature(mapper).return_annotation
    if get_origin(promise) is list:
        promise = get_args(promise)[0]
    return GIVES.get(promise, KINDS)


@cache
def needs_tokenizer(mapper: Callable) -> bool:
    """Whether a mapper cuts texts by tokens."""
    return "tokenizer" in inspect.signature(mapper).parameters


def offers(source) -> tuple[str, ...]:
    """The kinds that can be had from a source, as far as its settings and, for a local file, its columns tell."""
    if source.path == "embedded":
        return (source.where.rpartition(".")[2],)
    if source.format != "auto":
        return gives(find(source.format, source.where))
    from rlhf_recipes.data import sources

    peeked = sources.peek(source)
    if peeked is None:  # a hub set: only reading it would tell
        return KINDS
    return tuple(kind for kind in KINDS if _detected(peeked.rows, peeked.columns, kind, source))


def choose(source, names: list[str], rows: list[dict], kind: str) -> Callable:
    """The mapper for a source: the one it names, or for `auto` the one that reads most of its columns.

    Args:
        source: a domain.Source.
        names: the file's columns.
        rows: a few of its rows.
        kind: one of KINDS.

    Raises:
        UserError: a column is missing or no format fits, with the columns there are and the formats that would do.
    """
    where, label = source.where, source.label
    if source.group and source.group not in names:
        raise UserError(f"{label}: {where}.group={source.group} is not among its columns {_quoted(names)}")
    names = [*_renamed(names, source.columns), *(["rows"] if source.group else [])]
    if source.format == "auto":
        mapper = _detected(rows, names, kind, source)
        if mapper is None:
            raise UserError(
                f"{label} has the columns {_quoted(names)}, and no format makes {kind} of them"
                f"{_remedy(names, kind, where)}"
            )
    else:
        mapper = find(source.format, where)
        missing = [c for c in columns(mapper)[0] if c not in names and not _whole_row(mapper)]
        if missing:
            raise UserError(
                f"{label}: format={source.format} needs {_quoted(missing)} to make "
                f"{kind}; the file has {_quoted(names)}{_remedy(names, kind, where)}"
            )
        if kind not in gives(mapper):
            raise UserError(
                f"{label}: format={source.format} gives {', '.join(gives(mapper))}, not {kind}"
                f"{_remedy(names, kind, where)}"
            )
    for option in source.options:
        if option not in _options(mapper):
            takes = ", ".join(_options(mapper)) or "no options"
            raise UserError(
                f"no setting {where}.options.{option} of format={mapper.__name__}, which takes {takes}; "
                f"~{where}.options leaves them out"
            )
    return mapper


def apply(mapper: Callable, row: dict, source, tokenizer=None) -> list[dict]:
    """One raw row through a mapper.

    Raises:
        Drop: the row cannot be used.
    """
    for ours, theirs in source.columns.items():
        if theirs in row:
            row = {**row, ours: row[theirs]}
    keywords = dict(source.options)
    if needs_tokenizer(mapper):
        keywords["tokenizer"] = tokenizer
    if _whole_row(mapper):
        made = mapper(row, **keywords)
    else:
        needed, optional = columns(mapper)
        for name in needed:
            if row.get(name) is None:
                raise Drop(f"no {name}")
        try:
            made = mapper(**{name: row[name] for name in (*needed, *optional) if name in row}, **keywords)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise Drop(f"not in the format {mapper.__name__} ({type(error).__name__}: {error})") from error
    return made if isinstance(made, list) else [made]


def _detected(rows: list[dict], names: list[str], kind: str, source) -> Callable | None:
    """The format that reads most of the columns and can make the kind of one of the first rows."""
    plain = replace(source, options={})
    for mapper in (getattr(formats, name) for name in fits(names, kind)):
        if needs_tokenizer(mapper):  # how much of a text is its prompt must be asked for
            continue
        if not rows:  # a saved folder is judged by its columns alone
            return mapper
        for row in rows:
            try:
                if [one for made in apply(mapper, row, plain) for one in as_kind(made, kind)]:
                    return mapper
            except Drop:
                continue
    return None


def fits(names: list[str], kind: str) -> list[str]:
    """Names of the formats whose columns are all there and that give the kind, those that read most columns first.

    >>> fits(["prompt", "chosen", "rejected"], "preferences")
    ['preference', 'hh']
    """

    def reads(name: str) -> int:
        return sum(column in names for part in columns(getattr(formats, name)) for column in part)

    mappers = [(name, getattr(formats, name)) for name in formats.__all__]
    fitting = [name for name, m in mappers if set(columns(m)[0]) <= set(names) and kind in gives(m)]
    return sorted(fitting, key=lambda name: (-reads(name), name))


def _remedy(names: list[str], kind: str, where: str) -> str:
    fitting = fits(names, kind)
    if fitting:
        return f". These formats fit: {', '.join(fitting)} ({where}.format={fitting[0]})"
    simple = {"corpus": "text", "prompts": "prompt", "demos": "prompt_completion", "preferences": "question_pair"}
    wanted = columns(getattr(formats, simple.get(kind, "ranked")))[0]
    pairs = ", ".join(f"{ours}: <yours>" for ours in wanted)
    return f". Rename: {where}.columns='{{{pairs}}}', or give another {where}.format"


def _renamed(names: list[str], mapping: dict[str, str]) -> list[str]:
    """The columns under the format's names. A renaming whose column is not there renames nothing."""
    there = {ours: theirs for ours, theirs in mapping.items() if theirs in names}
    return [*there, *(n for n in names if n not in there.values() and n not in there)]


def _options(mapper: Callable) -> list[str]:
    parameters = inspect.signature(mapper).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "tokenizer"]


def _whole_row(mapper: Callable) -> bool:
    return columns(mapper)[0] == ("row",)


def _quoted(names: list[str]) -> str:
    return ", ".join(names) if names else "none"


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
