"""The tables of a run. Which table a stage gets follows from the metrics it has, never from its name."""

import math
import re

from rlhf_recipes.report.blocks import Column, Table, duration, show, thinned
from rlhf_recipes.report.run import Run, Stage, pick

STEPS_SHOWN = 10  # rows of a table by step
JUDGES = {"gold": "the gold score", "score": "the reward", "judge": "the judge", None: ""}


def of_run(run: Run) -> list[Table]:
    """Every table of one run: of its stages, then of the evaluation."""
    stages = [of_stage(stage) for stage in run.stages.values()]
    return [table for table in (*stages, models(run), wins(run), benchmarks(run)) if table.rows]


def of_stage(stage: Stage) -> Table:
    """The table of one stage, without rows where it logged nothing to tabulate."""
    return by_step(stage) if stage.logs("score") else held_out(stage)


def held_out(stage: Stage) -> Table:
    """Held-out figures: by epoch where the summary has epochs, else at the end, of pairs also by evaluated step."""
    epochs = stage.metrics.get("epochs")
    text = epochs or "eval_ppl" in stage.metrics
    columns = {"train_loss": Column("train loss", 3)} if text else {"eval_accuracy": Column("accuracy", "%")}
    columns["eval_loss"] = Column("held-out loss", 3)
    columns |= {"eval_ppl": Column("perplexity")} if text else {"eval_margin": Column("margin", 3)}
    note = "Loss in nats a trained token." if text else ""
    accuracy, pairs = pick(stage.metrics, "eval_accuracy"), len(stage.scored_pairs)
    if pairs and accuracy is not None:
        bounds = interval(wilson(accuracy * pairs, pairs))
        note = f"Accuracy at the end over {pairs} pairs: {bounds} % (95 % interval by Wilson). "
    if (ceiling := stage.metrics.get("label_ceiling")) is not None:
        note += f"The labels agree with the gold scorer in {show(ceiling, '%')}: expect no model to do better."
    steps = [] if text else [row for row in stage.rows if pick(row, "eval_loss") is not None]
    evaluated = epochs or thinned(steps, STEPS_SHOWN)
    rows = [[pick(row, "epoch" if epochs else "step"), *(pick(row, name) for name in columns)] for row in evaluated]
    last = [pick(stage.metrics, name) for name in columns]
    if not epochs and any(value is not None for value in last) and (not rows or rows[-1][1:] != last):
        rows.append(["end", *last])
    head, where = (Column("epoch", 1), "by epoch") if epochs else (Column("step", 0), "on held-out rows")
    return Table(f"{stage.title} {where}", [head, *columns.values()], rows, note).without_empty_columns()


def by_step(stage: Stage) -> Table:
    """A policy by step: its held-out answers where there are two or more evaluations, else the updates themselves.

    A column never mixes training's figures with held-out ones. Where an evaluation measured the quantity, all values
    are from evaluations. Where none did (beta, entropy), the value is that of the last update before.
    """
    columns = {"score": Column("score", 3), "gold": Column("gold", 3), "accuracy": Column("accuracy", "%")}
    columns |= {"kl": Column("KL", 2), "kl_coef": Column("beta", 4), "win_rate": Column("win rate", "%")}
    columns |= {"length": Column("length", 1), "entropy": Column("entropy", 2)}

    def quantities(row: dict) -> dict[str, float]:
        return {name: value for name in columns if (value := pick(row, name)) is not None}

    latest: dict[str, float] = {}
    trained, evaluated = [], []
    for row in stage.rows:
        if values := quantities({key: value for key, value in row.items() if not key.startswith("eval_")}):
            latest = latest | values
            trained.append((row["step"], latest))
        of_eval = {key: value for key, value in row.items() if key.startswith("eval_")}
        if values := quantities(of_eval | {key.removeprefix("eval_"): value for key, value in of_eval.items()}):
            evaluated.append((row["step"], latest, values))
    note = "Score: the mean reward. KL in nats a response, length in tokens."
    shown = trained
    if len(evaluated) > 1 or not trained:
        measured = set().union(*(values for *_, values in evaluated))
        carried = [name for name in columns if name in latest and name not in measured]
        shown = [(step, {name: before.get(name) for name in carried} | values) for step, before, values in evaluated]
        note += " On held-out prompts."
        if carried:
            note += f" From the last update before: {', '.join(columns[name].label for name in carried)}."
        if "win_rate" in measured:
            note += " Win rate: of decided comparisons with the answers before training."
    rows = [[step, *(values.get(name) for name in columns)] for step, values in thinned(shown, STEPS_SHOWN)]
    heads = [Column("step", 0), *columns.values()]
    return Table(f"{stage.title} by step", heads, rows, note).without_empty_columns()


def models(run: Run) -> Table:
    """The models that were evaluated, side by side, then the checkpoints (`ppo@100`) that led to them."""
    figures, ref = run.evaluation.get("models", {}), run.evaluation.get("ref")
    keys = sorted({key for of in figures.values() for key in of})
    exact = []
    for key in ("accuracy", *(key for key in keys if re.fullmatch(r"majority_at_\d+", key))):
        label = key.replace("_at_", "@")
        exact += [(key, label, "%"), (f"{key}_ci95", f"95 % of {label}", None)]
    rewards = [key for key in keys if key.startswith("reward/") and not key.endswith(("_std", "_se"))]
    shown = [("score", "score", 3), ("gold", "gold", 3), ("kl", "KL", 2), ("ppl", "perplexity", 2)]
    shown += [("corpus_ppl", "corpus perplexity", 2), *exact, ("length", "length", 1)]
    shown += [("eos_rate", "ended by EOS", "%"), ("distinct_2", "distinct-2", 3), ("self_similarity", "similarity", 3)]
    # a single reward is the score
    shown += [(key, key.removeprefix("reward/"), 3) for key in rewards] if len(rewards) > 1 else []
    shown += [(key, key, 3) for key in run.evaluation.get("logged", [])]
    names = sorted(figures, key=lambda name: "@" in name)
    if names and "@" in names[-1]:  # the pairs of checkpoints are in no other table
        shown.append(("won", f"win over {ref}, of decided", "%"))
        pairs = run.evaluation.get("win_rate", {})
        figures = {name: of | {"won": pairs.get(f"{name}_vs_{ref}", {}).get("decided")} for name, of in figures.items()}
    rows = [[name, *(figures[name].get(key) for key, _, _ in shown)] for name in names]
    rows = [[interval(cell) if isinstance(cell, list) else cell for cell in row] for row in rows]
    columns = [Column("model", None), *(Column(label, digits) for _, label, digits in shown)]
    notes = [f"Means over {run.evaluation.get('prompts') or 'the'} held-out prompts."]
    notes += [f"KL to {ref}, nats a response."] if ref else []
    notes += [f"{text}." for text in run.evaluation.get("notes", [])]
    return Table("Models on held-out prompts", columns, rows, " ".join(notes)).without_empty_columns()


def wins(run: Run) -> Table:
    """Every compared pair, without checkpoints."""
    shares = {"win": "ci95", "tie": "tie_ci95", "loss": "loss_ci95"}
    rows = []
    for pair, outcome in run.evaluation.get("win_rate", {}).items():
        if "@" not in pair:
            row = [cell for share, ci in shares.items() for cell in (outcome.get(share), interval(outcome.get(ci)))]
            row += [decided(outcome), interval(outcome.get("decided_ci95")), outcome.get("n")]
            rows.append([pair.replace("_vs_", " over "), *row])
    columns = [column for share in shares for column in (Column(share, "%"), Column(f"95 % of {share}", None))]
    columns = [Column("pair", None), *columns]
    columns += [Column("of decided", "%", keep=True), Column("95 %", None, keep=True), Column("prompts", 0)]
    note = "Intervals by Wilson."
    if judge := judge_name(run):
        note = f"Judged by {judge}. {note}"
    return Table("Who beats whom", columns, rows, note).without_empty_columns()


def benchmarks(run: Run) -> Table:
    """Standard benchmarks: a row a task and metric, a column a model, with the standard error behind."""
    by_model = {name: of["benchmarks"] for name, of in run.contestants.items() if of.get("benchmarks")}
    metrics = dict.fromkeys((task, m) for tasks in by_model.values() for task, of in tasks.items() for m in of)
    rows = [
        [task, metric, *(_with_error(tasks.get(task, {}), metric) for tasks in by_model.values())]
        for task, metric in metrics
        if "_stderr" not in metric
    ]
    columns = [Column("task", None), Column("metric", None), *(Column(name, None) for name in by_model)]
    return Table("Benchmarks", columns, rows, "By lm-evaluation-harness, \N{PLUS-MINUS SIGN} standard error.")


def _with_error(metrics: dict, metric: str) -> str | None:
    """A benchmark's figure with its standard error, which the harness logs as `acc_stderr` or `f1_stderr/strict`."""
    name, slash, variant = metric.partition("/")
    error = metrics.get(f"{name}_stderr{slash}{variant}")
    if metrics.get(metric) is None:
        return None
    return show(metrics[metric], 3) + ("" if error is None else f" \N{PLUS-MINUS SIGN} {show(error, 3)}")


def verdict(run: Run) -> str:
    """The run in one sentence, empty where nothing was compared."""
    pairs, final = run.evaluation.get("win_rate", {}), run.final
    if not pairs:
        return ""
    wanted = [f"{final}_vs_{run.evaluation.get('ref')}", *(pair for pair in pairs if pair.startswith(f"{final}_vs_"))]
    pair = next(pair for pair in (*wanted, *pairs) if pair in pairs)
    ours, theirs = pair.split("_vs_")
    share, ci = decided(pairs[pair]), pairs[pair].get("decided_ci95")
    if share is None:
        return f"{ours} over {theirs}: nothing was decided, every answer is a tie."
    sentence = f"{ours} wins {100 * share:.0f} % of the decided held-out comparisons with {theirs}"
    if ci:
        sentence += f" (95 % interval {interval(ci)}{': no clear difference' if ci[0] <= 0.5 <= ci[1] else ''})"
    if judge := judge_name(run):
        sentence += f", judged by {judge}"
    kl = run.contestants.get(ours, {}).get("kl")
    return sentence + (f", at a KL of {kl:.1f} nats." if kl is not None else ".")


def judge_name(run: Run) -> str:
    """Who decided the pairs, in words; empty where nobody did."""
    judge = run.evaluation.get("judge")
    return JUDGES.get(judge, f"the reward {judge}")


def decided(outcome: dict) -> float | None:
    """The share of wins among the comparisons that were not ties."""
    total = (outcome.get("win") or 0) + (outcome.get("loss") or 0)
    return outcome.get("decided", outcome["win"] / total if total else None)


def interval(pair) -> str | None:
    """
    >>> interval([0.613, 0.701]), interval([0.0, 0.0004])
    ('61 to 70', '0.00 to 0.04')
    """
    if not pair:
        return None
    low, high = (min(max(100 * bound, 0.0), 100.0) for bound in pair)
    digits = next((digits for digits in range(3) if f"{low:.{digits}f}" != f"{high:.{digits}f}"), 3)
    return f"{low:.{digits}f} to {high:.{digits}f}"


def wilson(hits: float, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); 0 to 1 where nothing was counted.

    >>> [round(bound, 3) for bound in (*wilson(8, 10), *wilson(0, 10), *wilson(0, 0))]
    [0.49, 0.943, 0.0, 0.278, 0.0, 1.0]
    """
    z = 1.96
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / max(n, 1) + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def flow(run: Run) -> list[tuple[str, str, str]]:
    """The stages in order: title, time and peak memory, and the figures that each calls its own."""
    steps = []
    for stage in run.stages.values():
        peak = stage.summary.get("peak_gpu_mb") or stage.summary.get("peak_rss_mb")
        took = duration(stage.summary.get("wall_seconds")) + (f" · {peak / 1000:.1f} GB" if peak else "")
        figures = []
        for metric, label, digits in stage.figures:
            value = stage.metrics.get(metric)
            value = len(value) if isinstance(value, dict | list) else value
            if value is not None:
                figures.append(f"{show(value, 0)} {label}" if digits == 0 else f"{label} {show(value, digits)}")
        steps.append((stage.title, took, ", ".join(figures) if stage.done else "not finished"))
    return steps
