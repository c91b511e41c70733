"""Try a reward on answers at hand, before an hour of training is spent on it."""

from pathlib import Path

from omegaconf import DictConfig

from rlhf_recipes.artifacts import StageRun
from rlhf_recipes.rewards import score
from rlhf_recipes.signal import build_signal


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Writes each function's score a row to scores.jsonl beside the file, and prints means, spread and failures."""
    file = Path(cfg.score.file)
    out = Path(cfg.score.out) if cfg.score.out else file.with_name("scores.jsonl")
    summary = score.score_file(build_signal(cfg, run), file, out)
    score.show(summary)
    return summary
