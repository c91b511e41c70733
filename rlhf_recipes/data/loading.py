"""`check` and `load`: a domain's rows of one kind, as the trainers take them, with every row accounted for."""

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from rlhf_recipes.data import hub_datasets, mapping, sources, splitting, templates
from rlhf_recipes.data.domain import Domain, domain
from rlhf_recipes.data.examples import Example, Limits, example, tokenise
from rlhf_recipes.data.formats.rows import KINDS, Drop
from rlhf_recipes.data.sources import Source
from rlhf_recipes.engine.prompts import REMEDY
from rlhf_recipes.errors import UserError

TOKEN_COLUMNS = ("input_ids", "prompt_ids", "completion_ids", "chosen_ids", "rejected_ids")
BATCH = 1000  # rows tokenised and stored at a time
SHOWN = 3  # dropped rows of one reason whose places are named


@dataclass
class Split:
    """Rows to train on and rows held out, with what became of every row that was read.

    Args:
        train, eval: `datasets.Dataset`; `eval` has no rows where data.eval_fraction=0.
        counts: read (rows in the sources), rows (made of them, where a format makes several of one), train, eval,
            dropped {reason: rows}, dropped_at {reason: the places of the first such rows and what is wrong there},
            cut (rows longer than max_length), duplicates, notes (how a folder was read, columns that nobody reads);
            rows = train + eval + all dropped.
        kind: one of KINDS.
        source: the config's key that the rows came from, data.preferences for demos made of preferences.
    """

    train: Any
    eval: Any
    counts: dict[str, Any]
    kind: str
    source: str

    def describe(self) -> str:
        """«preferences: 2312 read, 2190 to train + 118 held out; 4 dropped (…)», a line for each note."""
        c = self.counts
        made = f", {c['rows']} made of them" if c["rows"] != c["read"] else ""
        origin = "" if self.source == f"data.{self.kind}" else f" (from {self.source})"
        line = f"{self.kind}{origin}: {c['read']} read{made}, {c['train']} to train + {c['eval']} held out"
        if c["dropped"]:
            line += f"; {sum(c['dropped'].values())} dropped ({_reasons(c['dropped'], c['dropped_at'])})"
        if c["cut"]:
            line += f"; {c['cut']} cut at {c['max_length']} tokens"
        if c["duplicates"]:
            line += f"; {c['duplicates']} the same as another, kept"
        return "\n  ".join([line, *c["notes"]])


def check(data: Any, kind: str, stage: str | None = None) -> None:
    """Raise on what is wrong with a kind's source as far as its first rows tell: a missing, empty or broken file,
    missing columns, an unknown key, format or template, a kind not offered, a hub that does not answer.

    It takes milliseconds, and imports neither torch nor `datasets`.

    Args:
        data: the `data` node, OmegaConf or dict.
        stage: named in the message where the domain lacks the kind.

    Raises:
        UserError: one line, with the fix.
    """
    node = domain(data)
    templates.check(node.template)
    source = node.choose(kind, stage)
    for part in [*source.parts(), *source.eval_sources()]:
        if part.place == "hub":
            hub_datasets.probe(part)
            if part.format != "auto":
                mapping.mapper(part.format, part.where)
        elif peeked := sources.peek(part):
            mapping.choose(part, *peeked, kind)


def load(
    data: Any,
    kind: str,
    *,
    tokenizer=None,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    keep_end: bool = False,
    seed: int = 0,
    stage: str | None = None,
) -> Split:
    """Read, map, template, measure and split a domain's rows of one kind.

    Args:
        data: the `data` node, OmegaConf or dict.
        tokenizer: the model's; with it the rows have token ids beside their texts (`examples.Tokens`), and a row that
            its chat template cannot show is dropped.
        max_length: tokens of prompt and answer; longer demos and documents are counted (TRL cuts them), longer
            preferences dropped.
        max_prompt_length: tokens; rows with a longer prompt are dropped and counted. None: data.max_prompt_length.
        keep_end: the trainer cuts a row's start (trainer.truncation_mode=keep_end), so that none loses its answer.
        seed: of the embedded generator and of a mixture's choice; the split does not depend on it.

    Raises:
        UserError: whatever `check` finds, broken rows further down, or no row left to train on.
    """
    check(data, kind, stage)
    node = domain(data)
    templates.check(node.template, tokenizer)
    source = node.choose(kind, stage)
    limits = Limits(max_length, node.max_prompt_length if max_prompt_length is None else max_prompt_length, keep_end)
    several = len([*source.parts(), *source.eval_sources()]) > 1
    reader = Reader(kind, node, tokenizer, limits, seed, several)
    for number, part in enumerate(source.parts()):
        reader.collect(part, number)
    train, held_out = _split(reader, source, node, seed)
    counts = {name: reader.counts[name] for name in ("read", "rows", "cut", "duplicates")}
    counts |= {"train": len(train), "eval": len(held_out), "max_length": max_length}
    counts["dropped"] = {reason: n for reason, n in reader.dropped.most_common() if n}
    counts["dropped_at"] = reader.dropped_at()
    counts["notes"] = [note for part in source.parts() if (note := part.note())]
    counts["notes"] += [
        f"{part}: not read: {', '.join(sorted(names))}" for part, names in reader.unread.items() if names
    ]
    if reader.dialogues and node.template == "plain" and getattr(tokenizer, "chat_template", None):
        counts["notes"].append(
            "the rows are dialogues and data.template=plain joins their turns without a mark of who speaks; the "
            "tokenizer has a chat template: data.template=chat"
        )
    return Split(reader.dataset(train), reader.dataset(held_out), counts, kind, source.where)


@dataclass
class Reader:
    """The rows of one kind that can be used, in the order they were read, and what became of the others."""

    kind: str
    node: Domain
    tokenizer: object  # None tokenises nothing
    limits: Limits
    seed: int  # of the embedded generator
    several: bool  # whether there are other sources, so that a row's place needs its source's name
    keys: list[int] = field(default_factory=list)  # each row's fingerprint that the split goes by
    prompts: list[int] = field(default_factory=list)  # of its whole prompt, to find it again on the other side
    parts: list[int] = field(default_factory=list)  # which of a mixture's sources it is of
    counts: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    places: dict[str, list[str]] = field(default_factory=dict)  # by reason: where the first dropped rows stand
    details: dict[str, str] = field(default_factory=dict)  # by reason: what is wrong with the first of them
    unread: dict[str, set[str]] = field(default_factory=dict)  # by source: the columns that nobody reads
    dialogues: bool = False  # whether a row's prompt came as turns
    _seen: set[int] = field(default_factory=set)
    _tables: list = field(default_factory=list)  # Arrow tables: a corpus of millions fits in memory once

    def collect(self, part: Source, number: int) -> None:
        """Add the usable rows of one source, the mixture's `number`-th, and count the others."""
        from tqdm import tqdm

        delay, interval = (2, 0.1) if sys.stderr.isatty() else (30, 30)
        examples = iter(tqdm(self._examples(part), part.label, unit=" rows", delay=delay, mininterval=interval))
        while batch := list(islice(examples, BATCH)):
            tokens = tokenise([one.row for one in batch], self.kind, self.tokenizer, self.limits)
            usable = []
            for one, ids in zip(batch, tokens, strict=True):
                if ids.reason:
                    self._drop(ids.reason, one.place, ids.detail)
                    continue
                self.counts["cut"] += ids.cut
                self.counts["duplicates"] += one.all in self._seen
                self._seen.add(one.all)
                self.keys.append(one.key)
                self.prompts.append(one.prompt)
                self.parts.append(number)
                usable.append(one.row | ids.columns)
            if usable:
                self._tables.append(_table({name: [row.get(name) for row in usable] for name in _names(usable)}))

    def dataset(self, positions: list[int]):
        """The rows at these positions as a `datasets.Dataset`, all columns even where there are no rows."""
        import pyarrow as pa
        from datasets import Dataset

        if len(self._tables) > 1:
            self._tables = [_joined(self._tables)]
        table = self._tables[0].take(pa.array(positions, type=pa.int64())) if self._tables else pa.table({})
        return Dataset(table)

    def _examples(self, part: Source) -> Iterator[Example]:
        rows = sources.read(part, self.seed)
        first = list(islice(rows, sources.PEEK))  # `format: auto` is decided on these
        raws = [raw for _, raw in first]
        mapper = mapping.choose(part, sources.columns(raws, part.group), raws, self.kind)
        unread = self.unread.setdefault(part.label, set())
        for place, raw in chain(first, rows):
            place = f"{Path(part.path).name} {place}" if self.several else place
            self.counts["read"] += 1
            unread |= mapper.unread(raw, part, extra=KINDS[self.kind].extra)
            for made in mapper.rows(raw, part, self.kind, self.tokenizer):
                self.counts["rows"] += 1
                try:
                    if isinstance(made, Drop):
                        raise made
                    self.dialogues |= isinstance(made.get("prompt"), list)
                    yield example(made, raw, self.kind, self.node.template, self.node.system, place)
                except Drop as reason:
                    self._drop(str(reason), place)

    def _drop(self, reason: str, place: str, detail: str = "") -> None:
        self.dropped[reason] += 1
        places = self.places.setdefault(reason, [])
        if len(places) <= SHOWN and place not in places:  # a pair may make two rows to drop
            places.append(place)
        if detail:
            self.details.setdefault(reason, detail)

    def dropped_at(self) -> dict[str, str]:
        """By reason: «line 8, line 30, line 31, …: turns must alternate»."""
        result = {}
        for reason, places in self.places.items():
            shown = places if len(places) <= SHOWN else [*places[:SHOWN], "…"]
            result[reason] = ": ".join(filter(None, [", ".join(shown), self.details.get(reason)]))
        return result


def _split(reader: Reader, source: Source, node: Domain, seed: int) -> tuple[list[int], list[int]]:
    """Positions of the rows to train on and of those held out; the rows that belong to neither are counted."""
    train = _mixture(reader, source.parts(), seed)
    if eval_sources := source.eval_sources():
        first = len(reader.keys)
        for part in eval_sources:
            reader.collect(part, -1)
        held_out, before = list(range(first, len(reader.keys))), len(train)
        train = splitting.without(train, held_out, reader.keys, reader.prompts)
        reader.dropped["held out by the evaluation source"] += before - len(train)
    else:
        train, held_out, twice = splitting.divide(train, reader.keys, reader.prompts, node.eval_fraction)
        reader.dropped["held out, with a prompt that is trained too"] += twice
    used = splitting.cap(held_out, reader.keys, node.max_eval)
    reader.dropped[f"held out beyond max_eval={node.max_eval}"] += len(held_out) - len(used)
    if not train:
        reasons = _reasons(dict(reader.dropped.most_common()), reader.dropped_at()) or "all are held out"
        raise UserError(
            f"{source.label}: none of {reader.counts['rows']} rows is left to train on ({reasons}); "
            f"{REMEDY if reader.details else f'expected at least one usable row of {reader.kind}'}"
        )
    if not used and node.eval_fraction and not eval_sources:
        raise UserError(
            f"{source.label}: none of {len(train)} rows falls into the {node.eval_fraction:.0%} held out; "
            f"raise data.eval_fraction, or give {source.where}.eval_path=<file>"
        )
    return train, used


def _mixture(reader: Reader, parts: list[Source], seed: int) -> list[int]:
    """Positions of the rows that a mixture takes, all of them where no weights are given."""
    weights = [part.weight for part in parts]
    if all(weight is None for weight in weights):
        return list(range(len(reader.keys)))
    if any(weight is None or weight <= 0 for weight in weights):
        raise UserError(f"{parts[0].where}: give every source of a mixture a weight above 0, or none of them")
    taken = splitting.mix(reader.parts, reader.keys, weights, seed)
    reader.dropped["left out for the mixture's weights"] += len(reader.keys) - len(taken)
    return taken


def _reasons(dropped: dict[str, int], places: dict[str, str]) -> str:
    """«4 empty answer (line 3, line 9, line 12, …), 1 the chat template refuses a row (line 8: too odd)»."""
    at = {reason: f" ({places[reason]})" if reason in places else "" for reason in dropped}
    return ", ".join(f"{n} {reason}{at[reason]}" for reason, n in dropped.items() if n)


def _names(rows: list[dict]) -> list[str]:
    return list(dict.fromkeys(name for row in rows for name in row))


def _table(columns: dict[str, list]):
    """An Arrow table; a column of values of several types (12 beside "x + 1") becomes text."""
    import pyarrow as pa

    def text(value) -> str | None:
        return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

    sizes = dict.fromkeys(TOKEN_COLUMNS, pa.int32()) | {"completion_mask": pa.int8()}  # Arrow would take 8 bytes each

    def array(name: str, values: list):
        try:
            return pa.array(values, pa.list_(sizes[name]) if name in sizes else None)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return pa.array([text(value) for value in values], pa.string())

    return pa.table({name: array(name, values) for name, values in columns.items()})


def _joined(tables: list):
    """One table; a column that is of one type here and of another there becomes text."""
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        rows = [row for table in tables for row in table.to_pylist()]
        return _table({name: [row.get(name) for row in rows] for name in _names(rows)})
