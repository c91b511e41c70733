"""GRPO: TRL's trainer, with what it lacks: groups without a signal, held-out accuracy, a reference of our own."""

from rlhf_recipes.grpo.config import GRPOConfig
from rlhf_recipes.grpo.trainer import GRPOTrainer

__all__ = ["GRPOConfig", "GRPOTrainer"]
