"""What a report says, as data: the tables, the verdict, the flow. Terminal, HTML and Markdown only set it in type."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from rlhf_recipes.report.run import Run, Stage, pick

STEPS_SHOWN = 10  # rows of the table by step
TITLES = {
    "pretrain": "Pretraining",
    "sft": "Supervised fine-tuning",
    "collect": "Collecting preferences",
    "reward": "Reward model",
    "ppo": "PPO",
    "dpo": "DPO",
    "grpo": "GRPO",
    "evaluate": "Evaluation",
}


class Column(NamedTuple):
    """A column's heading and how its numbers are set: digits after the point, `%` for shares, None for text."""

    label: str
    digits: int | str | None = 2


@dataclass(frozen=True)
class Table:
    """Rows of numbers, text or None, under columns."""

    title: str
    columns: list[Column]
    rows: list[list]
    note: str = ""

    def cells(self) -> list[list[str]]:
        """Every cell as text."""
        return [
            [show(value, column.digits) for value, column in zip(row, self.columns, strict=True)] for row in self.rows
        ]

    def without_empty_columns(self) -> "Table":
        """The same table, without the columns in which no row has a value."""
        keep = [i for i in range(len(self.columns)) if any(row[i] is not None for row in self.rows)]
        return Table(
            self.title, [self.columns[i] for i in keep], [[row[i] for i in keep] for row in self.rows], self.note
        )


def show(value, digits: int | str | None = 2) -> str:
    """A value as text.

    >>> show(0.6512, "%"), show(12.3456, 2), show(1200.0, 0), show(None), show("base", None)
    ('65.1 %', '12.35', '1,200', '-', 'base')
    """
    if value is None:
        return "-"
    if not isinstance(value, int | float) or digits is None:
        return str(value)
    if digits == "%":
        return f"{100 * value:.1f} %"
    value = round(value, digits) + 0.0  # -0.0 + 0.0 is 0.0
    return f"{value:,.{digits}f}".replace("-", "\N{MINUS SIGN}")


def duration(seconds: float | None) -> str:
    """Wall time in the largest two units.

    >>> duration(4.2), duration(192), duration(7260), duration(None)
    ('4.2 s', '3 min 12 s', '2 h 1 min', '-')
    """
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def epochs(stage: Stage) -> Table:
    """SFT or pretraining by epoch."""
    rows = [
        [e.get(key) for key in ("epoch", "train_loss", "eval_loss", "eval_ppl")]
        for e in stage.metrics.get("epochs", [])
    ]
    if not rows and stage.metrics:
        rows = [[None, *(stage.metrics.get(key) for key in ("train_loss", "eval_loss", "eval_ppl"))]]
    columns = [Column("epoch", 1), Column("train loss", 3), Column("held-out loss", 3), Column("perplexity", 2)]
    of = "" if stage.name == "pretrain" else ", of the completion only"
    return Table(
        f"{TITLES[stage.name]} by epoch", columns, rows, f"Loss in nats a trained token{of}."
    ).without_empty_columns()


def preference_model(stage: Stage) -> Table:
    """Reward model or DPO: accuracy, loss and margin on held-out preferences, at each evaluation and at the end."""
    evaluated = [row for row in stage.rows if pick(row, "eval_loss") is not None]
    names = ("eval_accuracy", "eval_loss", "eval_margin")
    rows = [[row["step"], *(pick(row, name) for name in names)] for row in thinned(evaluated, STEPS_SHOWN)]
    last = [stage.metrics.get(name) for name in names]
    if any(value is not None for value in last) and (not rows or rows[-1][1:] != last):
        rows.append(["end", *last])
    columns = [Column("step", 0), Column("accuracy", "%"), Column("loss", 3), Column("margin", 3)]
    ceiling = stage.metrics.get("label_ceiling")
    note = "On held-out preferences. "
    if ceiling is not None:
        note += f"The labels agree with the gold scorer in {show(ceiling, '%')}: no model can be expected to do better."
    return Table(f"{TITLES[stage.name]} on held-out pairs", columns, rows, note.strip()).without_empty_columns()


def by_step(stage: Stage) -> Table:
    """PPO or GRPO by step: the held-out answers on the way where there are two or more, else the updates themselves.

    Training's figures and held-out ones do not mix in a column: what some evaluation measured is taken from
    evaluations alone; what none does, beta and entropy, is that of the last update before.
    """
    columns = {"score": Column("score", 3), "gold": Column("gold", 3), "kl": Column("KL", 2)}
    columns |= {"kl_coef": Column("beta", 4), "win_rate": Column("win rate", "%"), "length": Column("length", 1)}
    columns |= {"entropy": Column("entropy", 2)}

    def known(row: dict) -> dict[str, float]:
        return {name: value for name in columns if (value := pick(row, name)) is not None}

    latest: dict[str, float] = {}
    trained, held_out = [], []
    for row in stage.rows:
        if found := known({key: value for key, value in row.items() if not key.startswith("eval_")}):
            latest = latest | found
            trained.append((row["step"], latest))
        evaluated = {key: value for key, value in row.items() if key.startswith("eval_")}
        if found := known(evaluated | {key.removeprefix("eval_"): value for key, value in evaluated.items()}):
            held_out.append((row["step"], latest, found))
    note = "Score: the reward signal before the KL penalty. KL in nats a response, length in tokens."
    shown = trained
    if len(held_out) > 1 or not trained:
        measured = set().union(*(found for *_, found in held_out))
        carried = [name for name in columns if name in latest and name not in measured]
        shown = [(step, {name: of.get(name) for name in carried} | found) for step, of, found in held_out]
        note += " On held-out prompts."
        note += f" Of the last update before: {', '.join(columns[name].label for name in carried)}." if carried else ""
        note += " Win rate: of decided comparisons with the answers before training." if "win_rate" in measured else ""
    rows = [[step, *(values.get(name) for name in columns)] for step, values in thinned(shown, STEPS_SHOWN)]
    heads = [Column("step", 0), *columns.values()]
    return Table(f"{TITLES[stage.name]} by step", heads, rows, note).without_empty_columns()


def contestants(evaluation: dict) -> dict[str, dict]:
    """The models that were compared, name -> figures, without the checkpoints on the way to them."""
    return {name: of for name, of in evaluation.get("models", {}).items() if "@" not in name}


def models(evaluation: dict) -> Table:
    """The models that were evaluated, side by side."""
    found = contestants(evaluation)
    logged = sorted({key for of in found.values() for key in of if not key.endswith(("_std", "_se"))})
    votes = [(key, key.replace("_at_", "@"), "%") for key in logged if key.startswith("majority_at_")]
    rewards = [(key, key.removeprefix("reward/"), 3) for key in logged if key.startswith("reward/")]
    keys = [("score", "score", 3), ("gold", "gold", 3), ("kl", "KL", 2), ("ppl", "perplexity", 2)]
    keys += [("corpus_ppl", "corpus perplexity", 2), ("accuracy", "accuracy", "%"), *votes, ("length", "length", 1)]
    keys += [("eos_rate", "ended by EOS", "%"), ("distinct_2", "distinct-2", 3), ("self_similarity", "likeness", 3)]
    keys += rewards if len(rewards) > 1 else []  # a single one is the score
    rows = [[name, *(of.get(key) for key, _, _ in keys)] for name, of in found.items()]
    columns = [Column("model", None), *(Column(label, digits) for _, label, digits in keys)]
    count = evaluation.get("prompts")
    note = f"Means over {count} held-out prompts." if count else "Means over held-out prompts."
    if evaluation.get("ref"):
        note += f" KL to {evaluation['ref']}, nats a response."
    note = " ".join([note, *(f"{text}." for text in evaluation.get("notes", []))])
    return Table("Models on held-out prompts", columns, rows, note).without_empty_columns()


def benchmarks(evaluation: dict) -> Table:
    """Standard benchmarks: a row a task and metric, a column a model, with the standard error behind."""
    found = {name: of["benchmarks"] for name, of in contestants(evaluation).items() if of.get("benchmarks")}
    asked = dict.fromkeys((t, m) for of in found.values() for t, metrics in of.items() for m in metrics)
    asked = [(task, metric) for task, metric in asked if "_stderr" not in metric]
    rows = []
    for task, metric in asked:
        figures = [(of.get(task, {}).get(metric), _stderr(of.get(task, {}), metric)) for of in found.values()]
        rows.append([task, metric, *(None if v is None else show(v, 3) + _plus_minus(e) for v, e in figures)])
    columns = [Column("task", None), Column("metric", None), *(Column(name, None) for name in found)]
    return Table("Benchmarks", columns, rows, "By lm-evaluation-harness, \N{PLUS-MINUS SIGN} standard error.")


def _stderr(metrics: dict, metric: str) -> float | None:
    name, slash, filtered = metric.partition("/")
    return metrics.get(f"{name}_stderr{slash}{filtered}")


def _plus_minus(error: float | None) -> str:
    return "" if error is None else f" \N{PLUS-MINUS SIGN} {show(error, 3)}"


def checkpoints(evaluation: dict) -> Table:
    """The checkpoints of the way that were evaluated, in order."""
    keys = [("score", "score", 3), ("gold", "gold", 3), ("kl", "KL", 2), ("accuracy", "accuracy", "%")]
    keys += [("length", "length", 1), ("distinct_2", "distinct-2", 3)]
    ref, pairs = evaluation.get("ref"), evaluation.get("win_rate", {})
    rows = []
    for name, of in evaluation.get("models", {}).items():
        if "@" in name:
            won = pairs.get(f"{name}_vs_{ref}", {}).get("decided")
            rows.append([name, *(of.get(key) for key, _, _ in keys), won])
    columns = [Column("checkpoint", None), *(Column(label, digits) for _, label, digits in keys)]
    columns.append(Column(f"win over {ref}, of decided", "%"))
    note = "The same prompts. Gold that falls while the score rises: the score is being gamed."
    return Table("Checkpoints on the way", columns, rows, note).without_empty_columns()


def evaluated(evaluation: dict) -> list[Table]:
    """What the evaluate stage has to tell, tables with at least a row."""
    tables = [models(evaluation), wins(evaluation), benchmarks(evaluation), checkpoints(evaluation)]
    return [table for table in tables if table.rows]


def judged_by(evaluation: dict) -> str:
    """Who decided the pairs, in words; empty where nobody did."""
    by = evaluation.get("judge")
    words = {"gold": "the gold score", "score": "the reward signal", "judge": "the judge", None: ""}
    return words.get(by, f"the reward {by}")


def wins(evaluation: dict) -> Table:
    """Every compared pair."""
    rows = []
    for pair, of in evaluation.get("win_rate", {}).items():
        if "@" in pair:
            continue
        decided = of.get("decided", decided_share(of))
        rows.append([versus(pair)])
        for share, ci in (("win", "ci95"), ("tie", "tie_ci95"), ("loss", "loss_ci95")):
            rows[-1] += [of.get(share), interval(of.get(ci))]
        rows[-1] += [decided, interval(of.get("decided_ci95")), of.get("n")]
    columns = [Column("pair", None)]
    for share in ("win", "tie", "loss"):
        columns += [Column(share, "%"), Column(f"95 % of {share}", None)]
    columns += [Column("of decided", "%"), Column("95 %", None), Column("prompts", 0)]
    note = f"Judged by {by}; " if (by := judged_by(evaluation)) else ""
    note += "intervals by bootstrap over prompts."
    return Table("Who beats whom", columns, rows, note[0].upper() + note[1:]).without_empty_columns()


def stage_table(stage: Stage) -> Table | None:
    """The table a stage has in a write-up, None where it left nothing to tell."""
    if stage.name in ("sft", "pretrain"):
        table = epochs(stage)
    elif stage.name in ("reward", "dpo"):
        table = preference_model(stage)
    elif stage.name in ("ppo", "grpo"):
        table = by_step(stage)
    else:
        return None
    return table if table.rows else None


def tables(run: Run) -> list[Table]:
    """Every table of one run: of its stages, then of the evaluation."""
    return [table for stage in run.stages.values() if (table := stage_table(stage))] + evaluated(run.evaluation)


def flow(run: Run) -> list[tuple[str, str, str]]:
    """The stages in order: title, time and peak memory, key figure."""
    steps = []
    for name, stage in run.stages.items():
        took = duration(stage.summary.get("wall_seconds"))
        peak = stage.summary.get("peak_gpu_mb") or stage.summary.get("peak_rss_mb")
        steps.append((TITLES[name], f"{took} · {peak / 1000:.1f} GB" if peak else took, key_figure(stage)))
    return steps


def facts(run: Run) -> str:
    """How long, how many stages, which seeds."""
    seeds = sorted({stage.summary["seed"] for stage in run.stages.values() if stage.summary.get("seed") is not None})
    found = [duration(run.seconds), f"{len(run.stages)} stages"]
    return " · ".join([*found, *([f"seed {', '.join(map(str, seeds))}"] if seeds else [])])


def verdict(run: Run) -> str:
    """The run in one sentence, empty where nothing was compared."""
    evaluation = run.evaluation
    pairs = evaluation.get("win_rate", {})
    last = next((name for name in ("ppo", "grpo", "dpo") if name in evaluation.get("models", {})), None)
    pair = next((p for p in (f"{last}_vs_sft", f"{last}_vs_base", *pairs) if p in pairs), None)
    if pair is None:
        return ""
    of = pairs[pair]
    decided = of.get("decided", decided_share(of))
    if decided is None:
        return f"{versus(pair)}: nothing was decided, every answer is a tie."
    ours, theirs = (name.upper() if name in ("ppo", "sft", "dpo", "grpo") else name for name in pair.split("_vs_"))
    sentence = f"{ours} wins {100 * decided:.0f} % of the decided held-out comparisons with {theirs}"
    if ci := of.get("decided_ci95"):
        sentence += f" (95 % interval {interval(ci)}{': no clear difference' if ci[0] <= 0.5 <= ci[1] else ''})"
    sentence += f", judged by {by}" if (by := judged_by(evaluation)) else ""
    kl = evaluation.get("models", {}).get(pair.split("_vs_")[0], {}).get("kl")
    return sentence + (f", at a KL of {kl:.1f} nats." if kl is not None else ".")


def key_figure(stage: Stage) -> str:
    """The one figure of a stage that is worth a place in the flow."""
    m = stage.metrics
    if stage.name in ("pretrain", "sft") and m.get("eval_ppl") is not None:
        return f"perplexity {show(m['eval_ppl'])}"
    if m.get("eval_accuracy") is not None:
        return f"accuracy {show(m['eval_accuracy'], '%')}"
    if m.get("score_last") is not None:
        kl = f", KL {show(m['kl_last'], 1)}" if m.get("kl_last") is not None and stage.name == "ppo" else ""
        return f"score {show(m.get('score_first'))} → {show(m['score_last'])}{kl}"
    if stage.name == "evaluate" and m.get("models"):
        return f"{len(contestants(m))} models, {m.get('prompts', '?')} prompts"
    if stage.name == "collect" and m.get("pairs") is not None:
        return f"{m['pairs']} pairs"
    return "" if stage.done else "not finished"


def thinned(rows: Sequence, count: int) -> list:
    """At most `count` of the rows, evenly spaced, first and last among them."""
    if len(rows) <= count or count < 2:
        return list(rows[:count])
    return [rows[round(i * (len(rows) - 1) / (count - 1))] for i in range(count)]


def decided_share(of: dict) -> float | None:
    """Wins among the comparisons that were not ties."""
    total = (of.get("win") or 0) + (of.get("loss") or 0)
    return of["win"] / total if total else None


def interval(pair) -> str | None:
    """
    >>> interval([0.613, 0.701])
    '61 to 70'
    """
    return f"{100 * pair[0]:.0f} to {100 * pair[1]:.0f}" if pair else None


def versus(pair: str) -> str:
    """
    >>> versus("ppo_vs_sft")
    'ppo over sft'
    """
    return pair.replace("_vs_", " over ")
