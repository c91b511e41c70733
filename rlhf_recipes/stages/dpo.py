"""Direct preference optimisation (arXiv:2305.18290) from the SFT model. TRL's DPOTrainer."""

from omegaconf import DictConfig
from trl import DPOTrainer

from rlhf_recipes import data, models
from rlhf_recipes.artifacts import StageRun
from rlhf_recipes.errors import UserError
from rlhf_recipes.settings import suggest
from rlhf_recipes.training import arguments, callbacks, fit, held_out, last_evaluation, peft_config, show

# TRL 1.12 knows a loss's name only once it computes the loss.
LOSSES = (
    *("sigmoid", "hinge", "ipo", "exo_pair", "nca_pair", "robust", "bco_pair", "sppo_hard", "aot", "aot_unpaired"),
    *("apo_zero", "apo_down", "discopop", "sft", "sigmoid_norm"),
)
SMOOTHED = ("robust", "exo_pair", "aot", "aot_unpaired")  # the others never read label_smoothing


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns eval_accuracy and eval_margin of the implicit reward, and eval_loss, on held-out preferences."""
    args = arguments(cfg, run)
    check_losses(args.loss_type, args.label_smoothing)
    path = run.inputs["policy"]["path"]
    tokenizer = models.load_tokenizer(cfg.model, path)
    rows = data.load(cfg.data, "preferences", tokenizer=tokenizer, max_length=args.max_length, seed=cfg.seed)
    print(rows.describe())
    adapter = peft_config(cfg, "CAUSAL_LM")
    # The reference is a copy. With an adapter it is the policy with its adapter switched off; precomputed, it is the
    # policy before training, and needs no place in memory afterwards.
    copied = not adapter and not args.precompute_ref_log_probs
    trainer = DPOTrainer(
        model=models.load_policy(cfg.model, path, tokenizer),
        ref_model=models.load_policy(cfg.model, path, tokenizer, frozen=True) if copied else None,
        args=args,
        train_dataset=rows.train,
        eval_dataset=held_out(rows, args),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=callbacks(run),
    )
    if cfg.preview:
        return show(trainer, "preferences", cfg.preview_rows)
    print(f"dpo: {models.parameters(trainer.model)}")
    train = fit(trainer, run)
    last = last_evaluation(trainer)
    return {
        "train_loss": train["train_loss"],
        "eval_loss": last.get("eval_loss"),
        "eval_accuracy": last.get("eval_rewards/accuracies"),
        "eval_margin": last.get("eval_rewards/margins"),
    }


def check_losses(losses: list[str], label_smoothing: float) -> None:
    """Names of losses, and a label smoothing that something reads, before a model is loaded.

    Raises:
        UserError: with the name that was meant, or the losses that smooth.
    """
    for loss in losses:
        if loss not in LOSSES:
            raise UserError(f"trainer.loss_type={loss}: TRL has no such loss{suggest(loss, LOSSES)}")
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
