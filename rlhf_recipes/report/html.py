"""One self-contained HTML page from one run directory, or from several side by side. Nothing in it needs a network."""

import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from zlib import crc32

from rlhf_recipes.errors import UserError
from rlhf_recipes.report import answers, charts, content, provenance, svg
from rlhf_recipes.report.charts import Chart
from rlhf_recipes.report.content import Table
from rlhf_recipes.report.run import Run, name_apart, read

HERE = Path(__file__).parent
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"  # the browser refuses any fetch
DARK = (
    "--paper: #15181c; --ink: #e6e8ea; --soft: #a2a9b1; --rule: #343a41; --panel: #1e2328; --accent: #7ab8f5; "
    "color-scheme: dark;"
)


def write(run_dirs: Sequence[Path], out: Path, *, defaults: Mapping[str, Mapping] | None = None) -> Path:
    """Writes the page, in one step: a reader sees the old one or the new, never half of it.

    Args:
        run_dirs: one run directory for a report, several for a comparison.
        out: the HTML file; its folder is made.
        defaults: stage -> its composed config without recipe and overrides, to mark what differs. None marks nothing.

    Returns:
        `out`.

    Raises:
        UserError: no run was given, or one is none.
    """
    if not run_dirs:
        raise UserError("a report needs at least one run directory: give runs/<name>")
    runs = name_apart([read(Path(path)) for path in run_dirs])
    page = one(runs[0], defaults) if len(runs) == 1 else several(runs, defaults)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    torn = out.with_name(f".{out.name}.tmp")
    torn.write_text(page, encoding="utf-8")
    os.replace(torn, out)
    return out


def one(run: Run, defaults: Mapping[str, Mapping] | None) -> str:
    """The page of one run."""
    sections = [
        ("flow", "Flow", flow(run)),
        ("tables", "Tables", tables_html(content.tables(run))),
        ("curves", "Curves", by_stage(charts.curves([run]))),
        ("trust", "Can the score be trusted?", chart_grid(charts.trust(run))),
        ("answers", "Answers", answers.html(run.answers, *run.judged)),
        ("tokens", "Token by token", answers.tokens_html(run.policy.tokens if run.policy else [])),
        ("settings", "Settings", settings(run, defaults)),
        ("again", "Make it again", again(run, defaults)),
    ]
    return document(f"Run {run.name}", content.verdict(run), content.facts(run), sections)


def several(runs: list[Run], defaults: Mapping[str, Mapping] | None) -> str:
    """The page that compares runs."""
    judged = {run.judged for run in runs}
    judge, tie = judged.pop() if len(judged) == 1 else (None, 0.0)
    sections = [
        ("runs", "Runs", table_html(provenance.comparison(runs), sortable=True)),
        ("curves", "Curves", by_stage(charts.curves(runs))),
        ("trust", "Can the score be trusted?", chart_grid(charts.proxy_and_gold(runs)) + chart_grid(charts.ends(runs))),
        ("answers", "Answers", answers.html(answers.across(runs), judge, tie)),
        ("settings", "Settings", table_html(provenance.settings_table(runs))),
        ("again", "Make it again", "".join(f"<h3>{escape(run.name)}</h3>{again(run, defaults)}" for run in runs)),
    ]
    return document(f"{len(runs)} runs compared", "", ", ".join(run.name for run in runs), sections)


def document(title: str, lead: str, facts: str, sections: list[tuple[str, str, str]]) -> str:
    """Head, navigation and the sections that have content."""
    sections = [section for section in sections if section[2]]
    links = "".join(f'<a href="#{key}">{escape(name)}</a>' for key, name, _ in sections)
    body = "".join(
        f'<section aria-labelledby="{key}"><h2 id="{key}">{escape(name)}</h2>{inner}</section>'
        for key, name, inner in sections
    )
    dark = DARK + svg.styles(svg.DARK_PALETTE)
    style = (HERE / "page.css").read_text(encoding="utf-8") + svg.styles(svg.PALETTE)
    style += f"@media screen{{:root[data-theme=dark]{{{dark}}}}}"
    style += f"@media screen and (prefers-color-scheme:dark){{:root:not([data-theme=light]){{{dark}}}}}"
    verdict = f'<p class="verdict">{escape(lead)}</p>' if lead else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<style>{style}</style></head><body>
<header class="top"><h1>{escape(title)}</h1>{verdict}<p class="soft">{escape(facts)}</p></header>
<nav aria-label="Sections"><div>{links}<button id="theme" type="button" hidden>Theme: auto</button></div></nav>
<main>{body}<footer class="soft">Made by rlhf_recipes from the run's artifacts.</footer></main>
<script>{(HERE / "page.js").read_text(encoding="utf-8")}</script></body></html>
"""


def flow(run: Run) -> str:
    """The stages in order, each with its time and its key figure."""
    items = [
        f"<li><b>{title}</b><span>{took}</span><span>{escape(figure)}</span></li>"
        for title, took, figure in content.flow(run)
    ]
    return f'<ol class="flow">{"".join(items)}</ol>'


def table_html(table: Table, *, sortable: bool = False) -> str:
    """A table with its title and note; it scrolls sideways where the screen is narrow."""
    kind = ["text" if column.digits is None else "" for column in table.columns]
    head = "".join(
        f'<th scope="col" class="{k}">{escape(c.label)}</th>' for c, k in zip(table.columns, kind, strict=True)
    )
    rows = []
    for values, cells in zip(table.rows, table.cells(), strict=True):
        parts = []
        for value, cell, k in zip(values, cells, kind, strict=True):
            sort_by = f' data-value="{escape("" if value is None else str(value))}"' if sortable else ""
            parts.append(f'<td class="{k}{" long" if len(cell) > 32 else ""}"{sort_by}>{escape(cell)}</td>')
        rows.append(f"<tr>{''.join(parts)}</tr>")
    css = ' class="sortable"' if sortable else ""
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    grid = f"<table{css}><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<h3>{escape(table.title)}</h3><div class="scroll">{grid}</div>{note}'


def tables_html(tables: Sequence[Table]) -> str:
    """Several tables, beside each other where there is room."""
    return (
        f'<div class="tables">{"".join(f"<div>{table_html(table)}</div>" for table in tables)}</div>' if tables else ""
    )


def by_stage(curves: Sequence[tuple[str, list[Chart]]]) -> str:
    """The curves of each stage under its name."""
    return "".join(f"<h3>{escape(content.TITLES[stage])}</h3>{chart_grid(found)}" for stage, found in curves)


def chart_grid(found: Sequence[Chart]) -> str:
    """Charts in as many columns as there is room for; a legend that all of them share stands once, above."""
    if not found:
        return ""
    shared = len(found) > 1 and len({chart.legend for chart in found}) == 1
    cells: dict[str, list[str]] = {}  # title of the upper chart -> its figure, and that which belongs under it
    for chart in found:
        place = chart.below if chart.below in cells else chart.title
        cells.setdefault(place, []).append(figure(chart, with_legend=not shared))
    grid = "".join(f"<div{' class=tall' if len(cell) > 1 else ''}>{''.join(cell)}</div>" for cell in cells.values())
    return f'{legend(found[0].legend) if shared else ""}<div class="charts">{grid}</div>'


def legend(labels: Sequence[str]) -> str:
    """Labels with a piece of their line; nothing to say where there is only one."""
    keys = "".join(f"<span>{svg.swatch(i)}{escape(label)}</span>" for i, label in enumerate(labels))
    return f'<div class="legend">{keys}</div>' if len(labels) > 1 else ""


def figure(chart: Chart, *, with_legend: bool = True) -> str:
    """A chart with caption, legend and a line for the values under the pointer."""
    frame = (svg.LEFT, svg.WIDTH - svg.RIGHT, svg.TOP, svg.HEIGHT - svg.BOTTOM)
    limits = " ".join(f"{value:.6g}" for value in (*chart.drawing.limits, *frame))
    keys = legend(chart.legend) if with_legend else ""
    drawn = chart.drawing.svg.replace("<svg ", f'<svg aria-label="{escape(chart.title)}" ', 1)
    caption = f"<figcaption>{escape(chart.title)}<small>{escape(chart.how)}</small></figcaption>"
    return f'<figure data-limits="{limits}">{caption}{keys}{drawn}<output></output></figure>'


def settings(run: Run, defaults: Mapping[str, Mapping] | None) -> str:
    """What differs from the defaults, and the whole of it folded away."""
    parts = []
    for name, stage in run.stages.items():
        if not stage.config:
            continue
        if defaults is not None and name in defaults:
            table = provenance.config_table(stage, defaults[name])
            parts.append(table_html(table) if table.rows else f"<h3>{escape(name)}</h3><p>As the defaults.</p>")
        flat = provenance.flatten(stage.config)
        full = "\n".join(f"{key}={provenance.hydra(value)}" for key, value in flat.items())
        folded = f'<pre class="shell">{escape(full)}</pre>'
        parts.append(f"<details><summary>All settings of {escape(name)}</summary>{folded}</details>")
    return "".join(parts)


def again(run: Run, defaults: Mapping[str, Mapping] | None) -> str:
    """One command, and what it ran on."""
    key = f"shell-{crc32(str(run.path).encode())}"
    shell = f'<pre class="shell" id="{key}">{escape(provenance.reproduce(run, defaults))}</pre>'
    button = f'<button type="button" class="copy" data-of="{key}" hidden>Copy</button>'
    return button + shell + table_html(provenance.stages_table(run)) + table_html(provenance.versions_table(run))
