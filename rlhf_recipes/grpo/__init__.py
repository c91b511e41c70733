"""Trainers of groups of answers: TRL's GRPO and RLOO, with held-out accuracy, updates and a reference of our own.

The trainers' names load late: the stages' files import this room before anything heavy is loaded.
"""

from importlib.util import find_spec

from rlhf_recipes.errors import UserError


def check_vllm(cfg) -> None:
    """Raise UserError where trainer.use_vllm wants vLLM and it is not installed."""
    if cfg.trainer.get("use_vllm") and find_spec("vllm") is None:
        raise UserError("trainer.use_vllm=true: vLLM is not installed; pip install 'trl[vllm]', or use_vllm=false")


def __getattr__(name: str):
    if name == "GRPOConfig":
        from rlhf_recipes.grpo.config import GRPOConfig

        return GRPOConfig
    if name == "GRPOTrainer":
        from rlhf_recipes.grpo.trainer import GRPOTrainer

        return GRPOTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
