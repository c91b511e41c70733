"""Domain pretraining: next-token loss on plain text, for a model from a path or from scratch. TRL's SFTTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="pretrain",
    title="Pretraining",
    order=10,
    starts_from={"policy": ("base",)},
    rows=("corpus",),
    makes="policy",
    learns_from="text",
    figures=(Figure("eval_ppl", "perplexity"),),
)


def trainer(cfg: DictConfig, run: StageRun):
    """SFTTrainer on plain text. A model that is made from nothing gets a tokenizer trained on the same text."""
    from rlhf_recipes import data, models
    from rlhf_recipes.models.tokenizer import train_bpe
    from rlhf_recipes.training.fit import arguments, callbacks, eval_rows, peft_config
    from rlhf_recipes.training.language import SFTTrainer

    args = arguments(cfg, run)
    adapter = peft_config(cfg, "CAUSAL_LM")
    if "policy" in run.inputs:
        path = run.inputs["policy"]["path"]
        tokenizer = models.load_tokenizer(cfg.model, path)
        model = models.load_policy(cfg.model, path, tokenizer)
        rows = data.load(cfg.data, "corpus", tokenizer=tokenizer, max_length=args.max_length, seed=cfg.seed)
    else:
        rows = data.load(cfg.data, "corpus", seed=cfg.seed)
        tokenizer = train_bpe(rows.train["text"], **cfg.model.tokenizer_init)
        model = models.init_policy(cfg.model, tokenizer, cfg.seed)
        if adapter is not None:
            print(f"pretrain: model={cfg.model.name} starts from nothing, so all its weights are trained; no adapter")
            adapter = None
    print(rows.describe())
    return SFTTrainer(
        model=model,
        args=args,
        train_dataset=rows.train,
        eval_dataset=eval_rows(rows, args),
        processing_class=tokenizer,
        peft_config=adapter,
        callbacks=callbacks(run),
    )


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns what training.language.train_on_text does."""
    from rlhf_recipes.training.language import train_on_text

    training = trainer(cfg, run)
    return train_on_text(training, cfg, run, "corpus", f", vocabulary {len(training.processing_class)}")
