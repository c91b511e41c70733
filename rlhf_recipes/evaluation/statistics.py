"""Means with their errors and paired comparisons with bootstrap intervals. numpy only."""

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


def finite(values: Scores) -> np.ndarray:
    """The numbers among `values` as float64 `(n,)`: None, NaN and the infinite are left out."""
    kept = [float(value) for value in values if value is not None]
    array = np.asarray(kept, dtype=np.float64)
    return array[np.isfinite(array)]


def mean(values: Scores) -> Mean:
    """Mean, sample deviation and standard error of the finite values.

    Args:
        values: `(n,)`; None and NaN are not counted.

    Returns:
        All None where nothing is finite; deviation and error 0 for a single value.

    >>> mean([1.0, 2.0, 3.0, None])
    Mean(mean=2.0, std=1.0, se=0.5773502691896258, n=3)
    """
    kept = finite(values)
    if not len(kept):
        return Mean(None, None, None, 0)
    std = float(kept.std(ddof=1)) if len(kept) > 1 else 0.0
    return Mean(float(kept.mean()), std, std / math.sqrt(len(kept)), len(kept))


def compare(ours: Scores, theirs: Scores, *, epsilon: float = 0.0, resamples: int = 2000, seed: int = 0) -> Comparison:
    """Who wins, prompt by prompt: `ours[i]` and `theirs[i]` are the scores of two answers to the same prompt.

    Args:
        ours: `(n,)` scores.
        theirs: `(n,)` scores.
        epsilon: half-width of the tie band, in the score's unit: |ours - theirs| <= epsilon is a tie.
        resamples: bootstrap samples over prompts.
        seed: of the resampling.

    Returns:
        Shares of wins, ties and losses, and of wins among the decided, with their 95 % percentile intervals.
        A prompt where either score is missing is left out and not counted in `n`.

    Raises:
        ValueError: the two differ in length, or epsilon is negative.

    >>> compare([1, 1, 0, 2], [0, 1, 1, 0])[:3]
    (0.5, 0.25, 0.25)
    """
    if len(ours) != len(theirs):
        raise ValueError(f"paired scores differ in length: {len(ours)} and {len(theirs)}")
    if epsilon < 0:
        raise ValueError(f"epsilon={epsilon} must not be negative")
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    difference = finite([a - b for a, b in pairs])
    n = len(difference)
    if n == 0:
        unknown = (0.0, 1.0)
        return Comparison(0.0, 0.0, 0.0, unknown, None, None, 0, unknown, unknown)
    wins, losses = int((difference > epsilon).sum()), int((difference < -epsilon).sum())
    shares = np.array([wins, n - wins - losses, losses]) / n
    # n prompts drawn with replacement from three outcomes are one multinomial draw: the bootstrap without its loop.
    drawn = np.random.default_rng(seed).multinomial(n, shares, size=resamples)  # (resamples, 3)
    decided = drawn[:, 0] + drawn[:, 2]
    some = decided > 0
    return Comparison(
        *(float(share) for share in shares),
        ci95=_interval(drawn[:, 0] / n),
        decided=wins / (wins + losses) if wins + losses else None,
        decided_ci95=_interval(drawn[some, 0] / decided[some]) if wins + losses else None,
        n=n,
        tie_ci95=_interval(drawn[:, 1] / n),
        loss_ci95=_interval(drawn[:, 2] / n),
    )


def _interval(samples: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(samples, [0.025, 0.975])
    return float(low), float(high)
