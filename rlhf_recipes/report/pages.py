"""A report as one self-contained HTML page, and as Markdown with its charts beside it, by Jinja templates."""

import os
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, select_autoescape

from rlhf_recipes.report import svg
from rlhf_recipes.report.blocks import Block, Charts, Report, plain, show, thinned

TOKEN_QUANTITIES = ("advantage", "reward", "value", "kl")  # of each token of tokens.jsonl


def write_html(report: Report, out: Path) -> Path:
    """Writes the page. Nothing in it needs a network."""
    return save(out, TEMPLATES.get_template("page.html").render(report=report))


def write_markdown(report: Report, out: Path) -> Path:
    """Writes the report for a pull request or a wiki, and its charts to `<out without suffix>_files/`."""
    parts = [f"# {report.title}", report.verdict, line(report.facts)]
    for title, blocks in report.sections.items():
        parts += [f"## {title}", markdown(blocks, out.with_name(f"{out.stem}_files"))]
    return save(out, "\n\n".join(part for part in parts if part) + "\n")


def markdown(blocks: Sequence[Block], folder: Path) -> str:
    """Blocks as Markdown. Their charts become SVG files in the folder, which is made."""
    drawn = TEMPLATES.get_template("chart.svg").module
    for chart in (chart for block in blocks if isinstance(block, Charts) for chart in block.charts):
        save(folder / f"{chart.key}.svg", drawn.standalone(chart.drawing, chart.legend))
    return TEMPLATES.get_template("blocks.md").render(blocks=blocks, folder=folder.name).strip()


def save(out: Path, text: str) -> Path:
    """Writes a file in one step: a reader sees the old one or the new, never half of it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".{out.name}.tmp")
    part.write_text(text, encoding="utf-8")
    os.replace(part, out)
    return out


def number(value: float) -> str:
    """A tick's label.

    >>> number(0.0002), number(1.5), number(12000)
    ('2e-4', '1.5', '12k')
    """
    if value and abs(value) < 1e-3:
        text = f"{value:.0e}".replace("e-0", "e-")
    else:
        text = f"{value / 1000:g}k" if abs(value) >= 10_000 else f"{value:g}"
    return text.replace("-", "\N{MINUS SIGN}", 1) if value < 0 else text


def answer_figures(row: dict) -> str:
    """What was measured of one answer, a row of samples.jsonl."""
    parts = [f"{key} {show(row[key])}" for key in ("score", "gold", "kl") if isinstance(row.get(key), int | float)]
    if isinstance(row.get("tokens"), int):
        parts.append(f"{row['tokens']} tokens" + ("" if row.get("finished", True) else ", cut off"))
    return " · ".join(parts)


def line(text: str) -> str:
    """Text in one line of Markdown that neither breaks a table nor is taken for markup."""
    text = " ".join(text.split()).replace("<", "&lt;")
    return "".join(f"\\{character}" if character in "\\|*_" else character for character in text)


HERE = FileSystemLoader(Path(__file__).parent)
TEMPLATES = Environment(loader=HERE, autoescape=select_autoescape(("html", "svg")), trim_blocks=True)
TEMPLATES.globals |= {"quantities": TOKEN_QUANTITIES, "width": svg.WIDTH, "height": svg.HEIGHT}
TEMPLATES.globals |= {"left": svg.LEFT, "right": svg.RIGHT, "top": svg.TOP, "bottom": svg.BOTTOM}
TEMPLATES.filters |= {"at": "{:.1f}".format, "number": number, "kind": lambda block: type(block).__name__}
TEMPLATES.filters |= {"show": show, "plain": plain, "line": line, "figures": answer_figures, "thinned": thinned}
