"""REINFORCE leave-one-out (arXiv:2402.14740) from the SFT model. TRL's RLOOTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage
from rlhf_recipes.grpo import check_vllm

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="rloo",
    title="RLOO",
    order=75,
    starts_from={"policy": ("sft", "base"), "reward_model": ("reward", "none")},
    rows=("prompts",),
    makes="policy",
    learns_from="reward",
    scores=True,
    figures=(Figure("score_last", "score"),),  # its KL is a token's mean and does not compare with PPO's
)


def check(cfg: DictConfig, run: StageRun) -> None:
    """Raise UserError where trainer.use_vllm wants vLLM and it is not installed."""
    check_vllm(cfg)


def trainer(cfg: DictConfig, run: StageRun):
    """RLOOTrainer on prompts."""
    import trl

    from rlhf_recipes.grpo.group_trainer import GroupTrainer
    from rlhf_recipes.grpo.stage import group_trainer

    class RLOOTrainer(GroupTrainer, trl.RLOOTrainer):
        """TRL's, with what GroupTrainer adds."""

    return group_trainer(RLOOTrainer, cfg, run)


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns what grpo.stage.train_on_groups does."""
    from rlhf_recipes.grpo.stage import train_on_groups

    return train_on_groups(trainer(cfg, run), cfg, run)
