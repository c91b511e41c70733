"""Trainers of groups of answers: TRL's GRPO and RLOO, with held-out accuracy, updates and a reference of our own."""

from rlhf_recipes.grpo.config import GRPOConfig
from rlhf_recipes.grpo.trainer import GRPOTrainer

__all__ = ["GRPOConfig", "GRPOTrainer"]
