"""Scores on one scale: by what the run has seen so far, or by what the starting policy scored."""

import math


class ScoreScale:
    """Mean and standard deviation of scores, and scores measured in them.

        kind "none": s        "running": (s - mean) / std over every score so far
        "reference": the same over the first rollout only, which the starting policy wrote: it scores mean 0, variance 1

    Example:
        >>> scale = ScoreScale("reference")
        >>> scale([1.0, 3.0]), scale([5.0])
        ([-1.0, 1.0], [3.0])

    Source: Stiennon et al. 2020, arXiv:2009.01325 appendix C (reward models shifted to mean 0 on the reference).
    """

    def __init__(self, kind: str):
        self.kind = kind
        self.count, self.mean, self.squares = 0, 0.0, 0.0  # squares: sum of squared deviations from the mean

    def __call__(self, scores: list[float]) -> list[float]:
        """Take the scores of a rollout (NaN: no score) into the statistics, then return them on the scale."""
        if self.kind == "none":
            return scores
        if self.kind == "running" or self.count == 0:
            for score in filter(math.isfinite, scores):  # Welford
                self.count += 1
                before = score - self.mean
                self.mean += before / self.count
                self.squares += before * (score - self.mean)
        std = math.sqrt(self.squares / self.count) if self.count else 0.0
        return [(score - self.mean) / (std or 1.0) for score in scores]

    def state_dict(self) -> dict:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict) -> None:
        self.count, self.mean, self.squares = state["count"], state["mean"], state["squares"]
