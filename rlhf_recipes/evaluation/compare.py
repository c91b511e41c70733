"""Several models on the same held-out prompts: a summary of each, who beats whom, and every answer as a row."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation import likelihood, measure, statistics, text
from rlhf_recipes.evaluation.measure import Answer, Text

Loader = Callable[[], tuple]  # () -> (model, tokenizer); called when its turn comes, let go before the next one's
Reward = Callable[..., list[float | None]]  # TRL's f(prompts, completions, **columns)
Signal = Callable[[list, list, dict], tuple[Sequence[float], dict[str, Sequence[float]]]]  # -> scores, scores by name
Judge = Callable[[list, list, list], list[float | None]]  # f(prompts, ours, theirs): above 0 where ours is better


@dataclass(frozen=True)
class Sampling:
    """How the prompts are answered; the fields are `measure.generate`'s."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    batch_size: int = 64
    seed: int = 0
    stop_token_ids: tuple[int, ...] | None = None


@dataclass
class _Measured:
    """What is kept of a model once it has been let go."""

    texts: list[str]
    answers: list[Answer] | None = None  # None where only the texts are known (an endpoint)
    logprobs: list | None = None
    vocabulary: dict | None = None
    ppl: likelihood.Perplexity | None = None
    corpus_ppl: likelihood.Perplexity | None = None
    k1: list[float] | None = None
    k3: list[float] | None = None


def evaluate_models(
    models: dict[str, Loader],
    prompts: Sequence[dict],
    *,
    signal: Signal | None = None,
    gold: Reward | None = None,
    exact: Reward | None = None,
    judge: Judge | None = None,
    ref: str | None = None,
    demos: Sequence[dict] = (),
    corpus: Sequence[str] = (),
    sampling: Sampling | None = None,
    answers: dict[str, Sequence[str]] | None = None,
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
        judge: decides pairs itself. Without it the gold score does, and without that the signal's.
        ref: name of the model KL is measured to. None: `sft` if it is there, else no KL.
        demos: held-out demonstrations for `ppl`.
        corpus: held-out plain texts for `corpus_ppl`.
        sampling: how to answer.
        answers: name -> texts made elsewhere, one a prompt (an endpoint's): scored, without KL and perplexity.
        pairs: which (ours, theirs) to compare. None: every pair, the later against the earlier.
        epsilon: half-width of the tie band, in the judge's unit.
        seed: of the bootstrap.

    Returns:
        The summary, ready for JSON (`models: {name: {...}}`, `win_rate: {"ppo_vs_sft": {...}}`, `judge`, `ref`,
        `prompts`), and one row a model and prompt for samples.jsonl.

    Raises:
        UserError: `ref` is none of the models.
    """
    sampling, rows = sampling or Sampling(), list(prompts)
    if ref is None and "sft" in models:
        ref = "sft"
    if ref is not None and ref not in models:
        raise UserError(f"evaluate.ref={ref} is none of the models compared ({', '.join(models)}): name one of them")
    asked = [row["prompt"] for row in rows]
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ()) if name != "prompt"}

    measured = _measure_all(models, asked, demos, corpus, ref, sampling)
    for name, texts in (answers or {}).items():
        measured[name] = _Measured(texts=list(texts))
    names = [*models, *(answers or {})]

    summaries, samples, judged = {}, [], {}
    for name in names:
        of = measured[name]
        completions = [as_completion(prompt, said) for prompt, said in zip(asked, of.texts, strict=True)]
        scores, by_name = signal(asked, completions, columns) if signal else (None, {})
        scored = {"score": scores, **{f"reward/{key}": value for key, value in by_name.items()}}
        for key, function in (("gold", gold), ("accuracy", exact)):
            scored[key] = function(prompts=asked, completions=completions, **columns) if function else None
        scored = {key: [_number(value) for value in values] for key, values in scored.items() if values is not None}
        summaries[name] = _summary(of, scored)
        judged[name] = scored.get("gold", scored.get("score"))
        samples += _samples(name, rows, of, scored)

    win_rate = {}
    chosen = pairs if pairs is not None else [(b, a) for i, b in enumerate(names) for a in reversed(names[:i])]
    for ours, theirs in chosen:
        if judge:
            verdicts = judge(asked, measured[ours].texts, measured[theirs].texts)
            result = statistics.compare(verdicts, [0.0] * len(verdicts), epsilon=epsilon, seed=seed)
        elif judged[ours] is not None:
            result = statistics.compare(judged[ours], judged[theirs], epsilon=epsilon, seed=seed)
        else:
            continue
        win_rate[f"{ours}_vs_{theirs}"] = result._asdict()
    by = "judge" if judge else "gold" if gold else "score" if signal else None
    return {"models": summaries, "win_rate": win_rate, "judge": by, "ref": ref, "prompts": len(rows)}, samples


def as_completion(prompt: Text, answer: str) -> Text:
    """An answer in the shape reward functions expect for this prompt: text to text, messages to messages."""
    return answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]


def _measure_all(models, asked, demos, corpus, ref, sampling) -> dict[str, _Measured]:
    measured: dict[str, _Measured] = {}
    heat = sampling.temperature
    for name in sorted(models, key=lambda name: name == ref):  # stable: the reference last
        model, tokenizer = models[name]()
        answers = measure.generate(model, tokenizer, asked, **asdict(sampling), description=f"{name}: answers")
        of = _Measured([answer.text for answer in answers], answers, vocabulary=tokenizer.get_vocab())
        if ref is not None:
            of.logprobs = likelihood.logprobs(model, answers, temperature=heat, description=f"{name}: KL")
        if demos:
            of.ppl = likelihood.perplexity(model, tokenizer, demos, description=f"{name}: perplexity")
        if corpus:
            of.corpus_ppl = likelihood.corpus_perplexity(model, tokenizer, corpus)
        measured[name] = of
        if name == ref:
            for other in measured.values():
                _diverge(other, of, model, heat)
        device = model.device
        del model
        measure.free(device)
    return measured


def _diverge(of: _Measured, ref: _Measured, ref_model, temperature: float) -> None:
    """Fills in the KL of a model's own answers to the reference; with another vocabulary ids mean other words: none."""
    if of.vocabulary != ref.vocabulary:
        return
    under = ref.logprobs if of is ref else likelihood.logprobs(ref_model, of.answers, temperature=temperature)
    of.k1, of.k3 = likelihood.kl_estimates(of.logprobs, under)


def _summary(of: _Measured, scored: dict[str, list]) -> dict:
    summary = {}
    for key, values in scored.items():
        mean = statistics.mean(values)
        summary |= {key: mean.mean, f"{key}_std": mean.std, f"{key}_se": mean.se}
    if of.k1 is not None:
        summary |= {"kl": statistics.mean(of.k1).mean, "kl_se": statistics.mean(of.k1).se}
        summary["kl_k3"] = statistics.mean(of.k3).mean
    for key in ("ppl", "corpus_ppl"):
        if (found := getattr(of, key)) is not None:
            summary |= {key: found.ppl, f"{key}_tokens": found.tokens, f"{key}_dropped": found.dropped}
    if of.answers is not None:
        summary["length"] = statistics.mean([answer.tokens for answer in of.answers]).mean
        summary["eos_rate"] = statistics.mean([answer.finished for answer in of.answers]).mean
    summary["words"] = statistics.mean([len(text.words(said)) for said in of.texts]).mean
    for n in (1, 2):
        summary[f"distinct_{n}"] = text.distinct(of.texts, n)
    summary["self_similarity"] = text.self_similarity(of.texts)
    summary["repetition"] = statistics.mean([text.repetition(said) for said in of.texts]).mean
    return summary


def _samples(name: str, rows: list[dict], of: _Measured, scored: dict[str, list]) -> list[dict]:
    samples = []
    for i, row in enumerate(rows):
        sample = {"step": 0, "model": name, "index": i, "prompt": row["prompt"], "completion": of.texts[i]}
        sample |= {key: values[i] for key, values in scored.items()}
        if of.k1 is not None:
            sample["kl"] = of.k1[i]
        if of.answers is not None:
            sample |= {"tokens": of.answers[i].tokens, "finished": of.answers[i].finished}
        samples.append(sample)
    return samples


def _number(value) -> float | None:
    """A score as plain JSON has it: tensors and numpy scalars become floats, NaN becomes None."""
    if value is None:
        return None
    value = float(value)
    return value if value == value else None
