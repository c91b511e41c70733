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
    from rlhf_recipes import models
    from rlhf_recipes.training.fit import keywords
    from rlhf_recipes.training.language import SFTTrainer

    given = keywords(cfg, run, "demos")
    if given["args"].assistant_only_loss:  # every turn of a dialogue, which has no boundary: TRL marks them itself
        for name in ("train_dataset", "eval_dataset"):
            given[name] = given[name] and given[name].remove_columns(["input_ids", "completion_mask"])
    return SFTTrainer(
        model=models.load_policy(cfg.model, run.inputs["policy"]["path"], given["processing_class"]), **given
    )


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns what training.language.train_on_text does."""
    from rlhf_recipes.training.language import train_on_text

    return train_on_text(trainer(cfg, run), cfg, run, "demos")
