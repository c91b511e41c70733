"""Stage 2 of InstructGPT: a reward model on preferences, -log sigmoid(r_chosen - r_rejected). TRL's RewardTrainer."""

from omegaconf import DictConfig

from rlhf_recipes import data, models
from rlhf_recipes.models.sharding import whole
from rlhf_recipes.rewards.model import ModelReward
from rlhf_recipes.runs.artifacts import StageRun
from rlhf_recipes.runs.jsonl import rewrite_jsonl
from rlhf_recipes.training.fit import arguments, callbacks, fit, held_out, last_evaluation, peft_config, show
from rlhf_recipes.training.pairwise import RewardTrainer


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns eval_accuracy, eval_loss, eval_margin on held-out preferences, and their label ceiling where known."""
    args = arguments(cfg, run)
    path = run.inputs["policy"]["path"]
    tokenizer = models.load_tokenizer(cfg.model, path)
    rows = data.load(cfg.data, "preferences", tokenizer=tokenizer, max_length=args.max_length, seed=cfg.seed)
    print(rows.describe())
    trainer = RewardTrainer(
        model=models.load_reward_model(cfg.model, path, tokenizer, seed=cfg.seed),
        args=args,
        train_dataset=rows.train,
        eval_dataset=held_out(rows, args),
        processing_class=tokenizer,
        peft_config=peft_config(cfg, "SEQ_CLS"),
        callbacks=callbacks(run),
    )
    if cfg.preview:
        return show(trainer, "preferences", cfg.preview_rows)
    print(f"reward: {models.parameters(trainer.model)}")
    train = fit(trainer, run)
    last = last_evaluation(trainer)
    if len(rows.eval):
        model = trainer.accelerator.unwrap_model(trainer.model)
        with whole(model, trainer.accelerator):  # which takes every process
            pairs = scored(model, tokenizer, rows.eval)
        if trainer.is_world_process_zero():
            rewrite_jsonl(run.samples, pairs)
    metrics = {f"eval_{k}": last.get(f"eval_{k}") for k in ("accuracy", "loss", "margin")}
    return {"train_loss": train["train_loss"]} | metrics | ceiling(rows.eval)


def scored(model, tokenizer, rows, most: int = 1000) -> list[dict]:
    """The first held-out pairs with the scores of both sides: what the report draws calibration and histograms from."""
    reward = ModelReward(model, tokenizer)
    kept = rows.select(range(min(most, len(rows))))
    chosen = reward(kept["prompt"], kept["chosen"])
    rejected = reward(kept["prompt"], kept["rejected"])
    return [
        {"step": 0, "index": i, "prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}
        | {"score_chosen": a, "score_rejected": b}
        for i, (row, a, b) in enumerate(zip(kept, chosen, rejected, strict=True))
    ]


def ceiling(rows) -> dict:
    """Share of held-out labels that agree with the gold scorer, where the domain has one: no model can beat it."""
    if "gold_chosen" not in rows.column_names or not len(rows):
        return {}
    agree = [c > r for c, r in zip(rows["gold_chosen"], rows["gold_rejected"], strict=True)]
    return {"label_ceiling": sum(agree) / len(agree)}
