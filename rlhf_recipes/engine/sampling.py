"""The distribution that answers are drawn from, to which every log-probability refers; and where an answer ends."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rlhf_recipes.engine.sequences import Kept, Sequences


@dataclass
class Constraint:
    """Tokens that could not be drawn at some of N positions.

    Args:
        tokens: (k,) ids that were forbidden where `rows` is true: the stop tokens before the minimum length.
        rows: (N,).
        kept: the sets that were drawn from, whose counts (B, T) are above 0 at the N positions; None: all tokens.
    """

    tokens: Tensor
    rows: Tensor
    kept: Kept | None = None

    def __post_init__(self):
        if self.kept is not None:
            self.counts = self.kept.counts[self.kept.counts > 0]
            self.ends = [0, *self.counts.cumsum(0).tolist()]

    def apply_(self, logits: Tensor, rows: slice) -> None:
        """Set the logits of chunk `rows` (n, V) that could not be drawn to -inf, in place."""
        forbidden = self.rows[rows]
        if forbidden.any():
            index = forbidden.nonzero().squeeze(-1)
            logits[index[:, None], self.tokens] = float("-inf")
        if self.kept is not None:
            counts = self.counts[rows]
            ids = self.kept.ids[self.ends[rows.start] : self.ends[rows.stop]].long()
            cut = torch.ones_like(logits, dtype=torch.bool)
            cut[torch.arange(len(counts), device=ids.device).repeat_interleave(counts), ids] = False
            logits.masked_fill_(cut, float("-inf"))


@dataclass
class Sampling:
    """Softmax of logits / temperature over the tokens that may be drawn, until an answer ends.

    Args:
        max_length: tokens at most, the stop token included.
        temperature: 0 takes the likeliest token; log-probabilities are then those of temperature 1.
        stop_ids: tokens that end an answer.
        min_length: the stop tokens have probability 0 at the first `min_length` steps.
        top_k: only the k likeliest tokens may be drawn; 0 for all.
        top_p: only the nucleus of this mass may be drawn; 1 for all.
        stopped: (token ids so far) -> whether a stop string has just been completed; None without stop strings. One
            that is completed before the minimum length is passed over: its tokens are drawn as any others.
    """

    max_length: int = 0
    temperature: float = 1.0
    stop_ids: list[int] = field(default_factory=list)
    min_length: int = 0
    top_k: int = 0
    top_p: float = 1.0
    stopped: Callable[[list[int]], bool] | None = None

    @property
    def greedy(self) -> bool:
        return self.temperature == 0

    @property
    def scale(self) -> float:
        """What logits are divided by."""
        return self.temperature or 1.0

    @property
    def cuts(self) -> bool:
        """Whether the tail is cut off, so that a log-probability needs to know the set that was drawn from."""
        return not self.greedy and (bool(self.top_k) or self.top_p < 1)

    def constraint(self, sequences: Sequences) -> Constraint | None:
        """What could not be drawn at each true position of the mask, in row-major order; None where all could be."""
        mask, kept = sequences.mask, sequences.kept
        ends_late = bool(self.min_length and self.stop_ids)
        if not ends_late and kept is None:
            return None
        early = (torch.arange(mask.shape[1], device=mask.device) < self.min_length).expand_as(mask)
        stop_ids = torch.tensor(self.stop_ids, dtype=torch.long, device=mask.device)
        return Constraint(stop_ids, early[mask] & ends_late, kept)
