"""Controllers of the KL coefficient beta. Plain Python: no torch, no trainer."""

import math
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from rlhf_recipes.errors import UserError


class FixedKL:
    """A coefficient that never moves.

    Args:
        kl_coef: beta, reward units per nat, at least 0.

    Example:
        >>> control = FixedKL(kl_coef=0.05)
        >>> control.update(kl=30.0, episodes=64)
        0.05
    """

    def __init__(self, kl_coef: float = 0.05):
        if not kl_coef >= 0:
            raise UserError(f"FixedKL: kl_coef is {kl_coef}; expected a number of at least 0. Set kl.kl_coef=0.05.")
        self.kl_coef = float(kl_coef)

    def update(self, kl: float, episodes: int) -> float:
        """Ignore what was measured and return beta."""
        return self.kl_coef

    def state_dict(self) -> dict:
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: dict) -> None:
        """A fixed beta is the configuration's: a checkpoint does not override it."""


class AdaptiveKL:
    """Proportional control of beta in log space: beta grows while the KL is above its target and shrinks below it.

        e = clip(KL / target - 1, -0.2, 0.2)        beta <- beta (1 + e n / horizon)

    Args:
        kl_coef: beta to start from, reward units per nat, above 0.
        target: KL wished for, nats a response (summed over its tokens), above 0.
        horizon: episodes over which beta may change by about 20 %. Unit: EPISODES, not updates.
        floor: beta never falls below this.
        ceiling: beta never rises above this.

    Source: Ziegler et al. 2019, arXiv:1909.08593 section 2.2. We depart in one thing: a floor and a ceiling.

    Example: twice the target is an error of 1, clipped to 0.2; 64 episodes then scale beta by 1 + 0.2 * 64 / 10000.
        >>> control = AdaptiveKL(kl_coef=0.1, target=6.0, horizon=10_000)
        >>> round(control.update(kl=12.0, episodes=64), 6)
        0.100128
    """

    def __init__(
        self,
        kl_coef: float = 0.05,
        target: float = 6.0,
        horizon: float = 10_000,
        floor: float = 0.0,
        ceiling: float = math.inf,
    ):
        if not (kl_coef > 0 and target > 0 and horizon > 0):
            raise UserError(
                f"AdaptiveKL: kl_coef={kl_coef}, target={target}, horizon={horizon}; expected all three above 0 "
                "(a beta of 0 cannot grow by multiplication). Use kl=fixed kl.kl_coef=0 for no penalty."
            )
        if not 0 <= floor <= kl_coef <= ceiling:
            raise UserError(
                f"AdaptiveKL: floor={floor}, kl_coef={kl_coef}, ceiling={ceiling}; expected 0 <= floor <= kl_coef <= "
                "ceiling. Change one of the three."
            )
        self.kl_coef = float(kl_coef)
        self.target = target
        self.horizon = horizon
        self.floor = floor
        self.ceiling = ceiling

    def update(self, kl: float, episodes: int) -> float:
        """Move beta after `episodes` episodes whose mean KL was `kl`.

        Args:
            kl: nats a response, averaged over the episodes. May be negative: an estimate of a small KL often is.
            episodes: how many episodes since the last call.

        Returns:
            The new beta.
        """
        if not math.isfinite(kl):
            return self.kl_coef  # a broken measurement must not break the controller too
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        # n above the horizon would make the factor negative at e = -0.2, n = 5 horizons
        factor = max(1.0 + error * episodes / self.horizon, 0.0)
        self.kl_coef = min(max(self.kl_coef * factor, self.floor), self.ceiling)
        return self.kl_coef

    def state_dict(self) -> dict:
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: dict) -> None:
        self.kl_coef = min(max(float(state["kl_coef"]), self.floor), self.ceiling)


def kl_controller(cfg: Mapping[str, Any]):
    """The controller that a config's `kl` node describes: `_target_` names its class, the other keys its arguments.

    Returns:
        An object with `kl_coef`, `update(kl, episodes)`, `state_dict()` and `load_state_dict(state)`.
    """
    fields = dict(cfg["kl"])
    module, _, name = fields.pop("_target_").rpartition(".")
    return getattr(import_module(module), name)(**fields)
