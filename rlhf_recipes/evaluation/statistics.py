"""Means with their errors, and paired comparisons with bootstrap intervals. numpy only."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

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


def compare(verdicts: Scores, *, tie: float = 0.0, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Who wins, prompt by prompt.

    Args:
        verdicts: `(n,)` the score of our answer less that of theirs to the same prompt, or a judge's verdict, above 0
            where ours is better. None and NaN take their prompt out: it is not counted in `n`.
        tie: half-width of the tie band, in the score's unit: |verdict| <= tie is a tie.
        resamples: bootstrap samples over prompts.
        seed: of the resampling.

    Returns:
        Shares of wins, ties and losses, and of wins among the decided, with their 95 % percentile intervals.

    >>> compare([1, 0, -1, 2]).win, compare([1, 0, -1, 2]).decided
    (0.5, 0.6666666666666666)
    """
    difference = _finite(verdicts)
    n = len(difference)
    if n == 0:
        unknown = (0.0, 1.0)
        return Comparison(0.0, 0.0, 0.0, unknown, None, None, 0, unknown, unknown)
    wins, losses = int((difference > tie).sum()), int((difference < -tie).sum())
    shares = np.array([wins, n - wins - losses, losses]) / n
    # n prompts drawn with replacement from three outcomes are one multinomial draw: the bootstrap without its loop
    win, tied, loss = np.random.default_rng(seed).multinomial(n, shares, size=resamples).T  # (resamples,) each
    decided = win + loss
    some = decided > 0
    return Comparison(
        *(float(share) for share in shares),
        ci95=_interval(win / n),
        decided=wins / (wins + losses) if wins + losses else None,
        decided_ci95=_interval(win[some] / decided[some]) if wins + losses else None,
        n=n,
        tie_ci95=_interval(tied / n),
        loss_ci95=_interval(loss / n),
    )


def _finite(values: Scores) -> np.ndarray:
    """The numbers among `values` as float64 `(n,)`: None, NaN and the infinite are left out."""
    array = np.asarray([float(value) for value in values if value is not None], dtype=np.float64)
    return array[np.isfinite(array)]


def _interval(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)
