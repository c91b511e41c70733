"""The same report as Markdown: for a model card, a pull request, a wiki. Charts lie beside it as SVG files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_recipes.errors import UserError
from rlhf_recipes.report import answers as side_by_side
from rlhf_recipes.report import charts, content, provenance
from rlhf_recipes.report.charts import Chart
from rlhf_recipes.report.content import Column, Table
from rlhf_recipes.report.run import Run, name_apart, plain, read

PROMPTS = 12  # answered side by side
TOKENS = 60  # of an answer token by token, of which two are shown


def write(run_dirs: Sequence[Path], out: Path, *, defaults: Mapping[str, Mapping] | None = None) -> Path:
    """Writes the report and its pictures, which go to `<out without suffix>_files/`.

    Args:
        run_dirs: one run directory for a report, several for a comparison.
        out: the Markdown file; its folder is made.
        defaults: as for `html.write`.

    Returns:
        `out`.

    Raises:
        UserError: no run was given, or one is none.
    """
    if not run_dirs:
        raise UserError("a report needs at least one run directory: give runs/<name>")
    runs = name_apart([read(Path(path)) for path in run_dirs])
    out = Path(out)
    folder = out.with_name(f"{out.stem}_files")
    folder.mkdir(parents=True, exist_ok=True)
    parts = one(runs[0], folder, defaults) if len(runs) == 1 else several(runs, folder, defaults)
    torn = out.with_name(f".{out.name}.tmp")
    torn.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    os.replace(torn, out)
    return out


def one(run: Run, folder: Path, defaults: Mapping[str, Mapping] | None) -> list[str]:
    """The parts of one run's report: the sections of the page."""
    steps = [f"1. **{title}** {' · '.join(part for part in rest if part)}" for title, *rest in content.flow(run)]
    configured = any(stage.config for stage in run.stages.values())
    whole = ["All settings of a stage are in its config.yaml."] if configured else []
    sections = {
        "Flow": ["\n".join(steps)],
        "Tables": [table_md(table) for table in content.tables(run)],
        "Curves": by_stage(charts.curves([run]), folder),
        "Can the score be trusted?": pictures(charts.trust(run), folder),
        "Answers": answers_md(run.answers),
        "Token by token": tokens_md(run.policy.tokens if run.policy else []),
        "Settings": [*settings(run, defaults), *whole],
        "Make it again": again(run, defaults),
    }
    return [f"# Run {run.name}", content.verdict(run), content.facts(run), *_document(sections)]


def several(runs: list[Run], folder: Path, defaults: Mapping[str, Mapping] | None) -> list[str]:
    """The parts of a comparison: the sections of the page."""
    sections = {
        "Runs": [table_md(provenance.comparison(runs))],
        "Curves": by_stage(charts.curves(runs), folder),
        "Can the score be trusted?": pictures([*charts.proxy_and_gold(runs), *charts.ends(runs)], folder),
        "Answers": answers_md(side_by_side.across(runs)),
        "Settings": [table_md(provenance.settings_table(runs))],
        "Make it again": [part for run in runs for part in (f"### {_cell(run.name)}", *again(run, defaults))],
    }
    return [f"# {len(runs)} runs compared", ", ".join(_cell(run.name) for run in runs), *_document(sections)]


def _document(sections: Mapping[str, list[str]]) -> list[str]:
    return [part for title, parts in sections.items() if parts for part in (f"## {title}", *parts)]


def table_md(table: Table) -> str:
    """A pipe table under its title, numbers to the right."""
    lines = [_row(column.label for column in table.columns)]
    lines.append(_row("---" if column.digits is None else "---:" for column in table.columns))
    lines += [_row(cells) for cells in table.cells()]
    return "\n\n".join(part for part in (f"**{table.title}**", "\n".join(lines), table.note) if part)


def pictures(found: Sequence[Chart], folder: Path) -> list[str]:
    """Writes each chart as an SVG file and refers to it."""
    parts = []
    for chart in found:
        (folder / f"{chart.key}.svg").write_text(chart.drawing.standalone(chart.legend), encoding="utf-8")
        parts.append(f"![{chart.title}]({folder.name}/{chart.key}.svg)\n\n*{chart.title}.* {chart.how}")
    return parts


def by_stage(curves: Sequence[tuple[str, list[Chart]]], folder: Path) -> list[str]:
    """The curves of each stage under its name."""
    return [part for name, found in curves for part in (f"### {content.TITLES[name]}", *pictures(found, folder))]


def answers_md(answers: Sequence[dict]) -> list[str]:
    """Evenly spaced prompts with every model's answer, and how many of how many they are."""
    shown = content.thinned(answers, PROMPTS)
    parts = [f"{len(shown)} of {len(answers)} prompts, evenly spaced; all are in samples.jsonl."] if shown else []
    for answered in shown:
        lines = [f"**{_cell(answered['prompt'])}**", ""]
        for name, row in answered["by"].items():
            figures = f" ({found})" if (found := side_by_side.figures(row)) else ""
            lines.append(f"- **{_cell(name)}**{figures}: {_cell(plain(row.get('completion')))}")
        parts.append("\n".join(lines))
    return parts


def tokens_md(rows: Sequence[dict]) -> list[str]:
    """The first and the last of the page's answers token by token, as tables."""
    found = side_by_side.by_token(rows)
    columns = [Column("token", None), *(Column(name, 3) for name in side_by_side.QUANTITIES)]
    parts = []
    for row in content.thinned(found, 2):
        cells = [
            [side_by_side.token_text(token), *(token.get(name) for name in side_by_side.QUANTITIES)]
            for token in row["tokens"][:TOKENS]
        ]
        title = _cell(f"Step {row.get('step')}" + (f": {plain(row['prompt'])}" if row.get("prompt") else ""))
        note = f"The first {TOKENS} of {len(row['tokens'])} tokens." if len(row["tokens"]) > TOKENS else ""
        parts.append(table_md(Table(title, columns, cells, note)))
    return [f"{len(parts)} of {len(found)} answers; all are in tokens.jsonl.", *parts] if parts else []


def settings(run: Run, defaults: Mapping[str, Mapping] | None) -> list[str]:
    """What differs from the defaults, stage by stage."""
    parts = []
    for name, stage in run.stages.items():
        if stage.config and defaults is not None and name in defaults:
            table = provenance.config_table(stage, defaults[name])
            parts.append(table_md(table) if table.rows else f"**{name}**\n\nAs the defaults.")
    return parts


def again(run: Run, defaults: Mapping[str, Mapping] | None) -> list[str]:
    """One command, and what it ran on."""
    shell = f"```shell\n{provenance.reproduce(run, defaults)}\n```"
    return [shell, table_md(provenance.stages_table(run)), table_md(provenance.versions_table(run))]


def _row(cells) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Text that neither breaks a table nor is taken for markup."""
    one_line = " ".join(text.split())
    return (
        one_line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
    )
