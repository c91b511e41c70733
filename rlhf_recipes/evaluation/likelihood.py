"""How likely a model finds given tokens: log-probabilities, the KL estimated from them, and perplexity."""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlhf_recipes.engine.prompts import Text, completion_ids, prompt_ids
from rlhf_recipes.evaluation.answers import track

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# token ids of a context of at least one token, and those to be read after it
Span = tuple[Sequence[int], Sequence[int]]


class Perplexity(NamedTuple):
    """exp(mean negative log-likelihood a token). `dropped` sequences did not fit the context and were left out."""

    ppl: float | None
    tokens: int
    dropped: int


def encode_demo(tokenizer: "PreTrainedTokenizerBase", prompt: Text, completion: Text) -> Span:
    """Ids of prompt and completion as `stage=sft` trains them, EOS last. What nothing precedes is a context itself."""
    [context], [read] = prompt_ids([prompt], tokenizer), completion_ids([prompt], [completion], tokenizer)
    return (context, read) if context else (read[:1], read[1:])


def logprobs(
    model: "PreTrainedModel",
    spans: Sequence[Span],
    *,
    temperature: float = 1.0,
    max_tokens: int = 16384,
    description: str = "log-probabilities",
) -> list[np.ndarray]:
    """Log-probability of every token to be read, nats, by engine.logprobs: no logits of a whole batch are kept.

    Args:
        model: causal language model.
        spans: `(n,)`.
        temperature: logits are divided by it, as the sampler's were; 0 counts as 1.
        max_tokens: padded tokens in one forward pass (one sequence always passes).
        description: before the progress bar.

    Returns:
        `(n,)` float64 arrays, each `(tokens read,)`.
    """
    from rlhf_recipes.engine.forward import evaluating, head_is_linear
    from rlhf_recipes.engine.logprobs import CHUNK_ELEMENTS, completion_logprobs
    from rlhf_recipes.engine.sampling import Sampling
    from rlhf_recipes.engine.sequences import Sequences

    result: list[np.ndarray | None] = [None] * len(spans)
    with evaluating(model):
        linear = head_is_linear(model)
        if not linear:  # the whole forward's logits lie in memory at once
            max_tokens = min(max_tokens, CHUNK_ELEMENTS // model.config.get_text_config().vocab_size)
        for batch in track(_batches(spans, max_tokens), len(spans), description):
            rows = Sequences.of(*map(list, zip(*(spans[i] for i in batch), strict=True))).to(model.device)
            read = completion_logprobs(model, rows, Sampling(temperature=temperature), linear).double().cpu().numpy()
            for row, i in enumerate(batch):
                result[i] = read[row, : len(spans[i][1])]
    return result


def _batches(spans: Sequence[Span], max_tokens: int) -> Iterator[list[int]]:
    """Places in `spans`, the longest first."""
    lengths = [len(context) + len(read) for context, read in spans]
    order = sorted(range(len(spans)), key=lambda i: -lengths[i])
    while order:
        size = max(1, max_tokens // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def kl_estimates(logprobs: Sequence[np.ndarray], ref_logprobs: Sequence[np.ndarray]) -> tuple[list[float], list[float]]:
    """KL(policy || reference) of each response, nats a response, from the tokens the policy sampled.

    With r = ref_logprob - logprob of a token: k1 = sum(-r), unbiased, what PPO logs as `objective/kl`;
    k3 = sum(exp(r) - 1 - r), unbiased too, never negative, of smaller variance while the two models are near
    (http://joschu.net/blog/kl-approx.html). Both are unbiased only for answers sampled without top_p or top_k.

    Args:
        logprobs: `(n,)` arrays `(response tokens,)` under the policy.
        ref_logprobs: the same tokens under the reference.

    Returns:
        k1 `(n,)` and k3 `(n,)`.
    """
    ratios = [theirs - ours for ours, theirs in zip(logprobs, ref_logprobs, strict=True)]
    return [float(-r.sum()) for r in ratios], [float((np.expm1(r) - r).sum()) for r in ratios]


def perplexity(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", demos: Sequence[dict], *, description="perplexity"
) -> Perplexity:
    """Perplexity of the completions of held-out demonstrations, rows of `prompt` and `completion`, given the prompts.

    Every token weighs the same, EOS included; SFTTrainer's eval_loss weighs every batch the same.
    """
    return _perplexity(model, [encode_demo(tokenizer, row["prompt"], row["completion"]) for row in demos], description)


def corpus_perplexity(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, length: int = 512
) -> Perplexity:
    """Perplexity of plain text: what alignment costs on the text that the model was pretrained on.

    A document longer than `length` tokens, or than the context, is cut, and each piece is read from nothing.
    """
    length = min(length, _context(model) or length)
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    pieces = [ids[at : at + length] for ids in encoded for at in range(0, len(ids), length)]
    return _perplexity(model, [(ids[:1], ids[1:]) for ids in pieces if len(ids) > 1], "corpus perplexity")


def _perplexity(model, spans: list[Span], description: str) -> Perplexity:
    limit = _context(model) or math.inf
    fitting = [span for span in spans if span[1] and sum(map(len, span)) <= limit]
    scored = logprobs(model, fitting, description=description)
    tokens = sum(map(len, scored))
    total = sum(float(row.sum()) for row in scored)
    return Perplexity(math.exp(-total / tokens) if tokens else None, tokens, len(spans) - len(fitting))


def _context(model) -> int | None:
    return getattr(model.config, "max_position_embeddings", None)
