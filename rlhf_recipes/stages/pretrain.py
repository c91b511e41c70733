"""Domain pretraining: next-token loss on plain text, for a model from a path or from scratch. TRL's SFTTrainer."""

from omegaconf import DictConfig
from trl import SFTTrainer

from rlhf_recipes import data, models
from rlhf_recipes.models.tokenizer import train_bpe
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.stages.sft import language_metrics
from rlhf_recipes.training.fit import arguments, callbacks, fit, held_out, peft_config, show


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns train_loss, eval_loss, eval_ppl and `epochs`."""
    args = arguments(cfg, run)
    if "policy" in run.inputs:
        path = run.inputs["policy"]["path"]
        tokenizer = models.load_tokenizer(cfg.model, path)
        model = models.load_policy(cfg.model, path, tokenizer)
        rows = data.load(cfg.data, "corpus", tokenizer=tokenizer, max_length=args.max_length, seed=cfg.seed)
    else:
        rows = data.load(cfg.data, "corpus", seed=cfg.seed)
        tokenizer = train_bpe(rows.train["text"], **cfg.model.tokenizer_init)
        model = models.init_policy(cfg.model, tokenizer, cfg.seed)
    print(rows.describe())
    trainer = SFTTrainer(
        model=model,
        args=args,
        train_dataset=rows.train,
        eval_dataset=held_out(rows, args),
        processing_class=tokenizer,
        peft_config=peft_config(cfg, "CAUSAL_LM"),
        callbacks=callbacks(run),
    )
    if cfg.preview:
        return show(trainer, "corpus", cfg.preview_rows)
    print(f"{cfg.stage}: {models.parameters(trainer.model)}, vocabulary {len(tokenizer)}")
    return language_metrics(trainer, fit(trainer, run))
