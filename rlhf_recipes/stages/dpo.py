"""Direct preference optimisation (arXiv:2305.18290) from the SFT model. TRL's DPOTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage
from rlhf_recipes.errors import UserError, suggest

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="dpo",
    title="DPO",
    order=60,
    starts_from={"policy": ("sft", "base")},
    rows=("preferences",),
    makes="policy",
    learns_from="preferences",
    figures=(Figure("eval_accuracy", "accuracy", "%"),),
)

SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")  # the losses of TRL 1.12 that read label_smoothing
LOSSES = (
    *("sigmoid", "hinge", "ipo", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down", "discopop", "sft"),
    *("sigmoid_norm", *SMOOTHED),
)


def check(cfg: DictConfig, run: StageRun) -> None:
    """Raise UserError for a loss that TRL has not, or a label_smoothing that the losses do not read or allow.

    TRL would only notice once it computes the loss.
    """
    given = cfg.trainer.get("loss_type")
    losses = ["sigmoid"] if given is None else [given] if isinstance(given, str) else list(given)
    smoothing = float(cfg.trainer.get("label_smoothing") or 0)
    for loss in losses:
        if loss not in LOSSES:
            raise UserError(f"trainer.loss_type={loss}: TRL has no such loss{suggest(str(loss), LOSSES)}")
    if smoothing and not set(losses) & set(SMOOTHED):
        raise UserError(
            f"trainer.label_smoothing={smoothing}: loss_type={','.join(losses)} does not read it; expected one of "
            f"{', '.join(SMOOTHED)}, e.g. trainer.loss_type=robust"
        )
    if "exo_pair" in losses and not smoothing > 0:
        raise UserError("trainer.loss_type=exo_pair divides by label_smoothing; its paper sets it to 1e-3")
    if "robust" in losses and not 0 <= smoothing < 0.5:
        raise UserError(f"trainer.label_smoothing={smoothing}: robust expects a share of flipped labels below 0.5")


def trainer(cfg: DictConfig, run: StageRun):
    """DPOTrainer on preferences."""
    from rlhf_recipes.training.pairwise import DPOTrainer, preference_trainer

    return preference_trainer(DPOTrainer, cfg, run, "preferences")


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns train_loss and, on held-out preferences, eval_loss, eval_accuracy and eval_margin (implicit rewards)."""
    from rlhf_recipes.training.pairwise import train_on_preferences

    figures = {
        "eval_loss": "eval_loss",
        "eval_accuracy": "eval_rewards/accuracies",
        "eval_margin": "eval_rewards/margins",
    }
    return train_on_preferences(trainer(cfg, run), cfg, run, "preferences", figures)
