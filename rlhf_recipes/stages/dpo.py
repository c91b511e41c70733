"""Direct preference optimisation (arXiv:2305.18290) from the SFT model. TRL's DPOTrainer."""

from omegaconf import DictConfig

from rlhf_recipes import data, models
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.training.fit import arguments, callbacks, fit, held_out, last_evaluation, peft_config, show
from rlhf_recipes.training.pairwise import DPOTrainer


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns eval_accuracy and eval_margin of the implicit reward, and eval_loss, on held-out preferences."""
    args = arguments(cfg, run)
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
