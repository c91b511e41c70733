"""Try a reward on answers at hand, before an hour of training is spent on it. Without a model no torch is imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_recipes.config.stage import Stage

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlhf_recipes.runs.artifacts import StageRun

STAGE = Stage(
    name="score",
    title="Trying a reward",
    starts_from={"reward_model": ("reward", "none")},
    scores=True,
    single_process=True,
)


def check(cfg: DictConfig, run: StageRun) -> None:
    """That there is a file to score."""
    from rlhf_recipes.errors import UserError

    if not Path(cfg.score.file).is_file():
        raise UserError(f"score.file={cfg.score.file}: no such file; expected JSONL rows with prompt and completion")


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Writes each function's score a row to scores.jsonl beside the file, and prints means, spread and failures."""
    from rlhf_recipes.rewards import score
    from rlhf_recipes.rewards.from_config import build_rewards

    file = Path(cfg.score.file)
    out = Path(cfg.score.out) if cfg.score.out else file.with_name("scores.jsonl")
    summary = score.score_file(build_rewards(cfg, run, optional=True), file, out, _token_ids(cfg))
    score.show(summary)
    score.check(summary)
    return summary


def _token_ids(cfg: DictConfig):
    """The tokenizer of `model`, where it has one and a function reads tokens; else None, and torch is not imported."""
    import inspect

    from rlhf_recipes.rewards import load_function
    from rlhf_recipes.rewards.from_config import function_spec

    specs = [function_spec(spec) for spec in (cfg.reward.get("functions") or {}).values() if spec]
    if not cfg.model.path or not any(
        (spec.get("kwargs") or {}).get("unit") == "tokens"
        or "completion_ids" in inspect.signature(load_function(spec)).parameters
        for spec in specs
    ):
        return None
    from rlhf_recipes import models

    tokenizer = models.load_tokenizer(cfg.model, cfg.model.path)
    return lambda text: tokenizer.encode(text, add_special_tokens=False)
