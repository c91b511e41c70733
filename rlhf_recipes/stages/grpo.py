"""Group-relative policy optimisation (arXiv:2402.03300) from the SFT model. Our GRPOTrainer on TRL's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage
from rlhf_recipes.errors import UserError, suggest
from rlhf_recipes.grpo import check_vllm

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="grpo",
    title="GRPO",
    order=70,
    starts_from={"policy": ("sft", "base"), "reward_model": ("reward", "none")},
    rows=("prompts",),
    makes="policy",
    learns_from="reward",
    scores=True,
    figures=(Figure("score_last", "score"),),  # its KL is a token's mean and does not compare with PPO's
)

LOSSES = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")  # of TRL 1.12


def check(cfg: DictConfig, run: StageRun) -> None:
    """Raise UserError for a loss that TRL has not, which it would only notice at the first loss, and without vLLM."""
    check_vllm(cfg)
    loss = cfg.trainer.get("loss_type")
    if loss is not None and loss not in LOSSES:
        raise UserError(f"trainer.loss_type={loss}: TRL has no such loss{suggest(str(loss), LOSSES)}")


def trainer(cfg: DictConfig, run: StageRun):
    """GRPOTrainer on prompts."""
    from rlhf_recipes.grpo import GRPOTrainer
    from rlhf_recipes.grpo.stage import group_trainer

    return group_trainer(GRPOTrainer, cfg, run)


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns what grpo.stage.train_on_groups does."""
    from rlhf_recipes.grpo.stage import train_on_groups

    return train_on_groups(trainer(cfg, run), cfg, run)
