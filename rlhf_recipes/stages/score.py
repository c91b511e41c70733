"""Try a reward on answers at hand, before an hour of training is spent on it. Without a model no torch is imported."""

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.rewards import RewardSignal, score
from rlhf_recipes.runs.artifacts import StageRun


def run(cfg: DictConfig, run: StageRun) -> dict:
    """Writes each function's score a row to scores.jsonl beside the file, and prints means, spread and failures."""
    if not cfg.preview and loads_a_model(cfg):
        from rlhf_recipes.preflight import check  # torch

        check.brief(cfg, run)
    file = Path(cfg.score.file)
    out = Path(cfg.score.out) if cfg.score.out else file.with_name("scores.jsonl")
    summary = score.score_file(_signal(cfg, run), file, out)
    score.show(summary)
    score.check(summary)
    return summary


def loads_a_model(cfg: DictConfig) -> bool:
    """Whether a reward model is read, or a classifier behind a function: what takes memory worth an estimate."""
    functions = [spec for spec in (cfg.reward.get("functions") or {}).values() if spec]
    return _models(cfg) or any(str(spec.get("path")).endswith("classifier:label_score") for spec in functions)


def _models(cfg: DictConfig) -> bool:
    return any(spec is not None for spec in (cfg.reward.get("models") or {}).values())


def _signal(cfg: DictConfig, run: StageRun) -> RewardSignal:
    if _models(cfg):
        from rlhf_recipes.rewards.from_config import build_signal  # torch

        return build_signal(cfg, run)
    return RewardSignal(OmegaConf.to_container(cfg.reward, resolve=True).get("functions"))
