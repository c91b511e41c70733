"""Prompts and answers side by side, and the sets of tokens that the answers were drawn from."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Kept:
    """For each token of B answers, the tokens it was drawn among, where top_k or top_p cut the others off.

    Args:
        ids: (K,) int32, the sets one after another, answer by answer and step by step.
        counts: (B, T) how many of them belong to each step; 0 on padding.
    """

    ids: Tensor
    counts: Tensor

    def __getitem__(self, rows) -> "Kept":
        sizes = self.counts.sum(1)
        starts = (sizes.cumsum(0) - sizes)[rows]
        counts = self.counts[rows]
        return Kept(self.ids[_ranges(starts, counts.sum(1))], counts)

    def width(self, steps: int) -> "Kept":
        """The first `steps` columns, where only padding lies behind them; with columns of padding added to reach it."""
        more = max(0, steps - self.counts.shape[1])
        return Kept(self.ids, torch.nn.functional.pad(self.counts[:, :steps], (0, more)))

    @staticmethod
    def of(parts: list[tuple[Tensor, Tensor, Tensor]], rows: int, steps: int) -> "Kept":
        """From (row, step, id) triples in any order: three tensors a part, of one length."""
        row, step, ids = (torch.cat(columns) for columns in zip(*parts, strict=True))
        place = row * steps + step
        counts = torch.bincount(place, minlength=rows * steps).view(rows, steps)
        return Kept(ids[place.argsort(stable=True)], counts)

    @staticmethod
    def cat(parts: list["Kept"]) -> "Kept":
        """Answers under answers, all of one width."""
        return Kept(torch.cat([p.ids for p in parts]), torch.cat([p.counts for p in parts]))


def _ranges(starts: Tensor, sizes: Tensor) -> Tensor:
    """starts[i], starts[i] + 1, ... sizes[i] of them, for all i, one after another."""
    before = sizes.cumsum(0) - sizes
    return torch.arange(int(sizes.sum()), device=sizes.device) + (starts - before).repeat_interleave(sizes)


@dataclass
class Sequences:
    """Prompts and completions side by side: prompts padded on the left, completions on the right.

    Args:
        prompt_ids: (B, P); prompt_mask: (B, P), true on real tokens.
        completion_ids: (B, T); mask: (B, T), true on real tokens, the stop token included.
        kept: the sets the completions were drawn from; None where nothing was cut off.
    """

    prompt_ids: Tensor
    prompt_mask: Tensor
    completion_ids: Tensor
    mask: Tensor
    kept: Kept | None = None

    @staticmethod
    def of(prompts: list[Sequence[int]], completions: list[Sequence[int]]) -> "Sequences":
        """From token ids, without padding; padded with 0."""
        ids, mask = pad_left([row[::-1] for row in completions], 0)
        return Sequences(*pad_left(prompts, 0), ids.flip(1), mask.flip(1))

    def to(self, device: torch.device) -> "Sequences":
        tensors = (self.prompt_ids, self.prompt_mask, self.completion_ids, self.mask)
        return Sequences(*(t.to(device) for t in tensors), self.kept)

    def completions(self) -> list[list[int]]:
        """The completions' token ids, without padding, the stop token included."""
        return [ids[mask].tolist() for ids, mask in zip(self.completion_ids, self.mask, strict=True)]

    def packed(self, steps: int) -> tuple[Tensor, Tensor]:
        """Each row moved together, padding on the right: under a causal mask nothing sees padding to its right.

        Returns:
            ids (B, L), and places (B, steps): the columns of the prompt's last token and of the tokens after it. L ends
            with the last of them that is a token. Places past a row's end, which every mask leaves out, stay inside L.
        """
        real = torch.cat([self.prompt_mask, self.mask], 1)
        places = self.prompt_mask.sum(1, keepdim=True) - 1 + torch.arange(steps, device=real.device)
        width = 1 + int(torch.minimum(places[:, -1], real.sum(1) - 1).max())
        ids = torch.cat([self.prompt_ids, self.completion_ids], 1) * real
        order = (~real).int().argsort(dim=1, stable=True)[:, :width]
        return ids.gather(1, order), places.clamp(max=width - 1)

    def trim(self) -> "Sequences":
        """Drop the columns in which every row is padding. At least one column of each part stays."""
        first = int(self.prompt_mask.any(0).int().argmax()) if self.prompt_mask.any() else self.prompt_mask.shape[1] - 1
        width = max(1, int(self.mask.sum(1).max()))
        return Sequences(
            self.prompt_ids[:, first:],
            self.prompt_mask[:, first:],
            self.completion_ids[:, :width],
            self.mask[:, :width],
            self.kept and self.kept.width(width),
        )

    def __getitem__(self, rows) -> "Sequences":
        tensors = (self.prompt_ids, self.prompt_mask, self.completion_ids, self.mask)
        return Sequences(*(t[rows] for t in tensors), self.kept and self.kept[rows])

    def __len__(self) -> int:
        return len(self.prompt_ids)


def pad_left(rows: list[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, P) padded on the left, and their mask (B, P). P is the longest row's length."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row)
        mask[i, width - len(row) :] = True
    return ids, mask
