"""Whether the score can be trusted: against gold, against the labels, and on which answers."""

import math
from collections.abc import Iterable, Sequence

from rlhf_recipes.report.blocks import Chart, show
from rlhf_recipes.report.run import Run, Stage, pick
from rlhf_recipes.report.svg import Line, downsample, histogram, line_chart
from rlhf_recipes.report.tables import wilson


def of_runs(runs: Sequence[Run]) -> list[Chart]:
    """Proxy and gold on the way; then the calibration and histograms of one run, or where several runs ended.

    The first two are panels with one x axis, as in arXiv:2210.10760, fig. 1.
    """
    alone = len(runs) == 1
    charts = []
    for quantity, title, how in (
        ("score", "Proxy over root KL", "What the reward believes, at each distance from the reference."),
        ("gold", "Gold over root KL", "What is true at the same distance. Training should end at the peak."),
    ):
        lines = [(quantity if alone else run.name, frontier(run, quantity)) for run in runs]
        charts += _over_root_kl(f"{quantity}_over_root_kl", title, how, quantity, lines)
    if alone:
        scoring = runs[0].first(lambda stage: bool(stage.scored_pairs))
        return [*charts, *(calibration(scoring) if scoring else []), *histograms(runs[0], scoring)]
    for quantity, title in (("score", "Proxy where each run ended"), ("gold", "Gold where each run ended")):
        finals = [run.contestants.get(run.final, {}) for run in runs]
        ends = _points((figures.get("kl"), figures.get(quantity)) for figures in finals)
        how = "Evaluated on the same held-out prompts; a point a run."
        charts += _over_root_kl(f"{quantity}_ends", title, how, quantity, [(quantity, ends)])
    return charts


def _over_root_kl(key: str, title: str, how: str, quantity: str, lines: list[tuple[str, list]]) -> list[Chart]:
    thinned = [downsample(label, *zip(*points, strict=True), points=40) for label, points in lines if len(points) > 1]
    marked = [Line(line.label, line.xs, line.ys, marked=True) for line in thinned]
    drawing = line_chart(marked, "square root of KL (nats a response)", quantity)
    return [Chart(key, title, how, tuple(line.label for line in marked), drawing)] if marked else []


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
        return _points((figures.get("kl"), figures.get(quantity)) for figures in way)
    evaluated = [row for row in run.policy.rows if "eval_kl" in row]
    if evaluated:  # KL and score of the same answers
        return _points((row["eval_kl"], row.get(f"eval_{quantity}")) for row in evaluated)
    kl, points = None, []
    for row in run.policy.rows:
        kl = pick(row, "kl") if pick(row, "kl") is not None else kl
        points.append((kl, pick(row, quantity)))
    return _points(points)


def _points(pairs: Iterable[tuple]) -> list[tuple[float, float]]:
    """(sqrt(KL), value), sorted, without gaps. An estimate from samples may fall below the true KL of 0."""
    return sorted((math.sqrt(max(0.0, kl)), value) for kl, value in pairs if kl is not None and value is not None)


def calibration(stage: Stage, bins: int = 8) -> list[Chart]:
    """How often people chose the answer that the model prefers, by how sure the model is.

    Sure means sigmoid(|difference of scores|), Bradley-Terry's probability; bars are Wilson's 95 % intervals.
    """
    pairs = stage.scored_pairs
    if len(pairs) < 2 * bins:
        return []
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
    return [Chart(f"{stage.name}_calibration", f"{stage.title}: calibration", how, (), drawing)]


def histograms(run: Run, scoring: Stage | None) -> list[Chart]:
    """Scores of chosen against rejected, and the score and gold of every evaluated model."""
    charts = []
    if scoring:
        chosen, rejected = zip(*scoring.scored_pairs, strict=True)
        how = "Held-out preferences. The further apart, the better it tells good answers from bad."
        drawing = histogram([chosen, rejected], "score")
        title = f"{scoring.title}: scores"
        charts.append(Chart(f"{scoring.name}_scores", title, how, ("chosen", "rejected"), drawing))
    for quantity, words in (("score", "score by model"), ("gold", "gold score by model")):
        by_model: dict[str, list[float]] = {}
        for row in run.judging.samples if run.judging else ():
            if isinstance(row.get(quantity), int | float):
                by_model.setdefault(str(row.get("model")), []).append(row[quantity])
        if by_model:
            drawing, how = (
                histogram(list(by_model.values()), quantity),
                "One answer a held-out prompt; heights are shares.",
            )
            title = f"{run.judging.title}: {words}"
            charts.append(Chart(f"{run.judging.name}_{quantity}", title, how, tuple(by_model), drawing))
    return charts
