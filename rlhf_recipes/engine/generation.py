"""The generation engine: sampling with a KV cache, finished rows leaving the batch.

Every random number is given from outside, one for each row and step. What a row says therefore depends on its own
numbers only: not on the batch it is in, not on how many processes share the work.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf_recipes.engine.decoding import decoder
from rlhf_recipes.engine.distribution import PolicyLanguage
from rlhf_recipes.engine.logprobs import exponentials_
from rlhf_recipes.engine.sequences import Kept, Sequences

STAYING = 7 / 8  # finished rows leave the batch when they are an eighth of it: each time, the others' cache is copied


@dataclass
class Sampling:
    """How to draw.

    Args:
        language: the distribution: temperature, stop tokens, minimum length, and what cuts the tail.
        max_length: tokens at most, the stop token included.
        stopped: (token ids so far) -> whether a stop string has just been completed; None without stop strings. One
            completed before the minimum length is passed over: its tokens are drawn as any others, and the ratio holds.
    """

    language: PolicyLanguage
    max_length: int
    stopped: Callable[[list[int]], bool] | None = None


def cut_tail_(p: Tensor, top_k: int, top_p: float) -> None:
    """Set what lies outside the k likeliest tokens, and then outside the nucleus of mass top_p, to 0. p: (B, V)."""
    if top_k:
        kth = p.topk(min(top_k, p.shape[-1]), dim=-1).values[:, -1:]
        p.masked_fill_(p < kth, 0.0)
    if top_p < 1.0:
        ranked, order = p.sort(-1, descending=True)
        # a token stays while the mass before it is below top_p: the likeliest always does
        outside = ranked.cumsum(-1) - ranked >= top_p * ranked.sum(-1, keepdim=True)
        p.masked_fill_(outside.gather(-1, order.argsort(-1)), 0.0)


def draw(logits: Tensor, uniforms: Tensor, top_k: int = 0, top_p: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse-CDF sampling: the first token whose cumulative probability exceeds u.

    Args:
        logits: (B, V) float32, divided by the temperature. Overwritten.
        uniforms: (B,) in [0, 1).
        top_k, top_p: cut the tail before drawing.

    Returns:
        tokens (B,), their log-probabilities (B,) under what they were drawn from, and its probabilities (B, V), not
        normalised: 0 on what was cut off.
    """
    exponentials_(logits)
    p = logits
    cut_tail_(p, top_k, top_p)
    cdf = p.cumsum(-1)
    total = cdf[:, -1:]
    point = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    tokens = torch.searchsorted(cdf, point, right=True)
    return tokens.squeeze(-1), (p.gather(-1, tokens) / p.sum(-1, keepdim=True)).log_().squeeze(-1), p


@torch.no_grad()
def generate(
    causal: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, uniforms: Tensor, sampling: Sampling, pad_id: int
) -> tuple[Sequences, Tensor, Tensor]:
    """Answer every prompt once.

    Args:
        causal: the language model, in eval mode. Its generation_config is not read and not touched.
        prompt_ids: (B, P) padded on the left; prompt_mask: (B, P).
        uniforms: (B, max_length) in [0, 1).
        sampling: how to draw.
        pad_id: fills completions after their end.

    Returns:
        the sequences (completions (B, max_length)), log-probabilities (B, max_length), 0 on padding, and
        finished (B,): true where a stop token or string ended the answer.
    """
    batch, width = len(prompt_ids), sampling.max_length
    device, language = prompt_ids.device, sampling.language
    ids = torch.full((batch, width), pad_id, device=device)
    mask = torch.zeros(batch, width, dtype=torch.bool, device=device)
    logprobs = torch.zeros(batch, width, device=device)
    finished = torch.zeros(batch, dtype=torch.bool, device=device)
    stop_ids = torch.tensor(language.stop_ids, dtype=torch.long, device=device)

    reader, kept = decoder(causal, prompt_ids, prompt_mask, width), []
    alive = torch.arange(batch, device=device)  # rows that the reader holds, and which of them have not ended
    going = torch.ones(batch, dtype=torch.bool, device=device)
    for step in range(width):
        logits = reader.logits().float()
        if language.temperature != 1:
            logits = logits / language.temperature
        if step < language.min_length and len(stop_ids):
            logits[:, stop_ids] = float("-inf")
        tokens, logp, p = draw(logits, uniforms[alive, step], language.top_k, language.top_p)
        rows, drawn = alive[going], tokens[going]
        if language.cuts:
            row, token = p[going].nonzero(as_tuple=True)
            kept.append((rows[row], torch.full_like(row, step), token.int()))
        ids[rows, step], mask[rows, step], logprobs[rows, step] = drawn, True, logp[going]
        done = torch.isin(drawn, stop_ids)
        if sampling.stopped is not None and step >= language.min_length:
            hits = [sampling.stopped(ids[row, : step + 1].tolist()) for row in rows.tolist()]
            done |= torch.tensor(hits, device=device)
        finished[rows] = done
        going[going.clone()] = ~done
        if step + 1 == width or done.all():
            break
        if going.sum() <= STAYING * len(going):
            left = going.nonzero().squeeze(-1)
            alive, tokens, going = alive[left], tokens[left], going[left]
            reader.keep(left)
        reader.read(tokens)
    sets = Kept.of(kept, batch, width) if language.cuts else None
    return Sequences(prompt_ids, prompt_mask, ids, mask, sets), logprobs, finished
