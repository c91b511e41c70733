"""What `make pipeline` closes with: the tables, three prompts answered by every model, and where everything lies."""

import sys
import textwrap
from itertools import accumulate

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.table import Table as Grid
from rich.text import Text

from rlhf_recipes.report.blocks import Report, Table, plain, show, thinned

COLUMN_WIDTH = 28  # characters that an answer needs to be read in a column of its own
LONGEST = 400  # characters of a prompt or an answer
PROMPTS = 3


def write(report: Report, console: Console | None = None) -> None:
    """Prints the first section that has tables, prompts with their answers where it is one run, and the verdict.

    Args:
        report: what `content.build` made.
        console: where to; None for standard output, 100 columns where that is no terminal.
    """
    if console is None:
        console = Console() if sys.stdout.isatty() else Console(width=100)
    for title in ("Tables", "Runs"):
        for of in report.sections.get(title, []):
            console.print(table(of, console.width))
    for block in report.sections.get("Answers", []) if report.places else []:
        # Evenly spaced, not chosen by outcome; of the prompts that every model answered.
        most = max(len(answered["by"]) for answered in block.rows)
        for answered in thinned([row for row in block.rows if len(row["by"]) == most], PROMPTS):
            console.print(answers(answered, console.width))
    if report.verdict:
        console.print(Text(report.verdict, style="bold"), end="\n\n")
    if report.places:
        console.print(Text("Where it lies", style="bold"))
    for place in report.places:
        console.print(Text(f"  {place}", overflow="fold"))


def table(of: Table, width: int) -> Group:
    """A rich table; the note names the columns that the terminal has no room for."""
    cells = of.cells()
    widths = [max(map(len, (*of.columns[i].label.split(), *(row[i] for row in cells)))) for i in range(len(of.columns))]
    ranked = sorted(range(len(widths)), key=lambda i: (i > 0, not of.columns[i].keep))
    fits = max(2, sum(used <= width for used in accumulate(widths[i] + 2 for i in ranked)))
    shown = sorted(ranked[:fits])
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), collapse_padding=True)
    for column, widest in ((of.columns[i], widths[i]) for i in shown):
        head = textwrap.fill(column.label, widest, break_on_hyphens=False)
        grid.add_column(head, justify="left" if column.digits is None else "right", no_wrap=True, vertical="bottom")
    for row in cells:
        grid.add_row(*(row[i] for i in shown))
    left_out = ", ".join(of.columns[i].label for i in sorted(ranked[fits:]))
    note = f"{of.note} No room here for: {left_out}." if left_out else of.note
    return Group(Text(of.title, style="bold"), grid, *([Text(note.strip(), style="dim"), Text()] if note else []))


def answers(answered: dict, width: int) -> Group:
    """A prompt and its answers, side by side where there is room."""
    bodies = []
    for name, row in answered["by"].items():
        figures = " · ".join(f"{key} {show(row[key])}" for key in ("score", "gold") if row.get(key) is not None)
        completion = Text(_short(plain(row.get("completion"))), overflow="fold")
        bodies.append(Group(Text(name, style="bold"), completion, Text(figures, style="dim")))
    columns = len(bodies) if width >= COLUMN_WIDTH * len(bodies) else 1
    grid = Grid.grid(padding=(0, 2, 0, 0), expand=True)
    for _ in range(columns):
        grid.add_column(ratio=1)
    for i in range(0, len(bodies), columns):
        grid.add_row(*bodies[i : i + columns])
    return Group(Text.assemble(("Prompt: ", "bold"), _short(answered["prompt"])), grid, Text())


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
