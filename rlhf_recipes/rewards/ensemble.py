"""Several reward models as one reward function, cautious where they disagree (arXiv:2310.02743).

A policy that is driven against one reward model finds answers that this one alone overrates. Models of other seeds or
data overrate other answers, so a low quantile of them is harder to game than any single one.
"""

import math
import statistics
from collections.abc import Sequence

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.load import RewardFunction

REDUCTIONS = ("mean", "min", "mean_minus_std")


class Ensemble:
    """Members' scores brought to one number an answer.

        mean             1/M sum_m r_m
        min              min_m r_m                         worst-case optimisation
        mean_minus_std   mean_m r_m - k std_m r_m          uncertainty-weighted, in score units

    A reward model is free to add a constant to all its scores: train the members with
    `trainer.center_rewards_coefficient` (or use the same start and data), so that `min` compares like with like.

    Args:
        members: reward functions, each giving one number an answer; two at least.
        reduce: one of `REDUCTIONS`.
        std_coef: k, 0 or more; read by mean_minus_std only.

    Raises:
        UserError: fewer than two members, an unknown reduction, or k below 0.

    >>> strict, mild = lambda prompts, completions: [0.0, 1.0], lambda prompts, completions: [2.0, 1.0]
    >>> Ensemble([strict, mild], "min")(["?", "?"], ["a", "b"])
    [0.0, 1.0]
    >>> Ensemble([strict, mild], "mean_minus_std", std_coef=0.5)(["?", "?"], ["a", "b"])
    [0.5, 1.0]
    """

    def __init__(self, members: Sequence[RewardFunction], reduce: str = "mean", std_coef: float = 1.0):
        if len(members) < 2:
            raise UserError(f"an ensemble of {len(members)} reward models; expected two or more, path=[a,b,…]")
        if reduce not in REDUCTIONS:
            raise UserError(f"ensemble={reduce}: expected one of {', '.join(REDUCTIONS)}")
        if std_coef < 0:
            raise UserError(f"std_coef={std_coef}: below 0 it would reward disagreement; expected 0 or more")
        self.members, self.reduce, self.std_coef = list(members), reduce, std_coef
        self.last: tuple[object, list[float]] | None = None

    def __call__(self, prompts: list, completions: list, **columns) -> list[float]:
        """One score an answer (N,); keeps the members' spread over these answers for `spread`."""
        scores = [member(prompts=prompts, completions=completions, **columns) for member in self.members]
        rows = list(zip(*scores, strict=True))  # N rows of M
        # the population's deviation: these M models are all there are
        self.last = (completions, [statistics.pstdev(row) if _finite(row) else math.nan for row in rows])
        return [self._one(row) for row in rows]

    def spread(self, prompts: list, completions: list, **columns) -> list[float]:
        """Standard deviation between members (N,), score units: it climbs as the policy leaves their data."""
        if self.last is None or self.last[0] is not completions:
            self(prompts, completions, **columns)
        return self.last[1]

    def _one(self, row: tuple[float, ...]) -> float:
        if not _finite(row):  # min would pass over a NaN, or not, by its place
            return math.nan
        if self.reduce == "min":
            return min(row)
        mean = statistics.fmean(row)
        return mean if self.reduce == "mean" else mean - self.std_coef * statistics.pstdev(row)


def _finite(row: tuple[float, ...]) -> bool:
    return all(map(math.isfinite, row))
