"""All that a report says, of one run or of several, as blocks."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf_recipes.errors import UserError
from rlhf_recipes.report import curves, provenance, tables, trust
from rlhf_recipes.report.blocks import Answers, Block, Charts, Code, Flow, Report, Text, Tokens, duration
from rlhf_recipes.report.run import Run, name_apart, read

Defaults = Mapping[str, Mapping]  # stage -> its composed config without recipe and overrides


def build(run_dirs: Sequence[Path], known: Sequence = (), defaults: Defaults | None = None) -> Report:
    """Reads run directories and says all there is to say of them.

    Args:
        run_dirs: one run directory for a report, several for a comparison.
        known: the stages' own descriptions (`name`, `title`, `figures`), in the order in which stages run.
        defaults: the settings that differ from these are marked. None marks nothing.

    Raises:
        UserError: no run was given, or a directory holds none.
    """
    if not run_dirs:
        raise UserError("a report needs at least one run directory: give runs/<name>")
    runs = name_apart([read(path, known) for path in run_dirs])
    report = one(runs[0], defaults) if len(runs) == 1 else several(runs, defaults)
    sections = {
        title: [block for block in blocks if getattr(block, "charts", True) and getattr(block, "rows", True)]
        for title, blocks in report.sections.items()
    }
    return report._replace(sections={title: blocks for title, blocks in sections.items() if blocks})


def one(run: Run, defaults: Defaults | None) -> Report:
    """The report of one run."""
    with_tokens = run.first(lambda stage: bool(stage.tokens))
    sections = {
        "Flow": [Flow(tables.flow(run))],
        "Tables": tables.of_run(run),
        "Curves": curves.of_runs([run]),
        "Can the score be trusted?": [Charts("", trust.of_runs([run]))],
        "Answers": [compared(run.answers, run.final, run.evaluation.get("ref"), *run.judged)],
        "Token by token": [Tokens(with_tokens.tokens)] if with_tokens else [],
        "Settings": settings(run, defaults),
        "Make it again": again(run, defaults),
    }
    seeds = sorted({stage.summary.get("seed") for stage in run.stages.values()} - {None})
    facts = [
        duration(run.seconds),
        f"{len(run.stages)} stages",
        *([f"seed {', '.join(map(str, seeds))}"] if seeds else []),
    ]
    return Report(f"Run {run.name}", tables.verdict(run), " · ".join(facts), sections, places(run))


def several(runs: list[Run], defaults: Defaults | None) -> Report:
    """The report that compares runs."""
    judged = {run.judged for run in runs}
    judge, tie = judged.pop() if len(judged) == 1 else (None, 0.0)
    names = [run.name for run in runs]
    sections = {
        "Runs": [provenance.comparison(runs)],
        "Curves": curves.of_runs(runs),
        "Can the score be trusted?": [Charts("", trust.of_runs(runs))],
        "Answers": [compared(across(runs), names[-1], names[0], judge, tie)],
        "Settings": [provenance.differences("Settings that differ between the runs", names, provenance.varying(runs))],
        "Make it again": [block for run in runs for block in (Text(run.name, heading=True), *again(run, defaults))],
    }
    return Report(f"{len(runs)} runs compared", "", ", ".join(names), sections)


def across(runs: Sequence[Run]) -> list[dict]:
    """The final model of every run on the same prompts, in the shape of `Run.answers`."""
    merged: dict[str, dict] = {}
    for run in runs:
        for answered in run.answers:
            if run.final in answered["by"]:
                prompt = merged.setdefault(answered["prompt"], {"prompt": answered["prompt"], "by": {}})
                prompt["by"].setdefault(run.name, answered["by"][run.final])
    return list(merged.values())


def compared(answers: list[dict], ours: str | None, theirs: str | None, judge: str | None, tie: float) -> Answers:
    """Answers, and the figure by which `ours` is compared with `theirs`; by default the last model with the first.

    It is the figure that decided the pairs, where all rows have it (a judge behind an endpoint leaves none). Else it is
    gold, where all rows have it, else the score; these have no tie band, as the band is in the judge's unit.
    """
    names = list(dict.fromkeys(name for answered in answers for name in answered["by"]))
    if not names:
        return Answers([])
    ours = ours if ours in names else names[-1]
    theirs = theirs if theirs in names and theirs != ours else names[0]
    sides = (names, ours, theirs) if ours != theirs else (names, None, None)
    rows = [row for answered in answers for row in answered["by"].values()]
    for key in (judge, f"reward/{judge}") if judge != "judge" else ():
        if all(key in row for row in rows):
            return Answers(answers, *sides, key, tie)
    return Answers(answers, *sides, "gold" if all("gold" in row for row in rows) else "score")


def places(run: Run) -> list[str]:
    """Where each stage's files lie."""
    lines = []
    for name, stage in run.stages.items():
        files = [file for file in ("model", "metrics.jsonl", "samples.jsonl") if (stage.path / file).exists()]
        took = duration(stage.summary.get("wall_seconds")) if stage.done else "not finished"
        lines.append(f"{stage.path}/  {', '.join(files) or '-'}  ({name}: {took})")
    return lines


def settings(run: Run, defaults: Defaults | None) -> list[Block]:
    """What differs from the defaults, stage by stage, and all settings folded away."""
    blocks: list[Block] = []
    for name, stage in run.stages.items():
        if defaults is not None and name in defaults and stage.config:
            table = provenance.differences(name, ("default", "here"), provenance.changed(stage, defaults[name]))
            blocks += [table] if table.rows else [Text(name, heading=True), Text("As the defaults.")]
        if stage.config:
            lines = [f"{key}={provenance.hydra(value)}" for key, value in provenance.flatten(stage.config).items()]
            blocks.append(Code("\n".join(lines), folded=f"All settings of {name}"))
    return blocks


def again(run: Run, defaults: Defaults | None) -> list[Block]:
    """One command, and what it ran on."""
    return [Code(provenance.reproduce(run, defaults)), provenance.stages_table(run), provenance.versions_table(run)]
