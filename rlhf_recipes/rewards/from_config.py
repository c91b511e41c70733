"""The `reward` node of a config as RewardFunctions: functions by path, and reward models. torch only for the latter."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.combine import Part, RewardFunctions
from rlhf_recipes.runs.artifacts import StageRun


def build_rewards(
    cfg: DictConfig, run: StageRun, *, watch_gold: bool = False, optional: bool = False, tokenizer=None
) -> RewardFunctions | None:
    """What ppo, grpo, collect, evaluate and score compute scores with.

    Args:
        cfg: the config; `reward.functions`, `reward.models`, `data.gold` and `data.template` are read, and of PPO's
            trainer `reward_append_eos` and `on_nonfinite`.
        run: `run.inputs["reward_model"]` is what a reward model with path `auto` means.
        watch_gold: add the domain's gold scorer as a metric, logged as reward/gold.
        optional: for stages that only measure: leave out a reward model that does not exist yet, and return None
            where nothing is left. Training needs a reward with a weight.
        tokenizer: the policy's; a reward model that has the same one reads the policy's tokens.

    Raises:
        UserError: no reward to train on; a name given twice; a reward model that cannot read the rows.
    """
    reward = OmegaConf.to_container(cfg.reward, resolve=True)
    functions = {name: spec for name, spec in (reward.get("functions") or {}).items() if spec is not None}
    if watch_gold and cfg.data.get("gold") and "gold" not in functions:
        functions["gold"] = function_spec(cfg.data.gold) | {"weight": 0.0}
    for name, spec in (reward.get("models") or {}).items():
        if spec is None:
            continue
        if name in functions:
            raise UserError(f"two rewards are called {name}: one under functions, one under models. Rename one.")
        paths = [spec["path"]] if isinstance(spec["path"], str) else spec["path"]
        if not (optional and "auto" in paths and "reward_model" not in run.inputs):
            functions |= _models(cfg, run, name, spec, paths, tokenizer)
    rewards = RewardFunctions(functions, on_nonfinite=_of_ppo(cfg, "on_nonfinite", "stop"))
    if optional:
        return rewards if rewards.parts else None
    if not any(part.weight for part in rewards.parts.values()):
        raise UserError("reward= gives nothing to optimise; expected a model or a function of weight other than 0")
    return rewards


def function_spec(node: str | DictConfig) -> dict[str, Any]:
    """`pkg.module:function`, or that with kwargs, as rewards.load takes it."""
    return {"path": node} if isinstance(node, str) else dict(OmegaConf.to_container(node, resolve=True))


def _of_ppo(cfg: DictConfig, field: str, otherwise: Any) -> Any:
    """A field of PPOConfig; the default where the stage's trainer has no such field."""
    return otherwise if cfg.get("trainer") is None else cfg.trainer.get(field, otherwise)


def _models(
    cfg: DictConfig, run: StageRun, name: str, spec: Mapping[str, Any], paths: list[str], policy_tokenizer
) -> dict[str, Part]:
    """One entry of `reward.models`: a reward model, or an ensemble and its spread."""
    import torch

    from rlhf_recipes import models
    from rlhf_recipes.rewards.model import Ensemble, ModelReward, reads_alike

    own = models.plain(cfg.model)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    members = []
    for path in paths:
        path = run.inputs["reward_model"]["path"] if path == "auto" else path
        tokenizer = models.scorer_tokenizer(own, path)
        member = ModelReward(
            models.load_classifier(own, path, tokenizer).to(device),
            tokenizer,
            shared=policy_tokenizer is not None and reads_alike(tokenizer, policy_tokenizer),
            append_eos=_of_ppo(cfg, "reward_append_eos", True),
            label=spec.get("label"),
            batch_size=spec.get("batch_size", 64),
        )
        member.check(cfg.get("data") is not None and cfg.data.get("template") == "chat", policy_tokenizer)
        members.append(member)
    weight = spec.get("weight", 1.0)
    if isinstance(spec["path"], str):
        return {name: Part(members[0], weight)}
    ensemble = Ensemble(members, spec.get("ensemble", "mean"), spec.get("std_coef", 1.0))
    return {name: Part(ensemble, weight), f"{name}_spread": Part(ensemble.spread, 0.0)}
