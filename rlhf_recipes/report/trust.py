"""Whether the score can be trusted: against gold, against the labels, and on which answers."""

import math
from collections.abc import Sequence

from rlhf_recipes.report.blocks import Chart, show
from rlhf_recipes.report.run import Run, Stage, pick
from rlhf_recipes.report.svg import Line, downsample, histogram, line_chart

ROOT_KL = "square root of KL (nats a response)"


def of_runs(runs: Sequence[Run]) -> list[Chart]:
    """Proxy and gold on the way, then the calibration and histograms of one run, or where several runs ended."""
    charts = proxy_and_gold(runs)
    if len(runs) > 1:
        return charts + ends(runs)
    scoring = runs[0].first(lambda stage: bool(scored_pairs(stage)))
    calibrated = calibration(scoring) if scoring else None
    return [*charts, *([calibrated] if calibrated else []), *histograms(runs[0], scoring)]


def proxy_and_gold(runs: Sequence[Run]) -> list[Chart]:
    """Proxy and gold over the square root of the KL, two panels with one x axis (arXiv:2210.10760, fig. 1)."""
    charts = []
    for quantity, title, how in (
        ("score", "Proxy over root KL", "What the reward believes, at each distance from the reference."),
        ("gold", "Gold over root KL", "What is true at the same distance. Training should end at the peak."),
    ):
        ways = [(run.name if len(runs) > 1 else quantity, frontier(run, quantity)) for run in runs]
        lines = [_marked(label, points) for label, points in ways if len(points) > 1]
        if lines:
            drawing = line_chart(lines, ROOT_KL, quantity)
            charts.append(Chart(f"{quantity}_over_root_kl", title, how, tuple(line.label for line in lines), drawing))
    return charts


def ends(runs: Sequence[Run]) -> list[Chart]:
    """Proxy and gold of each run's final policy over its root KL."""
    charts = []
    for quantity, title in (("score", "Proxy where each run ended"), ("gold", "Gold where each run ended")):
        finals = [run.contestants.get(run.final, {}) for run in runs]
        points = _over_root_kl((figures.get("kl"), figures.get(quantity)) for figures in finals)
        if len(points) > 1:
            drawing = line_chart([_marked(quantity, points)], ROOT_KL, quantity)
            how = "Evaluated on the same held-out prompts; a point a run."
            charts.append(Chart(f"{quantity}_ends", title, how, (quantity,), drawing))
    return charts


def frontier(run: Run, quantity: str) -> list[tuple[float, float]]:
    """(sqrt(KL), value) along the policy stage, by KL.

    From evaluated checkpoints (`ppo@100`) where there are two or more, else from the held-out answers that were logged
    during training, else from training itself.
    """
    if run.policy is None:
        return []
    models, name = run.evaluation.get("models", {}), run.policy.name
    way = [figures for model, figures in models.items() if model.startswith(f"{name}@")]
    if len(way) > 1:
        way += [models[model] for model in (run.evaluation.get("ref"), name) if model in models]
        return _over_root_kl((figures.get("kl"), figures.get(quantity)) for figures in way)
    evaluated = [row for row in run.policy.rows if "eval_kl" in row]
    if evaluated:  # KL and score of the same answers
        return _over_root_kl((row["eval_kl"], row.get(f"eval_{quantity}")) for row in evaluated)
    kl, points = None, []
    for row in run.policy.rows:
        kl = pick(row, "kl") if pick(row, "kl") is not None else kl
        points.append((kl, pick(row, quantity)))
    return _over_root_kl(points)


def _over_root_kl(points) -> list[tuple[float, float]]:
    """Sorted, without gaps. At the start an estimate from samples may fall below the true KL, which is 0."""
    return sorted((math.sqrt(max(0.0, kl)), v) for kl, v in points if kl is not None and v is not None)


def _marked(label: str, points: list[tuple[float, float]]) -> Line:
    thin = downsample(label, *zip(*points, strict=True), points=40)
    return Line(label, thin.xs, thin.ys, marked=True)


def scored_pairs(stage: Stage) -> list[tuple[float, float]]:
    """(score of chosen, score of rejected) on held-out preferences, from the samples of a stage that scores them."""
    pairs = [(row.get("score_chosen"), row.get("score_rejected")) for row in stage.samples]
    return [(c, r) for c, r in pairs if isinstance(c, int | float) and isinstance(r, int | float)]


def calibration(stage: Stage, bins: int = 8) -> Chart | None:
    """How often people chose the answer that the model prefers, by how sure the model is.

    Sure means sigmoid(|difference of scores|), Bradley-Terry's probability; bars are Wilson's 95 % intervals.
    """
    pairs = scored_pairs(stage)
    if len(pairs) < 2 * bins:
        return None
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]  # (probability, whether it was right)
    for chosen, rejected in pairs:
        p = 1 / (1 + math.exp(-min(abs(chosen - rejected), 700)))
        members[min(int((p - 0.5) * 2 * bins), bins - 1)].append((p, chosen > rejected))
    members = [of_bin for of_bin in members if of_bin]
    xs, ys = ([sum(pair[i] for pair in of_bin) / len(of_bin) for of_bin in members] for i in (0, 1))
    bounds = [wilson(sum(right for _, right in of_bin), len(of_bin)) for of_bin in members]
    error = sum(abs(y - x) * len(of_bin) for x, y, of_bin in zip(xs, ys, members, strict=True)) / len(pairs)
    drawing = line_chart(
        [Line("observed", xs, ys, *zip(*bounds, strict=True), marked=True)],
        "predicted probability that the higher-scored is chosen",
        "share it was chosen",
        limits=(0.5, 1.0, min(0.5, *(low for low, _ in bounds)), 1.0),
        diagonal=True,
    )
    how = (
        f"On the dashed diagonal it is as sure as it is right. Mean distance {show(error, 3)} over {len(pairs)} pairs."
    )
    return Chart(f"{stage.name}_calibration", f"{stage.title}: calibration", how, (), drawing)


def wilson(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927).

    >>> [round(x, 3) for x in wilson(8, 10)]
    [0.49, 0.943]
    """
    z = 1.96
    centre = (hits + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(hits * (n - hits) / n + z * z / 4)
    return max(0.0, centre - half), min(1.0, centre + half)


def histograms(run: Run, scoring: Stage | None) -> list[Chart]:
    """Scores of chosen against rejected, and the score and gold of every evaluated model."""
    charts = []
    if scoring:
        pairs = scored_pairs(scoring)
        groups = [("chosen", [chosen for chosen, _ in pairs]), ("rejected", [rejected for _, rejected in pairs])]
        how = "Held-out preferences. The further apart, the better it tells good answers from bad."
        charts.append(_histogram(f"{scoring.name}_scores", f"{scoring.title}: scores", how, groups, "score"))
    for quantity, title in (("score", "score by model"), ("gold", "gold score by model")):
        by_model: dict[str, list[float]] = {}
        for row in run.judging.samples if run.judging else ():
            if isinstance(row.get(quantity), int | float):
                by_model.setdefault(str(row.get("model")), []).append(row[quantity])
        if by_model:
            name, how = f"{run.judging.name}_{quantity}", "One answer a held-out prompt; heights are shares."
            charts.append(_histogram(name, f"{run.judging.title}: {title}", how, list(by_model.items()), quantity))
    return charts


def _histogram(key: str, title: str, how: str, groups: list[tuple[str, list[float]]], x_label: str) -> Chart:
    return Chart(key, title, how, tuple(name for name, _ in groups), histogram(groups, x_label))
