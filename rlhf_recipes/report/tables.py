"""What `make pipeline` closes with: the tables, three prompts answered by every model, and where everything lies."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table as RichTable
from rich.text import Text

from rlhf_recipes.report import content, provenance, run

COLUMN_WIDTH = 28  # an answer needs so many characters to be read in a column of its own
LONGEST = 400  # characters of a prompt or an answer


def show(run_dir: Path, console: Console | None = None, *, prompts: int = 3) -> None:
    """Prints what a run amounts to. Only its artifacts are read.

    Args:
        run_dir: runs/<name>.
        console: where to; None for standard output, 100 columns where that is no terminal.
        prompts: how many held-out prompts to show with their answers.

    Raises:
        UserError: no such run.
    """
    found = run.read(run_dir)
    if console is None:
        console = Console() if sys.stdout.isatty() else Console(width=100)
    for table in content.tables(found):
        console.print(_table(table, console.width))
    for answered in _telling(found.answers, prompts):
        console.print(_answers(answered, console.width))
    if sentence := content.verdict(found):
        console.print(Text(sentence, style="bold"), end="\n\n")
    console.print(_places(found))


def compare(run_dirs: Sequence[Path], console: Console | None = None) -> None:
    """Prints several runs, a row each.

    Raises:
        UserError: one of them is no run.
    """
    if console is None:
        console = Console() if sys.stdout.isatty() else Console(width=100)
    console.print(_table(provenance.comparison(run.name_apart([run.read(path) for path in run_dirs])), console.width))


def _table(table: content.Table, width: int) -> Group:
    """A rich table; the columns at the right that the terminal has no room for are named below instead."""
    cells = table.cells()
    widths = [max(len(c) for c in column) for column in zip([c.label for c in table.columns], *cells, strict=True)]
    fits = max(2, sum(sum(w + 3 for w in widths[: i + 1]) <= width for i in range(len(widths))))
    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for column in table.columns[:fits]:
        grid.add_column(column.label, justify="left" if column.digits is None else "right", no_wrap=True)
    for row in cells:
        grid.add_row(*row[:fits])
    note = table.note
    if left_out := [column.label for column in table.columns[fits:]]:
        note += f" No room here for: {', '.join(left_out)}."
    return Group(Text(table.title, style="bold"), grid, Text(note.strip(), style="dim"), Text())


def _answers(answered: dict, width: int) -> Group:
    by = answered["by"]
    side_by_side = width >= COLUMN_WIDTH * len(by)
    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, show_header=side_by_side, expand=side_by_side, padding=(0, 1))
    texts = [Text(_short(run.plain(row.get("completion")))) for row in by.values()]
    figures = [Text(_figures(row), style="dim") for row in by.values()]
    if side_by_side:
        for name in by:
            grid.add_column(name, ratio=1, overflow="fold")
        grid.add_row(*texts)
        grid.add_row(*figures)
    else:
        grid.add_column(overflow="fold")
        for name, said, figure in zip(by, texts, figures, strict=True):
            grid.add_row(Group(Text(name, style="bold"), said, figure))
    return Group(Text("Prompt: ", style="bold").append(Text(_short(answered["prompt"]), style="not bold")), grid)


def _figures(row: dict) -> str:
    known = [(name, row.get(name)) for name in ("score", "gold")]
    return " · ".join(f"{name} {content.show(value)}" for name, value in known if value is not None)


def _telling(answers: list[dict], count: int) -> list[dict]:
    """Evenly spaced prompts, not chosen by outcome; of those every model answered, where there are any."""
    most = max((len(a["by"]) for a in answers), default=0)
    return content.thinned([a for a in answers if len(a["by"]) == most], count)


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _places(found: run.Run) -> Group:
    lines = [Text("Where it lies", style="bold")]
    for name, stage in found.stages.items():
        parts = [part for part in ("model", "metrics.jsonl", "samples.jsonl") if (stage.path / part).exists()]
        took = content.duration(stage.summary.get("wall_seconds")) if stage.done else "not finished"
        lines.append(Text(f"  {stage.path}/  {', '.join(parts) or '-'}  ({name}: {took})", overflow="fold"))
    for file in ("report.html", "report.md"):
        if (page := next(iter(sorted(found.path.rglob(file))), None)) is not None:
            lines.append(Text(f"  {page}", overflow="fold"))
    return Group(*lines)
