"""Reward functions and reward models, and how several become one score.

A reward function is TRL's GRPO callable, `f(prompts, completions, **columns) -> list[float | None]`; None means
"does not apply to this row". Importing this package loads neither torch nor TRL nor Hydra.

Read in this order: messages (text or conversation), answers and gsm8k (the usual example), load, combine, score.
"""

from rlhf_recipes.rewards.combine import Part, RewardFunctions
from rlhf_recipes.rewards.load import load_function

__all__ = ["Part", "RewardFunctions", "load_function"]
