"""Stage 2 of InstructGPT: a reward model on preferences, -log sigmoid(r_chosen - r_rejected). TRL's RewardTrainer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Figure, Stage

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="reward",
    title="Reward model",
    order=40,
    starts_from={"policy": ("sft", "base")},  # its body; the head for scores is new
    rows=("preferences",),
    makes="reward_model",
    learns_from="preferences",
    figures=(Figure("eval_accuracy", "accuracy", "%"),),
)


def trainer(cfg: DictConfig, run: StageRun):
    """RewardTrainer on preferences. `held_out_pairs` on it are the rows of its evaluation as they were read."""
    from rlhf_recipes import models
    from rlhf_recipes.training.fit import keywords
    from rlhf_recipes.training.pairwise import RewardTrainer

    given, path = keywords(cfg, run, "preferences", "SEQ_CLS"), run.inputs["policy"]["path"]
    made = RewardTrainer(
        model=models.load_reward_model(cfg.model, path, given["processing_class"], seed=cfg.seed), **given
    )
    made.held_out_pairs = given["eval_dataset"]  # the trainer joins prompt and answers
    return made


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Returns eval_accuracy, eval_loss, eval_margin on held-out preferences, and their label ceiling where known."""
    from rlhf_recipes.models.sharding import whole
    from rlhf_recipes.runs.jsonl import rewrite_jsonl
    from rlhf_recipes.training.fit import fit, last_evaluation, previewed

    training = trainer(cfg, run)
    if previewed(training, cfg, "preferences"):
        return {}
    train = fit(training, run)
    last = last_evaluation(training)
    rows = training.held_out_pairs
    if rows is not None:
        model = training.accelerator.unwrap_model(training.model)
        with whole(model, training.accelerator):  # which takes every process
            samples = scored(model, rows)
        if training.is_world_process_zero():
            rewrite_jsonl(run.samples, samples)
    metrics = {f"eval_{k}": last.get(f"eval_{k}") for k in ("accuracy", "loss", "margin")}
    return {"train_loss": train["train_loss"]} | metrics | ceiling(rows)


def scored(model, rows, most: int = 1000) -> list[dict]:
    """The first held-out pairs with the scores of both sides: what the report draws calibration and histograms from.

    Args:
        model: the reward model.
        rows: tokenised preferences.
        most: pairs at most.
    """
    from rlhf_recipes.rewards.model import ModelReward

    reward = ModelReward(model)  # without a tokenizer: it reads the ids that it was trained on
    kept = rows.select(range(min(most, len(rows))))
    chosen, rejected = (
        reward(kept["prompt"], kept[side], prompt_ids=kept["prompt_ids"], completion_ids=kept[f"{side}_ids"])
        for side in ("chosen", "rejected")
    )
    return [
        {"step": 0, "index": i, "prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["rejected"]}
        | {"score_chosen": a, "score_rejected": b}
        for i, (row, a, b) in enumerate(zip(kept, chosen, rejected, strict=True))
    ]


def ceiling(rows) -> dict:
    """Share of held-out labels that agree with the gold scorer, where the domain has one: no model can beat it."""
    if rows is None or "gold_chosen" not in rows.column_names:
        return {}
    agree = [c > r for c, r in zip(rows["gold_chosen"], rows["gold_rejected"], strict=True)]
    return {"label_ceiling": sum(agree) / len(agree)}
