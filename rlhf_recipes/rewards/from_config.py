"""The `reward` node as one signal: functions by path, reward models as scorers, the domain's gold as a metric."""

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from transformers import PreTrainedTokenizerBase

from rlhf_recipes import models
from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.combine import RewardSignal
from rlhf_recipes.rewards.ensemble import Ensemble
from rlhf_recipes.rewards.model import ModelReward
from rlhf_recipes.runs.artifacts import StageRun


def build_signal(
    cfg: DictConfig,
    run: StageRun,
    *,
    watch_gold: bool = False,
    optional: bool = False,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> RewardSignal | None:
    """What ppo, grpo, collect and evaluate score with.

    Args:
        cfg: the config; `reward.functions`, `reward.models`, `data.gold` and `data.template` are read, and of PPO's
            trainer `reward_append_eos` and `on_nonfinite`.
        run: `run.inputs["reward_model"]` is what a reward model with path `auto` means.
        optional: leave out a reward model that is not at hand; None where nothing is left (evaluate).
        watch_gold: add the domain's gold scorer with weight 0: logged as reward/gold, never felt.
        tokenizer: the policy's, for a warning where a reward model's chat template is another.

    Raises:
        UserError: no reward at all; a name given twice; a reward model that cannot read what it will be given.
    """
    functions = dict(OmegaConf.to_container(cfg.reward, resolve=True).get("functions") or {})
    if watch_gold and cfg.data.get("gold") and "gold" not in functions:
        functions["gold"] = function_spec(cfg.data.gold) | {"weight": 0.0}
    scorers = {}
    for name, spec in (cfg.reward.get("models") or {}).items():
        absent = spec is not None and spec.path == "auto" and "reward_model" not in run.inputs
        if spec is not None and not (absent and optional):
            scorer = _scorer(cfg, run, spec, tokenizer)
            scorers[name] = (scorer, spec.get("weight", 1.0))
            if isinstance(scorer, Ensemble):
                scorers[f"{name}_spread"] = (scorer.spread, 0.0)
    if optional and not (functions or scorers):
        return None
    signal = RewardSignal(functions, scorers, on_nonfinite=_of_ppo(cfg, "on_nonfinite", "stop"))
    if not any(part.weight for part in signal.parts.values()):
        raise UserError("reward= gives nothing to optimise; expected a model or a function of weight other than 0")
    return signal


def function_spec(node: str | DictConfig) -> dict:
    """`pkg.module:function`, or that with kwargs, as rewards.load takes it."""
    return {"path": node} if isinstance(node, str) else dict(OmegaConf.to_container(node, resolve=True))


def _of_ppo(cfg: DictConfig, field: str, otherwise):
    """A field of PPOConfig; the default where the stage's trainer has no such field."""
    return otherwise if cfg.get("trainer") is None else cfg.trainer.get(field, otherwise)


def _scorer(cfg: DictConfig, run: StageRun, spec: DictConfig, policys) -> ModelReward | Ensemble:
    if isinstance(spec.path, str):
        return _model(cfg, run, spec, spec.path, policys)
    members = [_model(cfg, run, spec, path, policys) for path in spec.path]
    return Ensemble(members, spec.get("ensemble", "mean"), spec.get("std_coef", 1.0))


def _model(cfg: DictConfig, run: StageRun, spec: DictConfig, path: str, policys) -> ModelReward:
    if path == "auto":
        path = run.inputs["reward_model"]["path"]
    own = models.plain(cfg.model)
    tokenizer = models.scorer_tokenizer(own, path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reward = ModelReward(
        models.load_classifier(own, path, tokenizer).to(device),
        tokenizer,
        append_eos=_of_ppo(cfg, "reward_append_eos", True),
        label=spec.get("label"),
        batch_size=spec.get("batch_size", 64),
    )
    reward.check(cfg.get("data") is not None and cfg.data.get("template") == "chat", policys)
    return reward


def kl_controller(cfg: DictConfig):
    """The `kl` node as its controller: an object with `kl_coef` and `update(kl, episodes)`."""
    fields = OmegaConf.to_container(cfg.kl, resolve=True)
    return get_class(fields.pop("_target_"))(**fields)
