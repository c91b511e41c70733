"""How likely a model finds given tokens: log-probabilities, the KL estimated from them, and perplexity.

Batches are cut by tokens, and engine.logprobs reads them a chunk of tokens at a time: no logits of a whole batch are
kept, and none of a prompt are computed.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from rlhf_recipes.engine.prompts import Text, prompt_ids
from rlhf_recipes.evaluation.answers import Answer, track

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Span(NamedTuple):
    """Token ids and where the part to be read begins; everything before `start` is context."""

    ids: tuple[int, ...]
    start: int  # at least 1: nothing predicts the first token


class Perplexity(NamedTuple):
    """exp(mean negative log-likelihood a token). `dropped` sequences did not fit the context and were left out."""

    ppl: float | None
    tokens: int
    dropped: int


def encode_demo(tokenizer: "PreTrainedTokenizerBase", prompt: Text, completion: Text) -> Span:
    """Ids of prompt and completion as SFTTrainer makes them, EOS last; read from the completion on."""
    [asked] = prompt_ids([prompt], tokenizer)
    if isinstance(prompt, str):
        ids = tuple(tokenizer(prompt + completion)["input_ids"])
        if tokenizer.eos_token_id is not None and ids[-1:] != (tokenizer.eos_token_id,):
            ids += (tokenizer.eos_token_id,)
    else:
        ids = tuple(tokenizer.apply_chat_template(prompt + completion, return_dict=True)["input_ids"])
    return Span(ids, max(1, len(asked)))


def logprobs(
    model: "PreTrainedModel",
    sequences: Sequence[Span | Answer],
    *,
    temperature: float = 1.0,
    max_tokens: int = 16384,
    description: str = "log-probabilities",
) -> list[np.ndarray]:
    """Log-probability of every token of the spans, nats.

    Args:
        model: causal language model.
        sequences: `(n,)`; an Answer is read from its first generated token on.
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

    sequences = [Span(s.prompt_ids + s.ids, len(s.prompt_ids)) if isinstance(s, Answer) else s for s in sequences]
    if not sequences:
        return []
    sampling = Sampling(temperature=temperature)
    result: list[np.ndarray | None] = [None] * len(sequences)
    with evaluating(model):
        linear = head_is_linear(model)
        if not linear:  # the whole forward's logits lie in memory at once
            max_tokens = min(max_tokens, CHUNK_ELEMENTS // model.config.get_text_config().vocab_size)
        batches = list(_batches(sequences, max_tokens))
        for batch in track(batches, len(sequences), description):
            parts = [(sequences[i].ids, max(1, sequences[i].start)) for i in batch]
            rows = Sequences.of([ids[:start] for ids, start in parts], [ids[start:] for ids, start in parts])
            read = completion_logprobs(model, rows.to(model.device), sampling, linear).double().cpu().numpy()
            for row, (i, (ids, start)) in enumerate(zip(batch, parts, strict=True)):
                result[i] = read[row, : len(ids) - start]
    return result


def _batches(sequences: list[Span], max_tokens: int) -> Iterator[list[int]]:
    order = sorted(range(len(sequences)), key=lambda i: len(sequences[i].ids), reverse=True)
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(sequences[batch[0]].ids) > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


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

    exp(sum NLL / sum tokens): every token weighs the same, EOS included; SFTTrainer's eval_loss weighs every batch the
    same.
    """
    return _perplexity(model, [encode_demo(tokenizer, row["prompt"], row["completion"]) for row in demos], description)


def corpus_perplexity(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *, length: int = 512
) -> Perplexity:
    """Perplexity of plain text: what alignment costs on the text that the model was pretrained on.

    A document longer than `length` tokens, or than the context, is cut, and each piece is read from nothing.
    """
    length = min(length, _context(model) or length)
    pieces = []
    for text in texts:
        ids = tuple(tokenizer(text)["input_ids"])
        pieces += [Span(ids[at : at + length], 1) for at in range(0, len(ids), length)]
    return _perplexity(model, [piece for piece in pieces if len(piece.ids) > 1], "corpus perplexity")


def _perplexity(model, spans: list[Span], description: str) -> Perplexity:
    limit = _context(model)
    fitting = [s for s in spans if s.start < len(s.ids) and (limit is None or len(s.ids) <= limit)]
    scored = logprobs(model, fitting, description=description)
    tokens = sum(map(len, scored))
    total = sum(float(row.sum()) for row in scored)
    return Perplexity(math.exp(-total / tokens) if tokens else None, tokens, len(spans) - len(fitting))


def _context(model) -> int | None:
    return getattr(model.config, "max_position_embeddings", None)
