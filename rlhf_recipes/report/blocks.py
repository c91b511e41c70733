"""What a report is made of: sections of blocks. `pages` and `terminal` write the same ones."""

from collections.abc import Sequence
from typing import NamedTuple

from rlhf_recipes.report.svg import Drawing


class Column(NamedTuple):
    """A column's heading and how its numbers are shown: digits after the point, `%` for shares, None for text.

    A terminal that has no room for all columns shows the first and those with `keep` before the others.
    """

    label: str
    digits: int | str | None = 2
    keep: bool = False


class Table(NamedTuple):
    """Rows of numbers, text or None, under columns. The page's reader can sort a sortable one."""

    title: str
    columns: list[Column]
    rows: list[list]
    note: str = ""
    sortable: bool = False

    def cells(self) -> list[list[str]]:
        """Every cell as text."""
        return [[show(value, c.digits) for value, c in zip(row, self.columns, strict=True)] for row in self.rows]

    def without_empty_columns(self) -> "Table":
        """The same table, without the columns in which no row has a value."""
        keep = [i for i in range(len(self.columns)) if any(row[i] is not None for row in self.rows)]
        rows = [[row[i] for i in keep] for row in self.rows]
        return self._replace(columns=[self.columns[i] for i in keep], rows=rows)


class Chart(NamedTuple):
    """A drawing with its words. `key` is fit for a file name; `below` is the title of the chart it stands under."""

    key: str
    title: str
    how: str
    legend: tuple[str, ...]
    drawing: Drawing
    below: str = ""


class Charts(NamedTuple):
    """Charts under one heading."""

    title: str
    charts: list[Chart]


class Flow(NamedTuple):
    """The stages in order: title, time and peak memory, key figures."""

    steps: list[tuple[str, str, str]]


class Answers(NamedTuple):
    """Prompts with every model's answer, `{"prompt", "by": {model: sample row}}`, and how two models compare."""

    rows: Sequence[dict]
    names: Sequence[str] = ()  # of the models, in the order in which they first answer
    ours: str | None = None
    theirs: str | None = None
    key: str = "score"  # the figure of a sample row by which they are compared
    tie: float = 0.0  # figures that are no further apart are a tie

    def outcome(self, answered: dict) -> tuple[str, float]:
        """What `ours` does to `theirs` at one prompt, and by how much; `("", 0.0)` where either has no figure."""
        ours, theirs = (answered["by"].get(name, {}).get(self.key) for name in (self.ours, self.theirs))
        if ours is None or theirs is None:
            return "", 0.0
        gain = round(ours - theirs, 6)
        return "beats" if gain > self.tie else "loses to" if gain < -self.tie else "ties with", gain


class Tokens(NamedTuple):
    """Answers token by token: rows of tokens.jsonl."""

    rows: Sequence[dict]


class Text(NamedTuple):
    """A paragraph, or a heading."""

    text: str
    heading: bool = False


class Code(NamedTuple):
    """Text to copy. With `folded` the page shows this title, and the text after a click."""

    text: str
    folded: str = ""


Block = Table | Charts | Flow | Answers | Tokens | Text | Code


class Report(NamedTuple):
    """All that is said of one run, or of several side by side."""

    title: str
    verdict: str
    facts: str
    sections: dict[str, list[Block]]  # by title
    places: Sequence[str] = ()  # where the files of one run lie, a line a stage


def show(value, digits: int | str | None = 2) -> str:
    """A value as text.

    >>> show(0.6512, "%"), show(12.3456, 2), show(1200.0, 0), show(None), show("base", None)
    ('65.1 %', '12.35', '1,200', '-', 'base')
    """
    if value is None:
        return "-"
    if not isinstance(value, int | float) or digits is None:
        return str(value)
    if digits == "%":
        return f"{100 * value:.1f} %"
    value = round(value, digits) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float | None) -> str:
    """Wall time in the largest two units.

    >>> duration(4.2), duration(192), duration(7260), duration(None)
    ('4.2 s', '3 min 12 s', '2 h 1 min', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def plain(text) -> str:
    """A prompt or completion as one string: messages become `role: content` lines, a lone answer its content."""
    if isinstance(text, list):
        if len(text) == 1 and text[0].get("role") == "assistant":
            return str(text[0].get("content", ""))
        return "\n".join(f"{message.get('role')}: {message.get('content')}" for message in text)
    return "" if text is None else str(text)


def thinned(rows: Sequence, count: int) -> list:
    """At most `count` of the rows, evenly spaced, first and last among them."""
    if len(rows) <= count or count < 2:
        return list(rows[:count])
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)]
