"""The losses TRL 1.12 has by name for DPO and GRPO: it knows a name only once it computes the loss, hours of set-up on.

Imports neither torch nor TRL, so that a misspelt name is told in a second.
"""

from omegaconf import DictConfig

from rlhf_recipes.errors import UserError, suggest

DPO = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")  # the others never read label_smoothing
GRPO = ("grpo", "bnpo", "dr_grpo", "dapo", "luspo", "cispo", "sapo", "vespo")


def check(cfg: DictConfig) -> None:
    """The `trainer` node of stage=dpo or stage=grpo, where its `_target_` is TRL's config or ours.

    Raises:
        UserError: with the name that was meant, or the losses that smooth.
    """
    given = cfg.trainer.get("loss_type")
    if cfg.stage == "grpo" and given is not None:
        _known([given], GRPO)
    if cfg.stage == "dpo":
        losses = ["sigmoid"] if given is None else [given] if isinstance(given, str) else list(given)
        _dpo(losses, float(cfg.trainer.get("label_smoothing") or 0))


def _known(losses: list[str], names: tuple[str, ...]) -> None:
    for loss in losses:
        if loss not in names:
            raise UserError(f"trainer.loss_type={loss}: TRL has no such loss{suggest(str(loss), names)}")


def _dpo(losses: list[str], label_smoothing: float) -> None:
    _known(losses, DPO)
    if label_smoothing and not set(losses) & set(SMOOTHED):
        raise UserError(
            f"trainer.label_smoothing={label_smoothing}: loss_type={','.join(losses)} does not read it; expected one "
            f"of {', '.join(SMOOTHED)}, e.g. trainer.loss_type=robust"
        )
    if "exo_pair" in losses and not label_smoothing > 0:
        raise UserError("trainer.loss_type=exo_pair divides by label_smoothing; its paper sets it to 1e-3")
    if "robust" in losses and not 0 <= label_smoothing < 0.5:
        raise UserError(
            f"trainer.label_smoothing={label_smoothing}: robust expects a share of flipped labels below 0.5"
        )
