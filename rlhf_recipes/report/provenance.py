"""Where a result came from: settings that differ from the defaults or between runs, versions, seeds, commands."""

import shlex
from collections.abc import Mapping, Sequence

from rlhf_recipes.report.blocks import Column, Table, duration
from rlhf_recipes.report.run import Run, Stage
from rlhf_recipes.report.tables import decided, interval

INCIDENTAL = ("run.", "preview", "hydra.", "logger.", "objective")  # settings of where things lie and what is shown
MISSING = object()


def flatten(node, prefix: str = "") -> dict[str, object]:
    """
    >>> flatten({"a": {"b": 1, "c": [2, 3]}, "d": None})
    {'a.b': 1, 'a.c': [2, 3], 'd': None}
    """
    flat = {}
    for key, value in node.items():
        inner = isinstance(value, Mapping) and value
        flat |= flatten(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def changed(stage: Stage, defaults: Mapping) -> dict[str, tuple[object, object]]:
    """Settings that differ: key -> (default, this run's), MISSING on a side that has no such key.

    A key that only one side has counts where it has a value. An empty list or mapping is none. Neither is null, except
    below the nodes whose absent keys have a default of TRL's or PEFT's.
    """
    ours, theirs = flatten(stage.config), flatten(defaults)
    keys = sorted(key for key in ours.keys() | theirs.keys() if not key.startswith(INCIDENTAL))
    pairs = {key: (theirs.get(key, MISSING), ours.get(key, MISSING)) for key in keys}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1] and not _empty(key, pair, theirs)}


def _empty(key: str, values: Sequence, defaults: Mapping) -> bool:
    nothing = (MISSING, [], {}) if key.startswith(("trainer.", "peft.")) else (MISSING, [], {}, None)
    return all(value in nothing for value in values) and not any(name.startswith(f"{key}.") for name in defaults)


def varying(runs: Sequence[Run]) -> dict[str, list]:
    """Settings in which the runs differ: `stage: key` -> one value a run, MISSING where a run has none."""
    differing: dict[str, list] = {}
    for stage in dict.fromkeys(name for run in runs for name in run.stages):
        flat = [flatten(run.stages[stage].config) if stage in run.stages else {} for run in runs]
        for key in sorted(set().union(*flat)):
            values = [settings.get(key, MISSING) for settings in flat]
            if not key.startswith(INCIDENTAL) and any(value != values[0] for value in values):
                differing[f"{stage}: {key}"] = values
    shared: dict[str, list] = {}  # a key that varies alike in every stage (seed) has one row
    for name, values in differing.items():
        key = name.partition(": ")[2]
        alike = [n for n, v in differing.items() if n.partition(": ")[2] == key and v == values]
        shared[key if len(alike) > 1 else name] = values
    if shared.get("trainer.seed") == shared.get("seed"):
        shared.pop("trainer.seed", None)  # the stage hands its seed to the trainer
    return shared


def command(run: Run, stage: Stage, defaults: Mapping | None) -> str:
    """The shell command that makes a stage again: as it was recorded, else composed from what differs."""
    if recorded := stage.summary.get("command"):
        return recorded
    place = {"name": run.name} | {key: value for key, value in (stage.config.get("run") or {}).items() if value}
    usual = {"name": "default", "root": "runs", "parent": None}
    words = {f"run.{key}": place[key] for key in usual if place.get(key, usual[key]) != usual[key]}
    if defaults is None:
        words |= {"seed": stage.summary["seed"]} if stage.summary.get("seed") is not None else {}
    else:
        words |= {key: ours for key, (_, ours) in changed(stage, defaults).items() if key not in ("stage", "recipe")}
    recipe = [f"recipes={stage.config['recipe']}/{stage.name}"] if stage.config.get("recipe") else []
    words = [shlex.quote(f"{key}={hydra(value)}") for key, value in words.items() if value is not MISSING]
    return " ".join(["python -m rlhf_recipes", f"stage={stage.name}", *recipe, *words])


def hydra(value) -> str:
    """A value as Hydra's override grammar reads it.

    >>> hydra(None), hydra(True), hydra([1, "a b"]), hydra("x"), hydra(MISSING)
    ('null', 'true', "[1,'a b']", 'x', '-')
    """
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case list():
            return "[" + ",".join(hydra(item) for item in value) + "]"
        case dict():
            return "{" + ",".join(f"{key}:{hydra(item)}" for key, item in value.items()) + "}"
        case str() if not value or not all(c.isalnum() or c in "_-./:@+%*" for c in value):
            return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return "-" if value is MISSING else str(value)


def reproduce(run: Run, defaults: Mapping[str, Mapping] | None) -> str:
    """One command for the shell: every stage after the other."""
    return " && \\\n".join(command(run, stage, (defaults or {}).get(name)) for name, stage in run.stages.items())


def stages_table(run: Run) -> Table:
    """Seed, time, origin and memory of each stage: the peak measured, and what preflight had estimated before."""
    rows = []
    for name, stage in run.stages.items():
        s = stage.summary
        inputs = ", ".join(f"{key} {of.get('path')} ({of.get('hash')})" for key, of in (s.get("inputs") or {}).items())
        peaks = [s.get("peak_rss_mb"), s.get("peak_gpu_mb"), (s.get("preflight") or {}).get("estimate_mb")]
        rows.append([name, s.get("seed"), duration(s.get("wall_seconds")), *peaks, inputs or None])
    columns = [Column("stage", None), Column("seed", None), Column("time", None), Column("peak memory, MB", 0)]
    columns += [Column("peak GPU memory, MB", 0), Column("estimated peak, MB", 0), Column("trained from (hash)", None)]
    return Table("Stages", columns, rows, f"All stages together: {duration(run.seconds)}.").without_empty_columns()


def versions_table(run: Run) -> Table:
    """Versions by package; one column if all stages agree, else one a stage."""
    by_stage = {name: stage.summary["versions"] for name, stage in run.stages.items() if stage.summary.get("versions")}
    if len({tuple(sorted(versions.items())) for versions in by_stage.values()}) == 1:
        by_stage = {"version": next(iter(by_stage.values()))}
    packages = list(dict.fromkeys(package for versions in by_stage.values() for package in versions))
    columns = [Column("package", None), *(Column(name, None) for name in by_stage)]
    return Table("Versions", columns, [[p, *(versions.get(p) for versions in by_stage.values())] for p in packages])


def comparison(runs: Sequence[Run]) -> Table:
    """Several runs, a row each: the settings in which they differ, then what came of them.

    Runs of other stages, models or recipes differ in so many settings that what came of them stands first.
    """
    settings = varying(runs)
    shown = list(settings.items())[:6]
    policies = {run.policy.name for run in runs if run.policy}  # their score and KL have columns of their own
    stages = {stage.name: stage for run in runs for stage in run.stages.values() if stage.name not in policies}
    figures = [(name, *figure) for name, stage in stages.items() for figure in stage.figures if figure[2] != 0]
    differing = [Column(key, None) for key, _ in shown]
    results = [Column("score", 3, keep=True), Column("KL", keep=True), Column("gold", 3, keep=True)]
    results += [Column("win, of decided", "%", keep=True), Column("95 %", None, keep=True)]
    results += [*(Column(f"{name} {label}", digits) for name, _, label, digits in figures), Column("minutes", 1)]
    similar = alike(runs)
    rows = []
    for i, run in enumerate(runs):
        final = run.contestants.get(run.final, {})
        if run.policy and not final:
            final = {name: (run.policy.series(name)[1] or [None])[-1] for name in ("score", "kl")}
        won = run.evaluation.get("win_rate", {}).get(f"{run.final}_vs_{run.evaluation.get('ref')}", {})
        own = [None if values[i] is MISSING else values[i] for _, values in shown]
        came = [*map(final.get, ("score", "kl", "gold")), decided(won), interval(won.get("decided_ci95"))]
        came += [run.stages[name].metrics.get(metric) if name in run.stages else None for name, metric, *_ in figures]
        came.append(run.seconds / 60)
        rows.append([run.name, *own, *came] if similar else [run.name, *came, *own])
    columns = [Column("run", None), *(differing + results if similar else results + differing)]
    left_out = len(settings) - len(shown)
    note = f"{left_out} more settings differ; they are in the table of settings." if left_out > 0 else ""
    return Table("Runs", columns, rows, note, sortable=True).without_empty_columns()


def alike(runs: Sequence[Run]) -> bool:
    """Whether the runs have the same stages, models and recipes."""

    def kind(run: Run) -> list[tuple]:
        configs = {name: stage.config for name, stage in run.stages.items()}
        return [(name, of.get("recipe"), (of.get("model") or {}).get("path")) for name, of in configs.items()]

    return all(kind(run) == kind(runs[0]) for run in runs)


def differences(title: str, sides: Sequence[str], settings: Mapping[str, Sequence]) -> Table:
    """Settings that differ, a column a side: key -> one value a side."""
    columns = [Column("setting", None), *(Column(side, None) for side in sides)]
    return Table(title, columns, [[key, *map(hydra, values)] for key, values in settings.items()])
