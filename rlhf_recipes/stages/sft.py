"""Stage 1 of InstructGPT: supervised fine-tuning on demonstrations, loss on the completion only. TRL's SFTTrainer."""

from __future__ import annotations

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
    """Returns what training.language.train_on_text does."""
    from rlhf_recipes.training.language import train_on_text

    return train_on_text(trainer(cfg, run), cfg, run, "demos")
