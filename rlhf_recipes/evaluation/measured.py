"""One model after the other, each let go before the next: its answers, likelihoods and benchmarks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rlhf_recipes.evaluation import likelihood, measure
from rlhf_recipes.evaluation.measure import Answer, Text
from rlhf_recipes.rewards import majority
from rlhf_recipes.runs.resolve import Stops

Loader = Callable[[], tuple]  # () -> (model, tokenizer); called when its turn comes, let go before the next one's


@dataclass(frozen=True)
class Sampling:
    """How the prompts are answered; the fields are `measure.generate`'s."""

    max_new_tokens: int = 64
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    batch_size: int = 64
    seed: int = 0
    stops: Stops | None = None


@dataclass
class Measured:
    """What is kept of a model once it has been let go."""

    texts: list[str]
    answers: list[Answer] | None = None  # None where only the texts are known (an endpoint)
    logprobs: list | None = None
    vocabulary: dict | None = None
    ppl: likelihood.Perplexity | None = None
    corpus_ppl: likelihood.Perplexity | None = None
    k1: list[float] | None = None
    k3: list[float] | None = None
    elected: dict[int, str] = field(default_factory=dict)  # prompt -> the text most of k answers agree with
    benchmarks: dict[str, dict[str, float]] | None = None


@dataclass(frozen=True)
class Questions:
    """What every model is asked beyond the prompts' answers.

    `checkable(texts) -> indices` are the prompts whose answers can be right or wrong, of which `k` are sampled for a
    vote; `benchmarks(model, tokenizer)` gives {task: {metric: value}}.
    """

    prompts: Sequence[Text]
    demos: Sequence[dict] = ()
    corpus: Sequence[str] = ()
    k: int = 1
    checkable: Callable[[list[str]], list[int]] | None = None
    benchmarks: Callable[..., dict[str, dict[str, float]]] | None = None


def measure_all(
    models: Mapping[str, Loader],
    asked: Questions,
    sampling: Sampling,
    *,
    ref: str | None,
    brief: Sequence[str] = (),
    stops: Mapping[str, Stops] | None = None,
) -> dict[str, Measured]:
    """Every model's answers and figures, in the order loaded: the reference last, since it judges the others' answers.

    Args:
        models: name -> loader.
        asked: what they are asked.
        sampling: how to answer.
        ref: name of the model KL is measured to, one of `models`; None: no KL.
        brief: names that answer the prompts only, without perplexity, votes and benchmarks (checkpoints).
        stops: name -> where that model's answers end; of the others, where `sampling` says.
    """
    measured: dict[str, Measured] = {}
    for name in sorted(models, key=lambda name: name == ref):  # stable
        model, tokenizer = models[name]()
        own = replace(sampling, stops=(stops or {}).get(name, sampling.stops))
        of = measured[name] = _measure(name, model, tokenizer, asked, own, keep=ref is not None)
        if name not in brief:
            _examine(name, of, model, tokenizer, asked, own)
        if name == ref:
            for other in measured.values():
                _diverge(other, of, model, sampling.temperature)
        device = model.device
        del model
        measure.free(device)
    return measured


def _measure(name: str, model, tokenizer, asked: Questions, sampling: Sampling, *, keep: bool) -> Measured:
    answers = measure.generate(model, tokenizer, asked.prompts, **vars(sampling), description=f"{name}: answers")
    of = Measured([answer.text for answer in answers], answers, vocabulary=tokenizer.get_vocab())
    if keep:
        heat = sampling.temperature
        of.logprobs = likelihood.logprobs(model, answers, temperature=heat, description=f"{name}: KL")
    return of


def _examine(name: str, of: Measured, model, tokenizer, asked: Questions, sampling: Sampling) -> None:
    if asked.demos:
        of.ppl = likelihood.perplexity(model, tokenizer, asked.demos, description=f"{name}: perplexity")
    if asked.corpus:
        of.corpus_ppl = likelihood.corpus_perplexity(model, tokenizer, asked.corpus)
    if asked.k > 1 and asked.checkable is not None and (which := asked.checkable(of.texts)):
        again = [asked.prompts[i] for i in which for _ in range(asked.k - 1)]
        more = vars(sampling) | {"seed": sampling.seed + 1}  # the first answer is that of all other figures
        others = measure.generate(model, tokenizer, again, **more, description=f"{name}: votes")
        for at, i in enumerate(which):
            said = [of.texts[i], *(a.text for a in others[at * (asked.k - 1) : (at + 1) * (asked.k - 1)])]
            of.elected[i] = said[majority.vote(said)]
    if asked.benchmarks is not None:
        of.benchmarks = asked.benchmarks(model, tokenizer)


def _diverge(of: Measured, ref: Measured, ref_model, temperature: float) -> None:
    """Fills in the KL of a model's own answers to the reference; with another vocabulary ids mean other words: none."""
    if of.vocabulary != ref.vocabulary:
        return
    under = ref.logprobs if of is ref else likelihood.logprobs(ref_model, of.answers, temperature=temperature)
    of.k1, of.k3 = likelihood.kl_estimates(of.logprobs, under)
