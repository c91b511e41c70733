"""Stage 1 of InstructGPT: supervised fine-tuning on demonstrations, loss on the completion only. TRL's SFTTrainer."""

import math

from omegaconf import DictConfig
from trl import SFTTrainer

from rlhf_recipes import data, models
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.training.fit import arguments, callbacks, fit, held_out, last_evaluation, peft_config, show


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns train_loss, eval_loss, eval_ppl and, after each epoch, the same in `epochs`."""
    args = arguments(cfg, run)
    path = run.inputs["policy"]["path"]
    tokenizer = models.load_tokenizer(cfg.model, path)
    rows = data.load(cfg.data, "demos", tokenizer=tokenizer, max_length=args.max_length, seed=cfg.seed)
    print(rows.describe())
    trainer = SFTTrainer(
        model=models.load_policy(cfg.model, path, tokenizer),
        args=args,
        train_dataset=rows.train,
        eval_dataset=held_out(rows, args),
        processing_class=tokenizer,
        peft_config=peft_config(cfg, "CAUSAL_LM"),
        callbacks=callbacks(run),
    )
    if cfg.preview:
        return show(trainer, "demos", cfg.preview_rows)
    print(f"sft: {models.parameters(trainer.model)}")
    return language_metrics(trainer, fit(trainer, run))


def language_metrics(trainer: SFTTrainer, train: dict) -> dict:
    """Held-out loss (nats a trained token) and its exponent, at the end and by epoch."""
    last = last_evaluation(trainer)
    loss = last.get("eval_loss")
    return {
        "train_loss": train["train_loss"],
        "eval_loss": loss,
        "eval_ppl": None if loss is None else math.exp(loss),
        "epochs": epochs(trainer.state.log_history),
    }


def epochs(history: list[dict]) -> list[dict]:
    """Trainer's log as one row an evaluation: mean training loss since the last one, and the held-out loss."""
    rows, losses = [], []
    for entry in history:
        if "loss" in entry:
            losses.append(entry["loss"])
        elif "eval_loss" in entry and losses:
            rows.append(
                {
                    "epoch": round(entry["epoch"], 3),
                    "train_loss": sum(losses) / len(losses),
                    "eval_loss": entry["eval_loss"],
                    "eval_ppl": math.exp(entry["eval_loss"]),
                }
            )
            losses = []
    return rows
