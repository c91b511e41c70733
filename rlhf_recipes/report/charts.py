"""Which charts a run, or several, deserve: what is drawn, in which unit, and how to read it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_recipes.report import provenance, svg
from rlhf_recipes.report.content import show
from rlhf_recipes.report.curves import CURVES, Curve
from rlhf_recipes.report.run import Run, Stage, pick
from rlhf_recipes.report.svg import Drawing, Line


@dataclass(frozen=True)
class Chart:
    """A drawing with its words. `key` is fit for a file name; `below`: the title of the chart it stands under."""

    key: str
    title: str
    how: str
    legend: tuple[str, ...]
    drawing: Drawing
    below: str = ""


def curves(runs: Sequence[Run]) -> list[tuple[str, list[Chart]]]:
    """Each stage with its curves; those of several runs overlaid, the policies' first."""
    if len(runs) == 1:
        found = [(name, of_stage(stage)) for name, stage in runs[0].stages.items()]
    else:
        first = ("ppo", "grpo", "dpo", "reward", "sft", "pretrain", "collect", "evaluate")
        stages = {name for run in runs for name in run.stages}
        found = [(name, overlaid(runs, name)) for name in sorted(stages, key=first.index)]
    return [(name, drawn) for name, drawn in found if drawn]


def trust(run: Run) -> list[Chart]:
    """Whether the score can be trusted: against gold, against the labels, and on which answers."""
    calibrated = calibration(run.stages["reward"]) if "reward" in run.stages else None
    return [*proxy_and_gold([run]), *([calibrated] if calibrated else []), *histograms(run)]


def of_stage(stage: Stage) -> list[Chart]:
    """The curves of one stage of one run."""
    found = []
    for curve in CURVES:
        if stage.name not in curve.stages:
            continue
        lines = [_line(label, stage, quantity) for label, quantity in curve.lines.items()]
        if any(len(line.xs) > 1 for line in lines):
            found.append(_chart(stage.name, curve, [line for line in lines if line.xs], _references(stage, curve)))
    return found


def overlaid(runs: Sequence[Run], stage: str) -> list[Chart]:
    """The same curves with one line a run: the first quantity of each."""
    found = []
    for curve in CURVES:
        if stage not in curve.stages:
            continue
        quantity = next(iter(curve.lines.values()))
        lines = [_line(run.name, run.stages[stage], quantity) for run in runs if stage in run.stages]
        lines = [line for line in lines if len(line.xs) > 1]
        if lines:
            found.append(_chart(stage, curve, lines, ()))
    return found


def _line(label: str, stage: Stage, quantity: str) -> Line:
    thin = svg.downsample(*stage.series(quantity))
    return Line(label, thin.xs, thin.ys, thin.low, thin.high)


def _chart(stage: str, curve: Curve, lines: list[Line], references) -> Chart:
    drawing = svg.line_chart(lines, x_label="step", y_label=curve.unit, references=references, integer_x=True)
    key = f"{stage}_{curve.title.lower().replace(' ', '_')}"
    return Chart(key, curve.title, curve.how, tuple(line.label for line in lines), drawing, curve.below)


def _references(stage: Stage, curve: Curve) -> list[tuple[float, str]]:
    if curve.title == "KL to the reference" and (target := kl_target(stage.config)) is not None:
        return [(target, f"target {show(target, 1)}")]
    if curve.title == "Accuracy" and (ceiling := stage.metrics.get("label_ceiling")) is not None:
        return [(ceiling, f"label ceiling {show(ceiling, '%')}")]
    if curve.title == "Explained variance":
        return [(0.0, "")]
    return []


def kl_target(config: dict) -> float | None:
    """The KL controller's target in nats a response, None where KL is not steered."""
    node = config.get("kl")
    target = node.get("target") if isinstance(node, dict) else None
    return float(target) if isinstance(target, int | float) else None


def proxy_and_gold(runs: Sequence[Run]) -> list[Chart]:
    """Proxy and gold over the square root of the KL, two panels with one x axis (arXiv:2210.10760, fig. 1)."""
    charts = []
    for quantity, title, how in (
        ("score", "Proxy over root KL", "What the reward signal believes, at each distance from the reference."),
        (
            "gold",
            "Gold over root KL",
            "What is true at the same distance. The peak is where training should have ended.",
        ),
    ):
        lines = []
        for run in runs:
            points = frontier(run, quantity)
            if len(points) > 1:
                thin = svg.downsample([x for x, _ in points], [y for _, y in points], 40)
                lines.append(Line(run.name if len(runs) > 1 else quantity, thin.xs, thin.ys, marked=True))
        if lines:
            drawing = svg.line_chart(lines, x_label="square root of KL (nats a response)", y_label=quantity)
            charts.append(Chart(f"{quantity}_over_root_kl", title, how, tuple(line.label for line in lines), drawing))
    return charts


def frontier(run: Run, quantity: str) -> list[tuple[float, float]]:
    """(sqrt(KL), value) along the policy stage, by KL.

    From evaluated checkpoints (`ppo@100`) where there are two or more, else from the held-out answers logged on the
    way, else from training.
    """
    evaluated, rows = run.evaluation.get("models", {}), run.policy.rows if run.policy else []
    points = []
    for policy in (run.policy.name,) if run.policy else ():
        way = [of for name, of in evaluated.items() if name.startswith(f"{policy}@")]
        ends = [evaluated[name] for name in (run.evaluation.get("ref"), policy) if name in evaluated]
        points = [(of.get("kl"), of.get(quantity)) for of in [*way, *ends]] if len(way) > 1 else []
    if not points and quantity in ("score", "gold"):  # held-out prompts: KL and score of the same answers
        points = [(row.get("eval_kl"), row.get(f"eval_{quantity}")) for row in rows if "eval_kl" in row]
    if not points:
        kl = None
        for row in rows:
            kl = pick(row, "kl") if pick(row, "kl") is not None else kl
            points.append((kl, pick(row, quantity)))
    # An estimate from samples may fall below the true KL of 0 at the start.
    return sorted((math.sqrt(max(0.0, kl)), v) for kl, v in points if kl is not None and v is not None)


def ends(runs: Sequence[Run]) -> list[Chart]:
    """Where each run ended: proxy and gold of its final policy over its root KL, a point a run."""
    charts = []
    for quantity, title in (("score", "Proxy where each run ended"), ("gold", "Gold where each run ended")):
        points = []
        for run in runs:
            of = run.evaluation.get("models", {}).get(provenance.final_model(run), {})
            if of.get("kl") is not None and of.get(quantity) is not None:
                points.append((math.sqrt(max(0.0, of["kl"])), of[quantity]))
        if len(points) > 1:
            line = Line(quantity, *map(list, zip(*sorted(points), strict=True)), marked=True)
            drawing = svg.line_chart([line], x_label="square root of KL (nats a response)", y_label=quantity)
            how = "Evaluated on the same held-out prompts; a point a run."
            charts.append(Chart(f"{quantity}_ends", title, how, (quantity,), drawing))
    return charts


def scored_pairs(stage: Stage) -> list[tuple[float, float]]:
    """(score of chosen, score of rejected) on held-out preferences, from the reward stage's samples."""
    pairs = [(row.get("score_chosen"), row.get("score_rejected")) for row in stage.samples]
    return [(c, r) for c, r in pairs if isinstance(c, int | float) and isinstance(r, int | float)]


def calibration(stage: Stage, bins: int = 8) -> Chart | None:
    """How often the answer that the model prefers is the one people chose, by how sure it says it is.

    Sure means sigmoid(|difference of scores|), Bradley-Terry's probability; bars are Wilson's 95 % intervals.
    """
    pairs = scored_pairs(stage)
    if len(pairs) < 2 * bins:
        return None
    held: list[list[bool]] = [[] for _ in range(bins)]
    sure: list[list[float]] = [[] for _ in range(bins)]
    for chosen, rejected in pairs:
        p = 1 / (1 + math.exp(-min(abs(chosen - rejected), 700)))
        at = min(int((p - 0.5) * 2 * bins), bins - 1)
        held[at].append(chosen > rejected)
        sure[at].append(p)
    used = [i for i in range(bins) if held[i]]
    xs = [sum(sure[i]) / len(sure[i]) for i in used]
    ys = [sum(held[i]) / len(held[i]) for i in used]
    bounds = [wilson(sum(held[i]), len(held[i])) for i in used]
    error = sum(abs(y - x) * len(held[i]) for x, y, i in zip(xs, ys, used, strict=True)) / len(pairs)
    line = Line("observed", xs, ys, [low for low, _ in bounds], [high for _, high in bounds], marked=True)
    low = min(0.5, *(low for low, _ in bounds))
    drawing = svg.line_chart(
        [line],
        x_label="predicted probability that the higher-scored is chosen",
        y_label="share it was chosen",
        y_range=(low, 1.0),
        x_range=(0.5, 1.0),
        diagonal=True,
    )
    how = (
        f"On the dashed diagonal it is as sure as it is right. Mean distance {show(error, 3)} over {len(pairs)} pairs."
    )
    return Chart("reward_calibration", "Reward model: calibration", how, (), drawing)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927).

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    z = 1.96
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def histograms(run: Run) -> list[Chart]:
    """Scores of chosen against rejected, and the score and gold of every evaluated model."""
    found = []
    if "reward" in run.stages and (pairs := scored_pairs(run.stages["reward"])):
        groups = [("chosen", [c for c, _ in pairs]), ("rejected", [r for _, r in pairs])]
        how = "Held-out preferences. The further apart, the more the model can tell."
        found.append(_histogram("reward_scores", "Reward model: scores", how, groups, "score"))
    samples = run.stages["evaluate"].samples if "evaluate" in run.stages else []
    for quantity in ("score", "gold"):
        groups = {}
        for row in samples:
            if isinstance(row.get(quantity), int | float):
                groups.setdefault(str(row.get("model")), []).append(row[quantity])
        if groups:
            title = f"Evaluation: {'gold score' if quantity == 'gold' else 'score'} by model"
            how = "One answer a held-out prompt; heights are shares."
            found.append(_histogram(f"evaluate_{quantity}", title, how, list(groups.items()), quantity))
    return found


def _histogram(key: str, title: str, how: str, groups, x_label: str) -> Chart:
    return Chart(key, title, how, tuple(name for name, _ in groups), svg.histogram(groups, x_label=x_label))
