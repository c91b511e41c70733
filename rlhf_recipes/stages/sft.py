"""Stage 1 of InstructGPT: supervised fine-tuning on demonstrations, loss on the completion only. TRL's SFTTrainer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage
from rlhf_recipes.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="sft",
    title="Supervised fine-tuning",
    order=20,
    starts_from={"policy": ("pretrain", "base")},  # the run's own pretraining where there is one, else model.path
    rows=("demos",),
    makes="policy",
    learns_from="text",
    figures=(Figure("eval_ppl", "perplexity"),),
)


def check(cfg: DictConfig, run: StageRun) -> None:
    """Refuse an assistant_only_loss that would change nothing, or that TRL has no rows for."""
    if not cfg.trainer.get("assistant_only_loss"):
        return
    if cfg.data.template != "chat":
        raise UserError("trainer.assistant_only_loss=true reads conversations; expected data.template=chat")
    if cfg.trainer.get("completion_only_loss") is not False:
        raise UserError(
            "trainer.assistant_only_loss=true trains every answer of a conversation, and completion_only_loss the last "
            "one alone; expected trainer.completion_only_loss=false beside it"
        )


def trainer(cfg: DictConfig, run: StageRun):
    """SFTTrainer on demonstrations that are token ids already, prompt and answer apart."""
    from rlhf_recipes import data, models
    from rlhf_recipes.training.fit import arguments, callbacks, eval_rows, peft_config
    from rlhf_recipes.training.language import SFTTrainer

    args = arguments(cfg, run)
    path = run.inputs["policy"]["path"]
    tokenizer = models.load_tokenizer(cfg.model, path)
    keep_end = args.truncation_mode == "keep_end"
    rows = data.load(
        cfg.data, "demos", tokenizer=tokenizer, max_length=args.max_length, keep_end=keep_end, seed=cfg.seed
    )
    print(rows.describe())
    if args.assistant_only_loss:  # every turn of a dialogue, which has no boundary that matters: TRL marks them itself
        ready = ["input_ids", "completion_mask"]
        rows.train, rows.eval = (part.remove_columns(ready) for part in (rows.train, rows.eval))
    return SFTTrainer(
        model=models.load_policy(cfg.model, path, tokenizer),
        args=args,
        train_dataset=rows.train,
        eval_dataset=eval_rows(rows, args),
        processing_class=tokenizer,
        peft_config=peft_config(cfg, "CAUSAL_LM"),
        callbacks=callbacks(run),
    )


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns train_loss, eval_loss, eval_ppl and, after each epoch, the same in `epochs`."""
    from rlhf_recipes import models
    from rlhf_recipes.training.fit import fit, show

    tuning = trainer(cfg, run)
    if cfg.preview:
        return show(tuning, "demos", cfg.preview_rows)
    print(f"sft: {models.parameters(tuning.model)}")
    return language_metrics(tuning, fit(tuning, run))


def language_metrics(trainer, train: dict) -> dict:
    """Held-out loss (nats a trained token) and its exponent, at the end and by epoch."""
    from rlhf_recipes.training.fit import last_evaluation

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
