"""PPO inside transformers.Trainer, the way TRL's GRPO is. `ppo.core` loads without TRL: the names below load late."""


def __getattr__(name: str):
    if name == "PPOConfig":
        from rlhf_recipes.ppo.config import PPOConfig

        return PPOConfig
    if name == "PPOTrainer":
        from rlhf_recipes.ppo.trainer import PPOTrainer

        return PPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
