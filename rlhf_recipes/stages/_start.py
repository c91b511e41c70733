"""From a composed config to a finished stage: every check that needs no model first, then the stage's own file."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType

from hydra import compose
from omegaconf import DictConfig, OmegaConf

from rlhf_recipes import data
from rlhf_recipes.config import adapters, settings, sweeps
from rlhf_recipes.config.stage import inputs, maker
from rlhf_recipes.errors import HubError, UserError, suggest
from rlhf_recipes.rewards import RewardFunctions
from rlhf_recipes.runs import belongs
from rlhf_recipes.runs.artifacts import StageRun, from_parents
from rlhf_recipes.runs.hub import reach_hub
from rlhf_recipes.stages import catalogue
from rlhf_recipes.stages._objective import objective

__all__ = ["checked", "defaults", "objective", "run"]


def run(cfg: DictConfig, words: Sequence[str] | None = None) -> dict:
    """Check, claim the run directory, run the stage, write summary.json. Returns the stage's metrics.

    Args:
        cfg: as Hydra composed it.
        words: the overrides it was composed of, None where they are the shell's.

    Raises:
        UserError: whatever the user can mend; nothing is written then.
    """
    cfg = checked(cfg)
    sweeps.check(cfg, catalogue())
    if cfg.trainer:
        adapters.check(cfg)
    if sweeps.sweeping():
        sweeps.own_directory(cfg)
    stage_run, stage = StageRun(cfg, catalogue(), words), catalogue()[cfg.stage]
    belongs.take_on(stage_run)
    from_parents(cfg)
    try:
        for kind in stage.rows:
            data.check(cfg.data, kind, stage=stage.name)
    except HubError:  # what is wrong on this machine is said first
        stage_run.resolve()
        belongs.check_data(stage_run)
        raise
    stage_run.resolve()
    belongs.check_data(stage_run)
    for name, model in stage_run.inputs.items():
        reach_hub(model["path"], "model.path" if model["path"] == cfg.model.path else f"inputs.{name}")
    if stage.scores:
        _check_reward(cfg, stage_run)
    if stage.single_process and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"stage={stage.name} runs in one process; start it without accelerate launch")
    module = module_of(stage.name)
    if hasattr(module, "check"):
        module.check(cfg, stage_run)
    first = int(os.environ.get("RANK", "0")) == 0
    if first and stage.rows and (cfg.preflight or cfg.preview):
        print(belongs.start(stage_run))
    if cfg.preflight:
        return _preflight().run(cfg, stage_run, module.run)
    if stage.order is None or cfg.preview:
        return module.run(cfg, stage_run)
    claimed = _claim(stage_run)
    if claimed == "done":
        print(f"{stage_run.summary}: done already; run.overwrite=true makes it again", file=sys.stderr)
        return {}
    try:
        if first:
            print(belongs.start(stage_run))
            stage_run.estimate_mb = _preflight().brief(cfg, stage_run)
        metrics = module.run(cfg, stage_run)
    except UserError:
        if claimed == "fresh" and first:
            stage_run.abandon()
        raise
    if first:
        stage_run.finish(metrics)
    return metrics


def checked(cfg: DictConfig) -> DictConfig:
    """The config with our defaults and the stage's inputs filled in, and every key known.

    Raises:
        UserError: what `settings.check` raises, no stage, or an input that the stage does not read.
    """
    if not cfg.get("stage"):
        raise UserError(f"no stage chosen; give stage=<one of {', '.join(catalogue())}>")
    cfg = settings.check(cfg)
    stage = catalogue()[cfg.stage]
    known = inputs(stage, catalogue())
    for name in cfg.inputs:
        if not known:
            raise UserError(f"inputs.{name}: stage={stage.name} starts from no model of a run")
        if name not in known and not stage.compares:
            raise UserError(f"stage={stage.name} reads no inputs.{name}{suggest(str(name), known, 'inputs.')}")
    cfg.inputs = known | dict(cfg.inputs)
    return cfg


def defaults(stage: str) -> dict:
    """What a run's config.yaml of this stage would say had neither a recipe nor the shell chosen anything."""
    return OmegaConf.to_container(checked(compose("config", [f"stage={stage}"])), resolve=True)


def module_of(stage: str) -> ModuleType:
    """The stage's own file."""
    return import_module(f"rlhf_recipes.stages.{stage}")


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
    claimed = stage_run.open() if state.is_main_process else None
    state.wait_for_everyone()
    return claimed or ("done" if stage_run.summary.is_file() else "fresh")


def _check_reward(cfg: DictConfig, stage_run: StageRun) -> None:
    """A reward that cannot be loaded, or is not there, is reported before torch is imported."""
    reward = OmegaConf.to_container(cfg.reward, resolve=True)
    RewardFunctions(reward.get("functions"))
    for name, spec in (reward.get("models") or {}).items():
        own = spec and "auto" in ([spec["path"]] if isinstance(spec["path"], str) else spec["path"])
        if own and "reward_model" not in stage_run.inputs and not stage_run.stage.compares:
            raise UserError(
                f"reward.models.{name} is the run's own reward model, and run {cfg.run.name} has none; make it with "
                f"stage={maker('reward_model', catalogue())} run.name={cfg.run.name}, "
                "or give inputs.reward_model=<folder or hub id>"
            )


def _preflight() -> ModuleType:
    return import_module("rlhf_recipes.preflight.check")  # imports torch, TRL too
