"""Sources read, mapped, templated and measured: the rows that can be used, and a count of why the others cannot."""

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

from rlhf_recipes.data import lengths, mapping, sources, tables
from rlhf_recipes.data.domain import Source
from rlhf_recipes.data.finishing import Finished, finish
from rlhf_recipes.data.formats.rows import Drop, as_kind

BATCH = 1000  # rows measured and stored at a time


@dataclass
class Reading:
    """How rows of one kind are read, and those that passed, in the order they were read.

    Args:
        kind: corpus, demos, preferences, prompts or ranked.
        template: one of templates.TEMPLATES.
        system: a system prompt for every row, or None.
        tokenizer: None measures nothing.
        limits: in tokens.
        seed: of the embedded generator.
    """

    kind: str
    template: str
    system: str | None
    tokenizer: object
    limits: lengths.Limits
    seed: int
    rows: tables.Rows = field(default_factory=tables.Rows)
    keys: list[int] = field(default_factory=list)  # each row's fingerprint that the split goes by
    prompts: list[int] = field(default_factory=list)  # of its whole prompt, to find it again on the other side
    parts: list[int] = field(default_factory=list)  # which of a mixture's sources it is of
    counts: Counter = field(default_factory=Counter)
    dropped: Counter = field(default_factory=Counter)
    _seen: set[int] = field(default_factory=set)

    def collect(self, part: Source, number: int) -> None:
        """Add one source's usable rows, and count the others.

        Args:
            part: the source.
            number: its place in the mixture.
        """
        rows = iter(_progress(self._usable(part), part.label))
        while batch := list(islice(rows, BATCH)):
            verdicts = [lengths.Verdict()] * len(batch)
            if self.tokenizer is not None:
                verdicts = lengths.judge([one.row for one in batch], self.kind, self.tokenizer, self.limits)
            passed = []
            for one, verdict in zip(batch, verdicts, strict=True):
                if verdict.dropped:
                    self.dropped[verdict.dropped] += 1
                    continue
                self.counts["cut"] += verdict.cut
                self.counts["duplicates"] += one.all in self._seen
                self._seen.add(one.all)
                self.keys.append(one.key)
                self.prompts.append(one.prompt)
                self.parts.append(number)
                passed.append(one.row)
            self.rows.add(passed)

    def _usable(self, part: Source) -> Iterator[Finished]:
        rows = sources.read(part, self.kind, self.seed)
        first = list(islice(rows, sources.PEEK))  # they decide what `format: auto` is
        mapper = self._mapper(part, first)
        for raw in chain(first, rows):
            self.counts["read"] += 1
            for made in self._mapped(mapper, raw, part):
                self.counts["rows"] += 1
                try:
                    yield finish(made, raw, self.kind, self.template, self.system)
                except Drop as reason:
                    self.dropped[str(reason)] += 1

    def _mapper(self, part: Source, first: list[dict]):
        if part.path == "embedded":
            return mapping.find(mapping.EMBEDDED[self.kind], part.where)
        return mapping.choose(part, sources.columns(first, part.group), first, self.kind)

    def _mapped(self, mapper, raw: dict, part: Source) -> list[dict]:
        """A raw row as rows of the kind. One that makes none counts as one row, dropped."""
        result = []
        try:
            for made in mapping.apply(mapper, raw, part, self.tokenizer) or [{}]:
                try:
                    result += as_kind(made, self.kind)
                except Drop as reason:
                    self._drop(reason)
        except Drop as reason:
            self._drop(reason)
        return result

    def _drop(self, reason: Drop) -> None:
        self.counts["rows"] += 1
        self.dropped[str(reason)] += 1


def _progress(rows: Iterator, label: str) -> Iterator:
    """A bar where there is a terminal, a line every 100,000 rows where there is none."""
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    for number, row in enumerate(tqdm(rows, desc=label, unit=" rows", disable=not terminal, delay=2), 1):
        if number % 100_000 == 0 and not terminal:
            print(f"  {label}: {number} rows", file=sys.stderr, flush=True)
        yield row
