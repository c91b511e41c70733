"""The same report as Markdown: for a model card, a pull request, a wiki. Charts lie beside it as SVG files."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_recipes.errors import UserError
from rlhf_recipes.report import answers as side_by_side
from rlhf_recipes.report import charts, content, provenance
from rlhf_recipes.report.charts import Chart
from rlhf_recipes.report.content import Table
from rlhf_recipes.report.run import Run, name_apart, plain, read

PROMPTS = 12  # answered side by side


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
    parts = one(runs[0], folder, defaults) if len(runs) == 1 else several(runs, folder)
    torn = out.with_name(f".{out.name}.tmp")
    torn.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")
    os.replace(torn, out)
    return out


def one(run: Run, folder: Path, defaults: Mapping[str, Mapping] | None) -> list[str]:
    """The parts of one run's report, in the order of the page."""
    steps = [
        f"{content.TITLES[name]} ({content.duration(s.summary.get('wall_seconds'))})" for name, s in run.stages.items()
    ]
    parts = [f"# Run {run.name}", content.verdict(run), "## Flow", " → ".join(steps), "## Tables"]
    parts += [table_md(table) for stage in run.stages.values() if (table := content.stage_table(stage))]
    parts += [table_md(table) for table in content.evaluated(run.evaluation)]
    curves = {name: found for name, stage in run.stages.items() if (found := charts.of_stage(stage))}
    parts.append("## Curves" if curves else "")
    for name, found in curves.items():
        parts += [f"### {content.TITLES[name]}", *pictures(found, folder)]
    calibrated = charts.calibration(run.stages["reward"]) if "reward" in run.stages else None
    trust = [*charts.proxy_and_gold([run]), *([calibrated] if calibrated else []), *charts.histograms(run)]
    parts += ["## Can the score be trusted?", *pictures(trust, folder)] if trust else []
    parts += answers_md(run.answers)
    parts.append("## Settings" if defaults else "")
    parts += [
        table_md(provenance.config_table(s, defaults[n])) for n, s in run.stages.items() if defaults and n in defaults
    ]
    parts += ["## Make it again", f"```shell\n{provenance.reproduce(run, defaults)}\n```"]
    return [*parts, table_md(provenance.stages_table(run)), table_md(provenance.versions_table(run))]


def several(runs: list[Run], folder: Path) -> list[str]:
    """The parts of a comparison."""
    parts = [f"# {len(runs)} runs compared", table_md(provenance.comparison(runs)), "## Curves"]
    for stage in dict.fromkeys(name for run in runs for name in run.stages):
        if found := charts.overlaid(runs, stage):
            parts += [f"### {content.TITLES[stage]}", *pictures(found, folder)]
    parts += ["## Can the score be trusted?", *pictures([*charts.proxy_and_gold(runs), *charts.ends(runs)], folder)]
    parts += answers_md(side_by_side.across(runs))
    return [*parts, table_md(provenance.settings_table(runs))]


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


def answers_md(answers: Sequence[dict]) -> list[str]:
    """Evenly spaced prompts with every model's answer."""
    parts = ["## Answers"] if answers else []
    for answered in content.thinned(answers, PROMPTS):
        lines = [f"**{_cell(answered['prompt'])}**", ""]
        for name, row in answered["by"].items():
            figures = [
                f"{key} {content.show(row[key])}" for key in ("score", "gold") if isinstance(row.get(key), int | float)
            ]
            lines.append(f"- **{name}** ({', '.join(figures)}): {_cell(plain(row.get('completion')))}")
        parts.append("\n".join(lines))
    return parts


def _row(cells) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(text: str) -> str:
    """Text that neither breaks a table nor is taken for markup."""
    one_line = " ".join(text.split())
    return (
        one_line.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_")
    )
