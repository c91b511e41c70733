"""From a composed config to a finished stage: every check that needs no model first, then the stage's own file."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes import data
from rlhf_recipes.config import settings, sweeps
from rlhf_recipes.config.paths import CONF, options
from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation import plan
from rlhf_recipes.rewards import RewardFunctions
from rlhf_recipes.runs.artifacts import SCORING, StageRun, from_parents
from rlhf_recipes.runs.hub import reach_hub
from rlhf_recipes.training import losses

LEAVE_NO_STAGE = ("score", "report", "chat", "export")  # nothing that a later stage starts from


def run(cfg: DictConfig, words: Sequence[str] | None = None) -> dict:
    """Check, claim the run directory, run the stage, write summary.json. Returns the stage's metrics.

    Args:
        cfg: as Hydra composed it.
        words: the overrides it was composed of, None where they are the shell's.

    Raises:
        UserError: whatever the user can mend; nothing is written then.
    """
    if not cfg.get("stage"):
        raise UserError(f"no stage chosen; give stage=<one of {', '.join(options(CONF / 'stage'))}>")
    cfg = settings.check(cfg)
    sweeps.check(cfg)
    if sweeps.sweeping():
        sweeps.own_directory(cfg)
    from_parents(cfg)
    for kind in cfg.needs:
        data.check(cfg.data, kind, stage=cfg.stage)
    stage_run = StageRun(cfg, words)
    stage_run.resolve()
    for name, found in stage_run.inputs.items():
        reach_hub(found["path"], "model.path" if found["path"] == cfg.model.path else f"inputs.{name}")
    if cfg.stage in SCORING:
        _check_reward(cfg, stage_run)
    _check_stage(cfg, stage_run)
    if cfg.preflight:
        return _preflight().run(cfg, stage_run)
    if cfg.stage in LEAVE_NO_STAGE or cfg.preview:
        return _stage(cfg.stage).run(cfg, stage_run)
    claimed = _claim(stage_run)
    if claimed == "done":
        print(f"{stage_run.summary}: done already; run.overwrite=true makes it again", file=sys.stderr)
        return {}
    first = int(os.environ.get("RANK", "0")) == 0
    stage = _stage(cfg.stage)  # its libraries are in memory from here on
    try:
        if first:
            stage_run.estimate_mb = _preflight().brief(cfg, stage_run)
        metrics = stage.run(cfg, stage_run)
    except UserError:
        if claimed == "fresh" and first:
            stage_run.abandon()
        raise
    if first:
        stage_run.finish(metrics)
    return metrics


def _check_stage(cfg: DictConfig, stage_run: StageRun) -> None:
    """What a stage of one process needs before anything is loaded or written."""
    if cfg.stage in ("collect", "evaluate", *LEAVE_NO_STAGE) and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"stage={cfg.stage} runs in one process; start it without accelerate launch")
    if cfg.stage == "score" and not Path(cfg.score.file).is_file():
        raise UserError(f"score.file={cfg.score.file}: no such file; expected JSONL rows with prompt and completion")
    if cfg.stage in ("dpo", "grpo"):
        losses.check(cfg)
    if cfg.stage == "evaluate":
        plan.read(cfg, stage_run.inputs)


def _claim(stage_run: StageRun) -> str:
    """StageRun.open, by the first process alone; the others learn whether there is anything to do."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return stage_run.open()
    import torch
    from accelerate import PartialState

    cpu = not torch.accelerator.is_available()
    if cpu:
        os.environ["ACCELERATE_USE_CPU"] = "true"  # without it each process takes itself for the only one
    state = PartialState(cpu=cpu)
    found = stage_run.open() if state.is_main_process else None
    state.wait_for_everyone()
    return found or ("done" if stage_run.summary.is_file() else "fresh")


def _check_reward(cfg: DictConfig, stage_run: StageRun) -> None:
    """A reward that cannot be loaded, or is not there, is told before torch is imported."""
    reward = OmegaConf.to_container(cfg.reward, resolve=True)
    RewardFunctions(reward.get("functions"))
    for name, spec in (reward.get("models") or {}).items():
        own = spec and "auto" in ([spec["path"]] if isinstance(spec["path"], str) else spec["path"])
        if own and "reward_model" not in stage_run.inputs and cfg.stage != "evaluate":
            raise UserError(
                f"reward.models.{name} is the run's own reward model, and run {cfg.run.name} has none; make it with "
                f"stage=reward run.name={cfg.run.name}, or give inputs.reward_model=<folder or hub id>"
            )


def _preflight():
    return import_module("rlhf_recipes.preflight.check")  # imports torch, TRL too


def _stage(name: str):
    return import_module(f"rlhf_recipes.stages.{name}")
