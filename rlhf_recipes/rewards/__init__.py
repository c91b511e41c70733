"""Reward functions, and how several become one signal.

A reward function is TRL's GRPO callable, `f(prompts, completions, **columns) -> list[float | None]`; None means
"does not apply to this row". Nothing here imports TRL or Hydra, and torch only inside the one function that needs it.

Read in this order: messages (text or conversation), answers and gsm8k (the usual example), load, combine, score.
"""

from rlhf_recipes.rewards.combine import RewardSignal, as_grpo_functions
from rlhf_recipes.rewards.load import load_function

__all__ = ["RewardSignal", "as_grpo_functions", "load_function"]
