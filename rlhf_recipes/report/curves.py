"""Curves over training steps. A stage gets those whose metrics it logged, whatever its name."""

from collections.abc import Sequence
from typing import NamedTuple

from rlhf_recipes.report.blocks import Chart, Charts, show
from rlhf_recipes.report.run import Run, Stage
from rlhf_recipes.report.svg import downsample, line_chart


class Curve(NamedTuple):
    """A chart of one quantity or two."""

    title: str
    unit: str
    lines: dict[str, str]  # label -> quantity, or metric; of several runs only the first is overlaid
    how: str  # what a healthy one looks like
    beside: tuple[str, ...] = ()  # drawn where one of these is logged too; of curves of one title the first that fits
    below: str = ""  # the title of the chart that it stands under


def _one(quantity: str, title: str, unit: str, how: str, below: str = "") -> Curve:
    return Curve(title, unit, {title.lower(): quantity}, how, below=below)


LOSS = {"train": "loss", "held-out": "eval_loss"}
ACCURACY = {"train": "accuracy", "held-out": "eval_accuracy"}
TOKENS = {"train": "mean_token_accuracy", "held-out": "eval_mean_token_accuracy"}
MARGIN = {"train": "margin", "held-out": "eval_margin"}
KL = "KL to the reference"

CURVES = (  # in the order of the page
    _one("score", "Score", "reward", "The mean reward, which the policy is trained to raise."),
    _one("gold", "Gold score", "gold", "What is true. If it falls while the score rises, the score is being gamed."),
    Curve("Loss", "objective", LOSS, "Near 0: it shows neither progress nor its absence.", ("score",)),
    Curve("Loss", "nats a pair", LOSS, "ln 2 = 0.69 is a coin.", ("accuracy",)),
    Curve("Loss", "objective", LOSS, "Falls as good answers are told from bad ones.", ("margin",)),
    Curve("Loss", "nats a token", LOSS, "If held-out loss rises, there are too many epochs."),
    Curve("Accuracy", "share of prompts", ACCURACY, "Held-out answers that are right.", ("score",)),
    Curve("Accuracy", "share of pairs", ACCURACY, "Higher, up to the label ceiling."),
    Curve("Token accuracy", "share of tokens", TOKENS, "How often the right token was the likeliest."),
    Curve("Margin", "score", MARGIN, "Chosen above rejected; it grows, then flattens."),
    _one("kl", KL, "nats a response", "Where it has a target it should settle there; below 0 is a fault."),
    _one(
        "kl_coef", "Beta", "kl_coef", "The price of KL. If adaptive, it rises while KL is above its target.", below=KL
    ),
    _one("eval_win_rate", "Win rate", "share", "Of decided held-out comparisons with the answers before training."),
    _one("length", "Length", "tokens a response", "A steady climb: the reward may only like long answers."),
    _one("eos_rate", "Ended by EOS", "share", "Should be near 1, else answers are cut off before they are scored."),
    _one("entropy", "Entropy", "nats a token", "Falls slowly. Near 0: memorised, or nothing new is tried."),
    _one(
        "val/explained_variance",
        "Explained variance",
        "share",
        "Of the returns. 1 is perfect, 0 useless.",
    ),
    _one("clip_fraction", "Clip fraction", "share", "0.02 to 0.2. Above: a lower rate or fewer epochs."),
    _one("policy/approxkl_avg", "KL of an update", "nats a token", "Below about 0.02, or the update went too far."),
    _one("loss/policy_avg", "Policy loss", "clipped surrogate", "Near 0, slightly below: each update begins anew."),
    _one("loss/value_avg", "Value loss", "score squared", "Falls, then follows the spread of the returns."),
    _one("grad_norm", "Gradient norm", "before clipping", "Spikes mean instability."),
)


def of_runs(runs: Sequence[Run]) -> list[Charts]:
    """Each stage with its curves. Several runs are overlaid, the last stage first: there they differ most."""
    titles = {name: stage.title for run in runs for name, stage in run.stages.items()}
    names = list(dict.fromkeys(name for name in (*runs[0].order, *titles) if name in titles))
    groups = [
        Charts(titles[name], of_stage([(run.name, run.stages[name]) for run in runs if name in run.stages]))
        for name in (names if len(runs) == 1 else reversed(names))
    ]
    return [group for group in groups if group.charts]


def of_stage(stages: Sequence[tuple[str, Stage]]) -> list[Chart]:
    """The curves of one stage, `(run's name, stage)`; in several runs a line a run, of the first quantity."""
    charts: dict[str, Chart] = {}
    for curve in CURVES:
        if curve.title in charts or (curve.beside and not any(s.logs(q) for _, s in stages for q in curve.beside)):
            continue
        if len(stages) > 1:
            first = [q for q in curve.lines.values() if any(stage.logs(q) for _, stage in stages)][:1]
            lines = [downsample(label, *stage.series(quantity)) for quantity in first for label, stage in stages]
            lines = [line for line in lines if len(line.xs) > 1]
        else:
            lines = [downsample(label, *stages[0][1].series(quantity)) for label, quantity in curve.lines.items()]
            lines = [line for line in lines if len(line.xs)]
        if any(len(line.xs) > 1 for line in lines):
            key = f"{stages[0][1].name}_{curve.title.lower().replace(' ', '_')}"
            references = _references(stages[0][1], curve.title) if len(stages) == 1 else []
            drawing = line_chart(lines, "step", curve.unit, references=references)
            labels = tuple(line.label for line in lines)
            charts[curve.title] = Chart(key, curve.title, curve.how, labels, drawing, curve.below)
    return list(charts.values())


def _references(stage: Stage, title: str) -> list[tuple[float, str]]:
    """Horizontal lines: the KL controller's target, the most that labels allow, and where a critic is useless."""
    kl, ceiling = stage.config.get("kl"), stage.metrics.get("label_ceiling")
    target = kl.get("target") if isinstance(kl, dict) else None
    if title == KL and stage.logs("kl_coef") and isinstance(target, int | float):
        return [(float(target), f"target {show(target, 1)}")]
    if title == "Accuracy" and ceiling is not None:
        return [(ceiling, f"label ceiling {show(ceiling, '%')}")]
    return [(0.0, "")] if title == "Explained variance" else []
