"""The one sampler: token ids of prompts in; completions, their log-probabilities and whether they ended out.

PPO's rollouts, stage=evaluate and stage=collect draw here. Chat streams words and knows a repetition penalty: it calls
transformers' `generate` with the prompt ids and stop ids of this room. GRPO keeps TRL's generation, for its vLLM.

Every random number is given from outside, one for each row and step. What a row says therefore depends on its own
numbers only, and neither on the batch it is in nor on how many processes share the work.
"""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from rlhf_recipes.engine.forward import accepted, cache_argument, causal_lm
from rlhf_recipes.engine.logprobs import exponentials_
from rlhf_recipes.engine.sampling import Sampling
from rlhf_recipes.engine.sequences import Kept, Sequences, pad_left

STAYING = 7 / 8  # finished rows leave the batch when they are an eighth of it: each time, the others' cache is copied


class Generated(NamedTuple):
    """B answers of at most T tokens.

    Args:
        sequences: prompts and completions (B, T).
        logprobs: (B, T) under the distribution they were drawn from, 0 on padding.
        finished: (B,) true where a stop token or string ended the answer, not the length.
    """

    sequences: Sequences
    logprobs: Tensor
    finished: Tensor


class CachedDecoder:
    """A causal model that has read the prompts and is read on from, a token at a time, by transformers' cache."""

    def __init__(self, causal: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, room: int):
        self.causal, self.cache = causal, DynamicCache(config=causal.config)
        self.cache_argument = cache_argument(causal)
        batch, self.length = prompt_ids.shape
        self.attention = torch.ones(batch, self.length + room, dtype=torch.long, device=prompt_ids.device)
        self.attention[:, : self.length] = prompt_mask
        seen = self.attention[:, : self.length]
        self._step(prompt_ids * seen, (seen.cumsum(1) - 1).clamp(min=0))

    def _step(self, ids: Tensor, position: Tensor) -> None:
        self.position = position[:, -1:]
        inputs = {
            "input_ids": ids,
            "attention_mask": self.attention[:, : self.length],
            "position_ids": position,
            self.cache_argument: self.cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        self.logits = self.causal(**accepted(self.causal, inputs)).logits[:, -1]  # (B, V) after the last token read

    def read(self, tokens: Tensor) -> None:
        """Read one more token (B,) of every row."""
        self.length += 1
        self._step(tokens[:, None], self.position + 1)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.attention, self.position = self.attention[rows], self.position[rows]
        self.cache.batch_select_indices(rows)


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


def draw(logits: Tensor, uniforms: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor, Tensor]:
    """Inverse-CDF sampling: the first token whose cumulative probability exceeds u; the likeliest at temperature 0.

    Args:
        logits: (B, V) float32, divided by the temperature. Overwritten.
        uniforms: (B,) in [0, 1).

    Returns:
        tokens (B,), their log-probabilities (B,) under what they were drawn from, and its probabilities (B, V), not
        normalised: 0 on what was cut off.
    """
    exponentials_(logits)
    p = logits
    if sampling.greedy:
        tokens = p.argmax(-1, keepdim=True)
    else:
        cut_tail_(p, sampling.top_k, sampling.top_p)
        cdf = p.cumsum(-1)
        total = cdf[:, -1:]
        point = torch.minimum(uniforms[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
        tokens = torch.searchsorted(cdf, point, right=True)
    return tokens.squeeze(-1), (p.gather(-1, tokens) / p.sum(-1, keepdim=True)).log_().squeeze(-1), p


@torch.no_grad()
def generate(
    causal: nn.Module,
    prompts: list[list[int]],
    uniforms: Tensor,
    sampling: Sampling,
    *,
    pad_id: int,
    batch_size: int,
    keep_sets: bool = True,
    track: Callable[[list[Tensor]], Iterable[Tensor]] = iter,
) -> Generated:
    """Answer every prompt once, in batches of like length.

    Args:
        causal: the language model, in eval mode, or a PEFT model around it. Its generation_config is not used.
        prompts: B lists of token ids.
        uniforms: (B, T) in [0, 1); T is `sampling.max_length`.
        pad_id: fills up prompts and completions.
        batch_size: prompts at once; the longest come first, so that what does not fit fails at once.
        keep_sets: keep the sets that were drawn from from a cut tail: log-probabilities that are read later need them.
        track: passes the batches on, and shows the progress.
    """
    causal = causal_lm(causal)
    device = next(causal.parameters()).device
    ids, mask = (x.to(device) for x in pad_left(prompts, pad_id))
    uniforms, columns = uniforms.to(device), ids.shape[1]
    order = mask.sum(1).argsort(stable=True, descending=True)
    done = []
    for rows in track(list(order.split(batch_size))):
        part = slice(columns - int(mask[rows[0]].sum()), columns)
        done.append(_batch(causal, ids[rows, part], mask[rows, part], uniforms[rows], sampling, pad_id, keep_sets))
    back = order.argsort()
    completions, real, logprobs, finished = (torch.cat([batch[i] for batch in done])[back] for i in range(4))
    sets = [batch[4] for batch in done]
    kept = None if sets[0] is None else Kept.cat(sets)[back]
    return Generated(Sequences(ids, mask, completions, real, kept), logprobs, finished)


def _batch(causal, prompt_ids, prompt_mask, uniforms, sampling: Sampling, pad_id: int, keep_sets: bool):
    """completions, mask, log-probabilities (B, T), finished (B,) and the sets of one batch."""
    batch, steps, device = len(prompt_ids), sampling.max_length, prompt_ids.device
    ids = torch.full((batch, steps), pad_id, device=device)
    mask = torch.zeros(batch, steps, dtype=torch.bool, device=device)
    logprobs = torch.zeros(batch, steps, device=device)
    finished = torch.zeros(batch, dtype=torch.bool, device=device)
    stop_ids = torch.tensor(sampling.stop_ids, dtype=torch.long, device=device)
    keep_sets = keep_sets and sampling.cuts

    reader, kept = CachedDecoder(causal, prompt_ids, prompt_mask, steps), []
    alive = torch.arange(batch, device=device)  # rows that the reader holds, and which of them have not ended
    going = torch.ones(batch, dtype=torch.bool, device=device)
    for step in range(steps):
        logits = reader.logits.float()
        if sampling.scale != 1:
            logits = logits / sampling.scale
        if step < sampling.min_length and len(stop_ids):
            logits[:, stop_ids] = float("-inf")
        tokens, logp, p = draw(logits, uniforms[alive, step], sampling)
        rows, drawn = alive[going], tokens[going]
        if keep_sets:
            row, token = p[going].nonzero(as_tuple=True)
            kept.append((rows[row], torch.full_like(row, step), token.int()))
        ids[rows, step], mask[rows, step], logprobs[rows, step] = drawn, True, logp[going]
        done = torch.isin(drawn, stop_ids)
        if sampling.stopped is not None and step >= sampling.min_length:
            hits = [sampling.stopped(ids[row, : step + 1].tolist()) for row in rows.tolist()]
            done |= torch.tensor(hits, device=device)
        finished[rows] = done
        going[going.clone()] = ~done
        if step + 1 == steps or done.all():
            break
        if going.sum() <= STAYING * len(going):
            left = going.nonzero().squeeze(-1)
            alive, tokens, going = alive[left], tokens[left], going[left]
            reader.keep(left)
        reader.read(tokens)
    return ids, mask, logprobs, finished, Kept.of(kept, batch, steps) if keep_sets else None
