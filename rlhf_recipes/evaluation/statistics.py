"""Means with their errors, and paired comparisons with Wilson's intervals. numpy only."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_recipes.report.tables import wilson

Scores = Sequence[float | None]


class Mean(NamedTuple):
    """A sample mean: `std` is the sample's (n - 1 below), `se` the mean's own standard error, `n` what was counted."""

    mean: float | None
    std: float | None
    se: float | None
    n: int


class Comparison(NamedTuple):
    """Shares of prompts, 0 to 1, and intervals that cover 95 %; `decided` is None where every prompt was a tie."""

    win: float
    tie: float
    loss: float
    ci95: tuple[float, float]  # of `win`
    decided: float | None  # wins among the prompts that were not ties
    decided_ci95: tuple[float, float] | None
    n: int
    tie_ci95: tuple[float, float]
    loss_ci95: tuple[float, float]


def mean(values: Scores) -> Mean:
    """Mean, sample deviation and standard error of the finite values, which are all that count.

    All three are None where nothing is finite; deviation and error are 0 for a single value.

    >>> mean([1.0, 2.0, 3.0, None])
    Mean(mean=2.0, std=1.0, se=0.5773502691896258, n=3)
    """
    kept = _finite(values)
    if not len(kept):
        return Mean(None, None, None, 0)
    std = float(kept.std(ddof=1)) if len(kept) > 1 else 0.0
    return Mean(float(kept.mean()), std, std / math.sqrt(len(kept)), len(kept))


def compare(verdicts: Scores, *, tie: float = 0.0) -> Comparison:
    """Who wins, prompt by prompt.

    Args:
        verdicts: `(n,)` the score of our answer less that of theirs to the same prompt, or a judge's verdict, above 0
            where ours is better. None and NaN take their prompt out: it is not counted in `n`.
        tie: half-width of the tie band, in the score's unit: |verdict| <= tie is a tie.

    Returns:
        Shares of wins, ties and losses, and of wins among the decided, with Wilson's 95 % intervals over prompts.

    >>> compare([1, 0, -1, 2]).win, compare([1, 0, -1, 2]).decided
    (0.5, 0.6666666666666666)
    """
    difference = _finite(verdicts)
    n = len(difference)
    win, loss = int((difference > tie).sum()), int((difference < -tie).sum())
    tied, decided = n - win - loss, win + loss
    return Comparison(
        *(count / n if n else 0.0 for count in (win, tied, loss)),
        ci95=wilson(win, n),
        decided=win / decided if decided else None,
        decided_ci95=wilson(win, decided) if decided else None,
        n=n,
        tie_ci95=wilson(tied, n),
        loss_ci95=wilson(loss, n),
    )


def _finite(values: Scores) -> np.ndarray:
    """The numbers among `values` as float64 `(n,)`: None, NaN and the infinite are left out."""
    array = np.asarray([float(value) for value in values if value is not None], dtype=np.float64)
    return array[np.isfinite(array)]
