"""Several models on the same held-out prompts: a summary of each, who beats whom, and every answer as a row."""

from collections.abc import Callable, Mapping, Sequence

from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation import statistics, summary
from rlhf_recipes.evaluation.measured import Loader, Measured, Questions, Sampling, measure_all
from rlhf_recipes.runs.resolve import Stops

Reward = Callable[..., list[float | None]]  # TRL's f(prompts, completions, **columns)
Signal = Callable[[list, list, dict], tuple[Sequence[float], dict[str, Sequence[float]]]]  # -> scores, scores by name
Judge = Callable[[list, list, list], list[float | None]]  # f(prompts, ours, theirs): above 0 where ours is better


def evaluate_models(
    models: Mapping[str, Loader],
    prompts: Sequence[dict],
    *,
    signal: Signal | None = None,
    gold: Reward | None = None,
    exact: Reward | None = None,
    judge: Judge | None = None,
    by: str | None = None,
    ref: str | None = None,
    demos: Sequence[dict] = (),
    corpus: Sequence[str] = (),
    sampling: Sampling | None = None,
    stops: Mapping[str, Stops] | None = None,
    answers: Mapping[str, Sequence[str]] | None = None,
    checkpoints: Mapping[str, Loader] | None = None,
    majority: int = 1,
    benchmarks: Callable[..., dict] | None = None,
    pairs: Sequence[tuple[str, str]] | None = None,
    epsilon: float = 0.0,
    seed: int = 0,
) -> tuple[dict, list[dict]]:
    """Answers the prompts with every model, one model in memory at a time, and compares the answers.

    Args:
        models: name -> loader, in the order to be shown (base, sft, ppo). The reference is loaded last, since it also
            judges the others' answers.
        prompts: rows with `prompt` and any other column; the others are handed to the scorers as lists.
        signal: the reward PPO was trained on: `(prompts, completions, columns) -> (scores, {name: scores})`.
        gold: what is true, where it is known.
        exact: 1 for a right answer, 0 for a wrong one, None where it cannot tell; its mean is `accuracy`.
        judge: decides pairs itself.
        by: without a judge, whose scores decide: `gold`, `score` or a reward's name. None: gold where there is one,
            else the signal.
        ref: name of the model KL is measured to. None: `sft` if it is there, else no KL.
        demos: held-out demonstrations for `ppl`.
        corpus: held-out plain texts for `corpus_ppl`.
        sampling: how to answer.
        stops: name -> where that model's answers end, models and checkpoints alike; of the others, at EOS.
        answers: name -> texts made elsewhere, one a prompt (an endpoint's): scored, without KL and perplexity.
        checkpoints: name -> loader of models along the way to one of `models`: scored and compared with the reference
            alone, without perplexity, votes, benchmarks and rows of their own. Where `judge` decides and `pairs` are
            given they are only scored: each comparison has its price.
        majority: k above 1 samples k answers to each prompt that `exact` can tell about, for `majority_at_<k>`.
        benchmarks: `(model, tokenizer) -> {task: {metric: value}}`.
        pairs: which (ours, theirs) to compare. None: every pair of models, the later against the earlier.
        epsilon: half-width of the tie band, in the judge's unit.
        seed: of the bootstrap.

    Returns:
        The summary, ready for JSON (`models: {name: {...}}`, `win_rate: {"ppo_vs_sft": {...}}`, `judge`, `ref`,
        `prompts`, `notes`), and one row a model and prompt for samples.jsonl.

    Raises:
        UserError: `ref` is none of the models.
    """
    from rlhf_recipes.engine.prompts import as_completion

    sampling, rows, along = sampling or Sampling(), list(prompts), dict(checkpoints or {})
    if ref is None and "sft" in models:
        ref = "sft"
    if ref is not None and ref not in models:
        raise UserError(f"evaluate.ref={ref} is none of the models compared ({', '.join(models)}): name one of them")
    asked = [row["prompt"] for row in rows]
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ()) if name != "prompt"}

    def completed(texts: Sequence[str]) -> list:
        return [as_completion(said, prompt) for prompt, said in zip(asked, texts, strict=True)]

    def judged_right(texts: Sequence[str]) -> list[float | None]:
        return [summary.number(v) for v in exact(prompts=asked, completions=completed(texts), **columns)]

    questions = Questions(
        asked,
        demos,
        corpus,
        k=majority,
        checkable=(lambda texts: [i for i, v in enumerate(judged_right(texts)) if v is not None]) if exact else None,
        benchmarks=benchmarks,
    )
    measured = measure_all({**models, **along}, questions, sampling, ref=ref, brief=list(along), stops=stops)
    measured |= {name: Measured(list(texts)) for name, texts in (answers or {}).items()}

    names, summaries, samples, scores = [*models, *(answers or {})], {}, [], {}
    for name in [*names, *along]:
        of = measured[name]
        completions = completed(of.texts)
        total, by_name = signal(asked, completions, columns) if signal else (None, {})
        scored = {"score": total, **{f"reward/{key}": values for key, values in by_name.items()}}
        scored["gold"] = gold(prompts=asked, completions=completions, **columns) if gold else None
        scored = {key: [summary.number(v) for v in values] for key, values in scored.items() if values is not None}
        if exact:
            scored["accuracy"] = judged_right(of.texts)
        if of.elected:
            right = judged_right([of.elected.get(i, said) for i, said in enumerate(of.texts)])
            scored[f"majority_at_{majority}"] = [v if i in of.elected else None for i, v in enumerate(right)]
        summaries[name], scores[name] = summary.summarise(of, scored), scored
        samples += summary.samples(name, rows, of, scored) if name not in along else []

    by = "judge" if judge else by or ("gold" if gold else "score" if signal else None)
    chosen = list(pairs) if pairs is not None else [(b, a) for i, b in enumerate(names) for a in reversed(names[:i])]
    if ref is not None and not (judge and pairs is not None):
        chosen += [(name, ref) for name in along]
    win_rate = {}
    for ours, theirs in chosen:
        if judge:
            verdicts = judge(asked, measured[ours].texts, measured[theirs].texts)
        else:
            verdicts = _differences(scores[ours], scores[theirs], by)
        if verdicts is not None:
            result = statistics.compare(verdicts, [0.0] * len(verdicts), epsilon=epsilon, seed=seed)
            win_rate[f"{ours}_vs_{theirs}"] = result._asdict()
    notes = _notes(measured, ref, list(answers or {}))
    found = {"models": summaries, "win_rate": win_rate, "judge": by, "ref": ref, "prompts": len(rows), "notes": notes}
    return found, samples


def _differences(ours: dict, theirs: dict, by: str | None) -> list[float | None] | None:
    key = by if by in ours else f"reward/{by}"
    if key not in ours or key not in theirs:
        return None
    return [None if None in pair else pair[0] - pair[1] for pair in zip(ours[key], theirs[key], strict=True)]


def _notes(measured: dict[str, Measured], ref: str | None, endpoints: list[str]) -> list[str]:
    """Why a figure is null."""
    notes = [f"{n} is an endpoint: no log-probabilities, so neither KL nor perplexity" for n in endpoints]
    if ref is not None:
        strange = [n for n, of in measured.items() if of.answers is not None and of.k1 is None]
        notes += [f"{n} has another vocabulary than {ref}: no KL to it" for n in strange]
    return notes
