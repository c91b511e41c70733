"""Kahneman-Tversky optimisation (arXiv:2402.01306) from the SFT model, on single judged answers. TRL's KTOTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage
from rlhf_recipes.errors import UserError, suggest

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="kto",
    title="KTO",
    order=65,
    starts_from={"policy": ("sft", "base")},
    rows=("unpaired",),
    makes="policy",
    learns_from="preferences",
    figures=(Figure("eval_margin", "margin"),),
)
LOSSES = ("kto", "apo_zero_unpaired")


def check(cfg: DictConfig, run: StageRun) -> None:
    """What TRL refuses once the models are in memory: a loss, and settings that its estimate of the KL forbids."""
    loss, batch = cfg.trainer.get("loss_type") or "kto", cfg.trainer.get("per_device_train_batch_size", 8)
    if loss not in LOSSES:
        raise UserError(f"trainer.loss_type={loss}: TRL has no such loss{suggest(str(loss), LOSSES)}")
    if loss == "kto" and batch < 2:
        raise UserError(
            f"trainer.per_device_train_batch_size={batch}: kto estimates the KL within a batch; expected 2 or more, "
            "better 8, or trainer.loss_type=apo_zero_unpaired"
        )
    if loss == "kto" and cfg.trainer.get("train_sampling_strategy", "sequential") != "sequential":
        raise UserError("trainer.train_sampling_strategy: kto needs sequential; the rows are shuffled once by the seed")


def trainer(cfg: DictConfig, run: StageRun):
    """KTOTrainer on shuffled rows: TRL reads them in order, and pairs a prompt with the answer of the row before."""
    from rlhf_recipes.training.pairwise import KTOTrainer, preference_trainer

    return preference_trainer(KTOTrainer, cfg, run, "unpaired", shuffle=True)


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns train_loss and, on held-out rows, eval_loss, eval_kl, and eval_margin of desirable over undesirable."""
    from rlhf_recipes.training.pairwise import train_on_preferences

    figures = {"eval_loss": "eval_loss", "eval_kl": "eval_kl", "eval_margin": "eval_rewards/margins"}
    return train_on_preferences(trainer(cfg, run), cfg, run, "unpaired", figures, before=_say_balance)


def _say_balance(training) -> None:
    """Print what would make the labels count alike, where they do not: a ratio of 1 to 4/3 (arXiv:2402.01306 eq. 8)."""
    labels, args = training.train_dataset["label"], training.args
    good, bad = sum(labels) * args.desirable_weight, (len(labels) - sum(labels)) * args.undesirable_weight
    if not good or not bad:
        raise UserError("kto learns from desirable and undesirable answers; expected rows and weights of both")
    if not 1 <= good / bad <= 4 / 3:
        even = f"trainer.undesirable_weight={args.undesirable_weight * good / bad:.3g}"
        print(f"kto: desirable answers weigh {good:g} in all, undesirable ones {bad:g}; {even} makes them even")
