"""What `make pipeline` closes with: the tables, three prompts answered by every model, and where everything lies."""

import sys
import textwrap

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
        console.print(
            Text("Where it lies", style="bold"), *(Text(f"  {p}", overflow="fold") for p in report.places), sep="\n"
        )


def table(of: Table, width: int) -> Group:
    """A rich table; the note names the columns at the right that the terminal has no room for."""
    cells = of.cells()
    heads = []
    for i, column in enumerate(of.columns):  # a heading is folded where its column is narrower
        widest = max([len(row[i]) for row in cells] + [len(word) for word in column.label.split()])
        heads.append(textwrap.fill(column.label, widest, break_on_hyphens=False))
    widths = [
        max(len(line) for line in (*head.split("\n"), *(row[i] for row in cells))) for i, head in enumerate(heads)
    ]
    fits = max(2, sum(sum(w + 3 for w in widths[: i + 1]) <= width for i in range(len(widths))))
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for head, column in list(zip(heads, of.columns, strict=True))[:fits]:
        grid.add_column(head, justify="left" if column.digits is None else "right", no_wrap=True, vertical="bottom")
    for row in cells:
        grid.add_row(*row[:fits])
    left_out = ", ".join(column.label for column in of.columns[fits:])
    note = f"{of.note} No room here for: {left_out}." if left_out else of.note
    return Group(Text(of.title, style="bold"), grid, Text(note.strip(), style="dim"), Text())


def answers(answered: dict, width: int) -> Group:
    """A prompt and its answers, side by side where there is room."""
    by = answered["by"]
    columns = width >= COLUMN_WIDTH * len(by)
    grid = Grid(box=SIMPLE_HEAD, pad_edge=False, show_header=columns, expand=columns, padding=(0, 1))
    bodies = []
    for row in by.values():
        figures = " · ".join(f"{key} {show(row[key])}" for key in ("score", "gold") if row.get(key) is not None)
        bodies.append((Text(_short(plain(row.get("completion")))), Text(figures, style="dim")))
    for name in by if columns else [""]:
        grid.add_column(name, ratio=1, overflow="fold")
    if columns:
        grid.add_row(*(Group(*body) for body in bodies))
    else:
        for name, body in zip(by, bodies, strict=True):
            grid.add_row(Group(Text(name, style="bold"), *body))
    return Group(Text.assemble(("Prompt: ", "bold"), _short(answered["prompt"])), grid)


def _short(text: str) -> str:
    text = text.strip()
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
