"""Where a result came from: settings that differ from the defaults or between runs, versions, seeds, commands."""

import shlex
from collections.abc import Mapping, Sequence

from rlhf_recipes.report.content import Column, Table, contestants, duration
from rlhf_recipes.report.run import Run, Stage

# Where things lie and what is shown, not what is learned.
INCIDENTAL = ("run.", "preview", "hydra.", "logger.", "objective")
MISSING = object()


def flatten(node, prefix: str = "") -> dict[str, object]:
    """
    >>> flatten({"a": {"b": 1, "c": [2, 3]}, "d": None})
    {'a.b': 1, 'a.c': [2, 3], 'd': None}
    """
    flat = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def changed(stage: Stage, defaults: Mapping) -> dict[str, tuple[object, object]]:
    """Settings that differ: key -> (default, this run's), MISSING on a side that has no such key.

    A key that only one side has counts where it says something. An empty list or mapping does not; nor does null, but
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
    found: dict[str, list] = {}
    for stage in dict.fromkeys(name for run in runs for name in run.stages):
        flat = [flatten(run.stages[stage].config) if stage in run.stages else {} for run in runs]
        for key in sorted(set().union(*flat)):
            values = [of.get(key, MISSING) for of in flat]
            if not key.startswith(INCIDENTAL) and any(value != values[0] for value in values):
                found[f"{stage}: {key}"] = values
    shared: dict[str, list] = {}  # a key that varies alike in every stage (seed) is said once
    for name, values in found.items():
        key = name.partition(": ")[2]
        alike = [n for n, v in found.items() if n.partition(": ")[2] == key and v == values]
        shared[key if len(alike) > 1 else name] = values
    if shared.get("trainer.seed") == shared.get("seed"):
        shared.pop("trainer.seed", None)  # the stage hands its seed to the trainer
    return shared


def command(run: Run, stage: Stage, defaults: Mapping | None) -> str:
    """The shell command that makes a stage again: as it was recorded, else composed from what differs."""
    if recorded := stage.summary.get("command"):
        return recorded
    parts = ["python -m rlhf_recipes", f"stage={stage.name}"]
    if recipe := stage.config.get("recipe"):
        parts.append(f"recipes={recipe}/{stage.name}")
    usual = {"name": "default", "root": "runs", "parent": None}
    place = usual | {"name": run.name} | {k: v for k, v in (stage.config.get("run") or {}).items() if v}
    parts += [shlex.quote(f"run.{key}={hydra(place[key])}") for key in usual if place[key] != usual[key]]
    if defaults is None:
        seed = stage.summary.get("seed")
        return " ".join([*parts, f"seed={seed}"] if seed is not None else parts)
    ours = {key: value for key, (_, value) in changed(stage, defaults).items() if key not in ("stage", "recipe")}
    return " ".join(
        [*parts, *(shlex.quote(f"{key}={hydra(value)}") for key, value in ours.items() if value is not MISSING)]
    )


def hydra(value) -> str:
    """A value as Hydra's override grammar reads it.

    >>> hydra(None), hydra(True), hydra([1, "a b"]), hydra("x")
    ('null', 'true', "[1,'a b']", 'x')
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
    return str(value)


def reproduce(run: Run, defaults: Mapping[str, Mapping] | None) -> str:
    """One command for the shell: every stage after the other."""
    commands = [command(run, stage, (defaults or {}).get(name)) for name, stage in run.stages.items()]
    return " && \\\n".join(commands)


def stages_table(run: Run) -> Table:
    """Seed, time, origin and memory of each stage: the peak measured, and what preflight had estimated before."""
    rows = []
    for name, stage in run.stages.items():
        s = stage.summary
        inputs = ", ".join(f"{key} {of.get('path')} ({of.get('hash')})" for key, of in (s.get("inputs") or {}).items())
        rows.append([name, s.get("seed"), duration(s.get("wall_seconds")), s.get("peak_rss_mb"), s.get("peak_gpu_mb")])
        rows[-1] += [(s.get("preflight") or {}).get("estimate_mb"), inputs or None]
    columns = [Column("stage", None), Column("seed", None), Column("time", None), Column("peak memory, MB", 0)]
    columns += [Column("peak GPU memory, MB", 0), Column("estimated peak, MB", 0), Column("trained from (hash)", None)]
    return Table("Stages", columns, rows, f"All stages together: {duration(run.seconds)}.").without_empty_columns()


def versions_table(run: Run) -> Table:
    """Versions by package; one column if all stages agree, else one a stage."""
    by_stage = {name: stage.summary.get("versions") or {} for name, stage in run.stages.items()}
    by_stage = {name: found for name, found in by_stage.items() if found}
    if len({tuple(sorted(found.items())) for found in by_stage.values()}) == 1:
        by_stage = {"version": next(iter(by_stage.values()))}
    packages = list(dict.fromkeys(package for found in by_stage.values() for package in found))
    columns = [Column("package", None), *(Column(name, None) for name in by_stage)]
    return Table("Versions", columns, [[p, *(found.get(p) for found in by_stage.values())] for p in packages])


def comparison(runs: Sequence[Run]) -> Table:
    """Several runs, a row each: what they were given, and what came of it."""
    given = dict(list(varying(runs).items())[:6])
    columns = [Column("run", None), *(Column(key, None) for key in given)]
    columns += [Column("SFT perplexity"), Column("RM accuracy", "%"), Column("score", 3), Column("KL", 2)]
    columns += [Column("gold", 3), Column("win, of decided", "%"), Column("95 %", None), Column("minutes", 1)]
    rows = []
    for i, run in enumerate(runs):
        metrics = {name: stage.metrics for name, stage in run.stages.items()}
        policy = run.policy.metrics if run.policy else {}
        models, pairs = run.evaluation.get("models", {}), run.evaluation.get("win_rate", {})
        last = final_model(run)
        won = pairs.get(f"{last}_vs_sft") or pairs.get(f"{last}_vs_base") or {}
        of = models.get(last, {})
        row = [run.name, *(None if v[i] is MISSING else v[i] for v in given.values())]
        row += [metrics.get("sft", {}).get("eval_ppl"), metrics.get("reward", {}).get("eval_accuracy")]
        kl = policy.get("kl_last") if "ppo" in run.stages else None  # GRPO's is a token's mean
        row += [of.get("score", policy.get("score_last")), of.get("kl", kl), of.get("gold")]
        ci = won.get("decided_ci95")
        row += [won.get("decided"), f"{100 * ci[0]:.0f} to {100 * ci[1]:.0f}" if ci else None, run.seconds / 60]
        rows.append(row)
    left_out = len(varying(runs)) - len(given)
    note = f"{left_out} more settings differ; see the settings below." if left_out > 0 else ""
    return Table("Runs", columns, rows, note).without_empty_columns()


def final_model(run: Run) -> str | None:
    """The name under which the run's last trained policy was evaluated."""
    names = list(contestants(run.evaluation))
    return next((name for name in ("ppo", "grpo", "dpo", "sft") if name in names), names[-1] if names else None)


def settings_table(runs: Sequence[Run]) -> Table:
    """Every setting in which the runs differ."""
    columns = [Column("setting", None), *(Column(run.name, None) for run in runs)]
    rows = [[key, *("-" if v is MISSING else hydra(v) for v in values)] for key, values in varying(runs).items()]
    return Table("Settings that differ between the runs", columns, rows)


def config_table(stage: Stage, defaults: Mapping) -> Table:
    """What differs from the defaults in one stage."""
    rows = [
        [key, *("-" if value is MISSING else hydra(value) for value in pair)]
        for key, pair in changed(stage, defaults).items()
    ]
    return Table(stage.name, [Column("setting", None), Column("default", None), Column("here", None)], rows)
