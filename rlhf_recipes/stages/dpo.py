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
    """DPOTrainer on preferences.

    The reference is a copy. With an adapter it is the policy with its adapter switched off; precomputed, it is the
    policy before training, and takes no memory afterwards.
    """
    from rlhf_recipes import data, models
    from rlhf_recipes.training.fit import arguments, callbacks, eval_rows, peft_config
    from rlhf_recipes.training.pairwise import DPOTrainer

    args = arguments(cfg, run)
    path = run.inputs["policy"]["path"]
    tokenizer = models.load_tokenizer(cfg.model, path)
    rows = data.load(cfg.data, "preferences", tokenizer=tokenizer, max_length=args.max_length, seed=cfg.seed)
    print(rows.describe())
    adapter = peft_config(cfg, "CAUSAL_LM")
    copied = not adapter and not args.precompute_ref_log_probs
    return DPOTrainer(
        model=models.load_policy(cfg.model, path, tokenizer),
        ref_model=models.load_policy(cfg.model, path, tokenizer, frozen=True) if copied else None,
        args=args,
        train_dataset=rows.train,
        eval_dataset=eval_rows(rows, args),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=callbacks(run),
    )


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns eval_accuracy and eval_margin of the implicit reward, and eval_loss, on held-out preferences."""
    from rlhf_recipes import models
    from rlhf_recipes.training.fit import fit, last_evaluation, show

    training = trainer(cfg, run)
    if cfg.preview:
        return show(training, "preferences", cfg.preview_rows)
    print(f"dpo: {models.parameters(training.model)}")
    train = fit(training, run)
    last = last_evaluation(training)
    return {
        "train_loss": train["train_loss"],
        "eval_loss": last.get("eval_loss"),
        "eval_accuracy": last.get("eval_rewards/accuracies"),
        "eval_margin": last.get("eval_rewards/margins"),
    }
