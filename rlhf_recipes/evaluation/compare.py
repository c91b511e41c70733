"""Several models on the same held-out prompts: a summary of each, who beats whom, and every answer as a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rlhf_recipes.engine.prompts import as_completion
from rlhf_recipes.evaluation import statistics, text
from rlhf_recipes.evaluation.answers import Draw, tokens_of
from rlhf_recipes.evaluation.measure import Contestant, Measured, Questions, measure_all
from rlhf_recipes.report.tables import wilson
from rlhf_recipes.rewards.combine import RewardFunctions
from rlhf_recipes.rewards.logged import Logged

Reward = Callable[..., list[float | None]]  # TRL's f(prompts, completions, **columns)
Judge = Callable[[list, list, list], list[float | None]]  # f(prompts, ours, theirs): above 0 where ours is better


@dataclass(frozen=True)
class Judging:
    """What scores the answers, and what decides between two of them.

    Args:
        rewards: what PPO was trained on: `(prompts, completions, columns) -> (scores, {name: scores})`.
        gold: the true score, where it is known.
        exact: 1 for a right answer, 0 for a wrong one, None where it cannot tell; its mean is `accuracy`.
        judge: decides pairs itself.
        by: without a judge, whose scores decide: `gold`, `score` or a reward's name. None: gold where there is one,
            else the score.
        ref: the model that KL is measured to and checkpoints are compared with; None: neither.
        pairs: which (ours, theirs) to compare. None: every pair of models, the later against the earlier. A `judge`
            with `pairs` compares no checkpoints, since each comparison has its price.
        tie: half-width of the tie band, in the judge's unit.
    """

    rewards: Callable[[list, list, dict], tuple[Sequence[float], dict[str, Sequence[float]]]] | None = None
    gold: Reward | None = None
    exact: Reward | None = None
    judge: Judge | None = None
    by: str | None = None
    ref: str | None = None
    pairs: Sequence[tuple[str, str]] | None = None
    tie: float = 0.0

    @property
    def decides(self) -> str | None:
        """What decides, as the summary names it; None where nothing does."""
        if self.judge:
            return "judge"
        return self.by or ("gold" if self.gold else "score" if self.rewards else None)


def evaluate_models(
    contestants: Mapping[str, Contestant], questions: Questions, draw: Draw, judging: Judging
) -> tuple[dict, list[dict]]:
    """Answers the prompts with every model, one model in memory at a time, and compares the answers.

    Args:
        contestants: by name, in the order to be shown. The reference is loaded last, since it also reads the others'
            answers.
        questions: what each is asked.
        draw: how answers are sampled.
        judging: what scores and compares them.

    Returns:
        The summary, ready for JSON (`models: {name: {...}}`, `win_rate: {"ppo_vs_sft": {...}}`, `judge`, `ref`,
        `prompts`, `notes`, and `logged`: the metrics among a model's figures that the reward functions logged), and one
        row a model and prompt for samples.jsonl.
    """
    prompts = questions.prompts
    columns = {key: [row[key] for row in questions.rows] for key in questions.rows[0] if key != "prompt"}

    truth = RewardFunctions({"gold": judging.gold, "exact": judging.exact}, on_nonfinite="skip")

    def judged_right(texts: Sequence[str], **given) -> list[float | None]:
        return _numbers(truth.score_by("exact", prompts, _completions(prompts, texts), columns | given))

    measured = measure_all(contestants, questions, draw, ref=judging.ref, judged_right=judging.exact and judged_right)
    summaries, samples, scores = {}, [], {}
    names: dict[str, float] = {}  # of what the reward functions logged
    for name, contestant in contestants.items():
        of = measured[name]
        completions = _completions(prompts, of.texts)
        scored, logged = {}, Logged()
        given = columns | ({} if of.answers is None else tokens_of(of.answers)) | logged.keywords()
        if judging.rewards:
            scored["score"], by_name = judging.rewards(prompts, completions, given)
            scored |= {f"reward/{key}": values for key, values in by_name.items()}
        if judging.gold:
            scored["gold"] = truth.score_by("gold", prompts, completions, given)
        scored = {key: _numbers(values) for key, values in scored.items()}
        if judging.exact:
            scored["accuracy"] = judged_right(of.texts, **given)
        if of.elected:
            right = judged_right([of.elected.get(i, answer) for i, answer in enumerate(of.texts)])
            scored[f"majority_at_{questions.votes}"] = [v if i in of.elected else None for i, v in enumerate(right)]
        own, scores[name] = summarise(of, scored), scored
        metrics = {key: value for key, value in logged.means().items() if key not in own}
        names.update(metrics)
        summaries[name] = own | metrics
        extra = logged.columns(len(prompts))
        samples += [] if contestant.checkpoint else _samples(name, questions.rows, of, scored, extra)

    win_rate = {}
    for ours, theirs in _pairs(contestants, judging):
        if judging.judge:
            verdicts = judging.judge(prompts, measured[ours].texts, measured[theirs].texts)
        else:
            verdicts = _differences(scores[ours], scores[theirs], judging.decides)
        if verdicts is not None:
            win_rate[f"{ours}_vs_{theirs}"] = statistics.compare(verdicts, tie=judging.tie)._asdict()
    summary = {"models": summaries, "win_rate": win_rate, "judge": judging.decides, "ref": judging.ref}
    summary |= {"logged": list(names)} if names else {}
    return summary | {"prompts": len(prompts), "notes": _notes(contestants, measured, judging.ref)}, samples


def summarise(of: Measured, scored: Mapping[str, Sequence[float | None]]) -> dict:
    """One model's figures; docs/reference/metrics.md defines each. None stands for what could not be measured."""
    summary = {}
    for key, values in scored.items():
        mean = statistics.mean(values)
        summary |= {key: mean.mean, f"{key}_std": mean.std, f"{key}_se": mean.se}
        if key == "accuracy" or key.startswith("majority_at_"):
            summary[f"{key}_ci95"] = wilson(sum(value or 0 for value in values), mean.n)
    summary["kl"] = None
    if of.k1 is not None:
        kl = statistics.mean(of.k1)
        summary |= {"kl": kl.mean, "kl_se": kl.se, "kl_k3": statistics.mean(of.k3).mean}
    for key, perplexity in (("ppl", of.ppl), ("corpus_ppl", of.corpus_ppl)):
        summary[key] = None
        if perplexity is not None:
            summary |= {key: perplexity.ppl, f"{key}_tokens": perplexity.tokens, f"{key}_dropped": perplexity.dropped}
    answers = of.answers
    summary["length"] = statistics.mean([len(a.ids) for a in answers]).mean if answers is not None else None
    summary["eos_rate"] = statistics.mean([a.finished for a in answers]).mean if answers is not None else None
    summary["words"] = statistics.mean([len(text.words(answer)) for answer in of.texts]).mean
    summary |= {f"distinct_{n}": text.distinct(of.texts, n) for n in (1, 2)}
    summary["self_similarity"] = text.self_similarity(of.texts)
    summary["repetition"] = statistics.mean([text.repetition(answer) for answer in of.texts]).mean
    return summary | ({} if of.benchmarks is None else {"benchmarks": of.benchmarks})


def _samples(
    name: str,
    rows: Sequence[dict],
    of: Measured,
    scored: Mapping[str, Sequence[float | None]],
    extra: Mapping[str, Sequence],
) -> list[dict]:
    """A row a prompt: the prompt, the answer, every score of it, and the columns that reward functions logged."""
    samples = []
    for i, row in enumerate(rows):
        sample = {"step": 0, "model": name, "index": i, "prompt": row["prompt"], "completion": of.texts[i]}
        sample |= {key: values[i] for key, values in scored.items()}
        sample |= {} if of.k1 is None else {"kl": of.k1[i]}
        if of.answers is not None:
            sample |= {"tokens": len(of.answers[i].ids), "finished": of.answers[i].finished}
        samples.append({key: values[i] for key, values in extra.items()} | sample)
    return samples


def _pairs(contestants: Mapping[str, Contestant], judging: Judging) -> list[tuple[str, str]]:
    models = [name for name, contestant in contestants.items() if not contestant.checkpoint]
    pairs = judging.pairs
    if pairs is None:
        pairs = [(ours, theirs) for i, ours in enumerate(models) for theirs in reversed(models[:i])]
    if judging.ref is None or (judging.judge and judging.pairs is not None):
        return list(pairs)
    return [*pairs, *((name, judging.ref) for name in contestants if name not in models)]


def _completions(prompts: Sequence, texts: Sequence[str]) -> list:
    return [as_completion(answer, prompt) for prompt, answer in zip(prompts, texts, strict=True)]


def _numbers(scores: Sequence) -> list[float | None]:
    """Scores as plain JSON has them: tensors and numpy scalars become floats, NaN becomes None."""
    numbers = [None if score is None else float(score) for score in scores]
    return [None if number != number else number for number in numbers]


def _differences(ours: dict, theirs: dict, by: str | None) -> list[float | None] | None:
    key = by if by in ours else f"reward/{by}"
    if key not in ours or key not in theirs:
        return None
    return [None if None in pair else pair[0] - pair[1] for pair in zip(ours[key], theirs[key], strict=True)]


def _notes(contestants: Mapping[str, Contestant], measured: Mapping[str, Measured], ref: str | None) -> list[str]:
    """Why a figure is null."""
    notes = [
        f"{name} is an endpoint: no log-probabilities, so neither KL nor perplexity"
        for name, contestant in contestants.items()
        if contestant.load is None
    ]
    if ref is not None:
        others = [name for name, of in measured.items() if of.answers is not None and of.k1 is None]
        notes += [f"{name} has another vocabulary than {ref}: no KL to it" for name in others]
    return notes
