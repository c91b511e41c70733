"""Groups of answers to one prompt: which of them teach nothing, and batches made of the others. Tensors only.

GRPO's advantage is an answer's reward minus its group's mean (arXiv:2402.03300 section 4.1.2): where all answers of a
group score alike it is 0 for each of them, and only the KL penalty is left.
"""

import torch

from rlhf_recipes.errors import UserError

LEFT = ("prompt_ids", "prompt_mask")  # padded on the left; whatever else has a row a token is padded on the right


def silent(rewards: torch.Tensor, group: int) -> torch.Tensor:
    """Which answers belong to a group without a signal: its rewards do not differ, or there are none.

    Args:
        rewards: `(N,)`, or `(N, F)` where each of F functions is normalised by itself; NaN where nothing was scored.
        group: answers a prompt; a group's answers lie next to each other.

    Returns:
        `(N,)` bool.

    >>> silent(torch.tensor([1.0, 0.0, 1.0, 1.0, float("nan"), float("nan")]), group=2).tolist()
    [False, False, True, True, True, True]
    """
    grouped = rewards.reshape(-1, group, rewards.shape[1] if rewards.ndim == 2 else 1)  # (P, G, F)
    low = grouped.nan_to_num(nan=torch.inf).amin(dim=1)
    high = grouped.nan_to_num(nan=-torch.inf).amax(dim=1)
    same = ~((high - low) > 1e-8)  # nothing scored: high - low is -inf; 1e-8 is TRL's tolerance on the deviation
    return same.all(dim=1).repeat_interleave(group)


def take(batch: dict[str, torch.Tensor], rows: torch.Tensor) -> dict[str, torch.Tensor]:
    """The rows of a batch that a `(B,)` mask or index picks; scalars go along."""
    return {name: value[rows] if value.ndim else value for name, value in batch.items()}


def join(batches: list[dict[str, torch.Tensor]], pad_token: int) -> dict[str, torch.Tensor]:
    """Batches one below the other, padded to the widest. Scalars are the first batch's.

    Args:
        batches: of the same names; `(B,)` or `(B, T)` each.
        pad_token: what prompt_ids and completion_ids are padded with; masks and log-probabilities are with 0.

    Raises:
        UserError: a tensor of another shape, such as an image's.
    """
    joined = {}
    for name, first in batches[0].items():
        values = [batch[name] for batch in batches]
        if first.ndim == 0:
            joined[name] = first
            continue
        if first.ndim > 2:
            raise UserError(
                f"trainer.zero_variance=resample cannot join {name}, which is no text; expected skip or keep"
            )
        if first.ndim == 2:
            width = max(value.shape[1] for value in values)
            fill = pad_token if name.endswith("_ids") else 0
            values = [_widen(value, width, fill, left=name in LEFT) for value in values]
        joined[name] = torch.cat(values)
    return joined


def _widen(value: torch.Tensor, width: int, fill: int, left: bool) -> torch.Tensor:
    missing = width - value.shape[1]
    return torch.nn.functional.pad(value, (missing, 0) if left else (0, missing), value=fill)
