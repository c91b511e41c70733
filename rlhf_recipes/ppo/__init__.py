"""PPO inside transformers.Trainer, the way TRL's GRPO is."""

from rlhf_recipes.ppo.config import PPOConfig
from rlhf_recipes.ppo.trainer import PPOTrainer

__all__ = ["PPOConfig", "PPOTrainer"]
