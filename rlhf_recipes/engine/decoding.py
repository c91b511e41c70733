"""Reading prompts and then answers a token at a time, with a cache."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from rlhf_recipes.engine import lean
from rlhf_recipes.engine.forward import accepted, cache_argument
from rlhf_recipes.engine.sequences import Sequences


def decoder(causal: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, room: int) -> "CachedDecoder | LeanDecoder":
    """What generation asks for logits: it has read the prompts.

    Args:
        causal: the language model, in eval mode. Its generation_config is not read and not touched.
        prompt_ids: (B, P) padded on the left; prompt_mask: (B, P).
        room: tokens to come.
    """
    if lean.serves(causal):
        lengths = prompt_mask.sum(1)
        none = prompt_ids.new_zeros(len(prompt_ids), 0)
        ids, _ = Sequences(prompt_ids, prompt_mask, none, none.bool()).packed(1)
        return LeanDecoder(causal, ids, lengths, room)
    return CachedDecoder(causal, prompt_ids, prompt_mask, room)


class CachedDecoder:
    """Any causal model, by its own forward and transformers' cache."""

    def __init__(self, causal: nn.Module, prompt_ids: Tensor, prompt_mask: Tensor, room: int):
        self.causal, self.cache = causal, DynamicCache(config=causal.config)
        self.cache_argument = cache_argument(causal)
        batch, self.length = prompt_ids.shape
        self.attention = torch.zeros(batch, self.length + room, dtype=torch.long, device=prompt_ids.device)
        self.attention[:, : self.length] = prompt_mask
        seen = self.attention[:, : self.length]
        self._step(prompt_ids * seen, seen.cumsum(1) - seen)

    def _step(self, ids: Tensor, position: Tensor) -> None:
        self.position = position
        inputs = {
            "input_ids": ids,
            "attention_mask": self.attention[:, : self.length],
            "position_ids": position,
            self.cache_argument: self.cache,
            "use_cache": True,
            "logits_to_keep": 1,
        }
        self.out = self.causal(**accepted(self.causal, inputs)).logits[:, -1]

    def logits(self) -> Tensor:
        """(B, V) after the last token read."""
        return self.out

    def read(self, tokens: Tensor) -> None:
        """Read one more token (B,) of every row."""
        self.attention[:, self.length] = 1
        self.length += 1
        self._step(tokens[:, None], self.position[:, -1:] + 1)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.attention, self.position = self.attention[rows], self.position[rows]
        self.cache.batch_select_indices(rows)


class LeanDecoder:
    """Generation, token by token, from keys and values in place.

    Args:
        causal: the causal model around a decoder that fits.
        ids: (B, P) prompts, padded on the right; lengths: (B,).
        room: tokens to come.
    """

    def __init__(self, causal: nn.Module, ids: Tensor, lengths: Tensor, room: int):
        self.base, self.head = causal.base_model, causal.get_output_embeddings()
        self.place = lengths - 1  # of the last token read
        self.width, self.cache = ids.shape[1], []
        self.rope = lean.rotations(self.base, torch.arange(self.width + room))
        read_so_far: list = []
        self.hidden = lean.read(self.base, ids, self.place[:, None], read_so_far)[:, 0]
        self.cache = [tuple(F.pad(t, (0, 0, 0, room)) for t in pair) for pair in read_so_far]
        self.seen = torch.zeros(len(ids), self.width + room)
        self.seen.masked_fill_(torch.arange(self.width + room) >= lengths[:, None], float("-inf"))

    def logits(self) -> Tensor:
        """(B, V) after the last token read."""
        return self.head(self.hidden)

    def read(self, tokens: Tensor) -> None:
        """Read one more token (B,) of every row."""
        batch = len(tokens)
        rows = torch.arange(batch)
        self.place, self.width = self.place + 1, self.width + 1
        self.seen[rows, self.place] = 0.0
        rope = tuple(t[self.place][:, None, None] for t in self.rope)
        seen = self.seen[:, None, : self.width]
        x = lean.embed(self.base.embed_tokens, tokens)
        for layer, (keys, values) in zip(self.base.layers, self.cache, strict=True):
            q, k, v = lean.project(layer, x, None, (batch, 1), rope)
            keys[rows, :, self.place], values[rows, :, self.place] = k[:, :, 0], v[:, :, 0]
            k, v = (t.flatten(0, 1)[:, : self.width] for t in (keys, values))
            grouped = (q * q.shape[-1] ** -0.5).view(len(k), -1, q.shape[-1])
            scores = torch.bmm(grouped, k.transpose(1, 2)).view(batch, -1, self.width)
            p = torch.softmax(scores.add_(seen), -1)
            context = torch.bmm(p.view(len(k), -1, self.width), v)
            x = lean.finish(layer, context.view(q.shape), x)
        self.hidden = lean.rms_norm(x, self.base.norm.weight, self.base.norm.variance_epsilon)[0]

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.place, self.seen, self.hidden = self.place[rows], self.seen[rows], self.hidden[rows]
        self.cache = [(keys[rows], values[rows]) for keys, values in self.cache]
