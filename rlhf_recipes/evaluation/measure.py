"""One model after the other, each let go before the next: its answers, likelihoods and benchmarks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rlhf_recipes.evaluation import likelihood
from rlhf_recipes.evaluation.answers import Answer, Draw, generate
from rlhf_recipes.evaluation.likelihood import Perplexity
from rlhf_recipes.rewards import majority
from rlhf_recipes.runs.resolve import Stops

Benchmarks = Callable[..., dict[str, dict[str, float]]]  # (model, tokenizer) -> {task: {metric: value}}


@dataclass(frozen=True)
class Contestant:
    """One that answers.

    Args:
        load: `() -> (model, tokenizer)`, called when its turn comes; None where `texts` are given.
        stops: where its answers end.
        texts: answers that were made elsewhere, one a prompt (an endpoint's): scored, without KL and perplexity.
        checkpoint: it lies on the way to another contestant: it is scored and compared with the reference, without
            perplexity, votes, benchmarks and rows of its own.
    """

    load: Callable[[], tuple] | None = None
    stops: Stops = field(default_factory=Stops)
    texts: Sequence[str] | None = None
    checkpoint: bool = False


@dataclass(frozen=True)
class Questions:
    """What every contestant is asked.

    Args:
        rows: with `prompt` and any other column; the others are handed to the scorers as lists.
        demos: held-out demonstrations for `ppl`.
        corpus: held-out plain texts for `corpus_ppl`.
        votes: k above 1 samples k answers to each prompt whose answer can be right or wrong, for `majority_at_<k>`.
        benchmarks: run while the model is in memory.
    """

    rows: Sequence[dict]
    demos: Sequence[dict] = ()
    corpus: Sequence[str] = ()
    votes: int = 1
    benchmarks: Benchmarks | None = None

    @property
    def prompts(self) -> list:
        return [row["prompt"] for row in self.rows]


@dataclass
class Measured:
    """What is kept of a contestant once its model has been let go."""

    texts: list[str]
    answers: list[Answer] | None = None  # None where only the texts are known (an endpoint)
    logprobs: list | None = None
    vocabulary: dict | None = None
    ppl: Perplexity | None = None
    corpus_ppl: Perplexity | None = None
    k1: list[float] | None = None
    k3: list[float] | None = None
    elected: dict[int, str] = field(default_factory=dict)  # prompt -> the text that most of k answers agree with
    benchmarks: dict[str, dict[str, float]] | None = None


def measure_all(
    contestants: Mapping[str, Contestant],
    questions: Questions,
    draw: Draw,
    *,
    ref: str | None,
    judged_right: Callable[[list[str]], list[float | None]] | None,
) -> dict[str, Measured]:
    """Every contestant's answers and figures; the reference is loaded last, since it reads the others' answers.

    Args:
        ref: the name of the model that KL is measured to; None: no KL.
        judged_right: what tells of the texts whether they are right; None for those about which it cannot tell.
    """
    from accelerate.utils.memory import clear_device_cache

    measured = {name: Measured(list(c.texts)) for name, c in contestants.items() if c.load is None}
    to_load = [name for name in contestants if name not in measured]
    for name in sorted(to_load, key=lambda name: name == ref):  # stable
        contestant = contestants[name]
        model, tokenizer = contestant.load()
        answers = generate(
            model, tokenizer, questions.prompts, draw, stops=contestant.stops, description=f"{name}: answers"
        )
        of = measured[name] = Measured([answer.text for answer in answers], answers, vocabulary=tokenizer.get_vocab())
        if ref is not None:
            of.logprobs = _logprobs(model, of, draw, f"{name}: KL")
        if not contestant.checkpoint:
            _examine(name, contestant, of, (model, tokenizer), questions, draw, judged_right)
        if name == ref:
            for other in measured.values():
                _diverge(other, of, model, draw)
        del model
        clear_device_cache(garbage_collection=True)
    return measured


def _examine(
    name: str, contestant: Contestant, of: Measured, loaded: tuple, questions: Questions, draw: Draw, judged_right
) -> None:
    """Perplexity, votes and benchmarks."""
    if questions.demos:
        of.ppl = likelihood.perplexity(*loaded, questions.demos, description=f"{name}: perplexity")
    if questions.corpus:
        of.corpus_ppl = likelihood.corpus_perplexity(*loaded, questions.corpus)
    if questions.votes > 1 and judged_right is not None:
        checkable = [i for i, right in enumerate(judged_right(of.texts)) if right is not None]
        others = questions.votes - 1  # the first answer is that of all other figures
        prompts = [questions.prompts[i] for i in checkable for _ in range(others)]
        again = replace(draw, seed=draw.seed + 1)
        answers = generate(*loaded, prompts, again, stops=contestant.stops, description=f"{name}: votes")
        for n, i in enumerate(checkable):
            texts = [of.texts[i], *(answer.text for answer in answers[n * others : (n + 1) * others])]
            of.elected[i] = texts[majority.vote(texts)]
    if questions.benchmarks is not None:
        of.benchmarks = questions.benchmarks(*loaded)


def _diverge(of: Measured, ref: Measured, ref_model, draw: Draw) -> None:
    """Fills in the KL of a model's own answers to the reference. With another vocabulary, ids are other words: none."""
    if of.answers is not None and of.vocabulary == ref.vocabulary:
        ref_logprobs = ref.logprobs if of is ref else _logprobs(ref_model, of, draw, "KL to the reference")
        of.k1, of.k3 = likelihood.kl_estimates(of.logprobs, ref_logprobs)


def _logprobs(model, of: Measured, draw: Draw, description: str) -> list:
    spans = [(answer.prompt_ids, answer.ids) for answer in of.answers]
    return likelihood.logprobs(model, spans, temperature=draw.temperature, description=description)
