"""What `stage=evaluate` is asked to do, checked before torch is imported: who competes, who judges, which pairs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.errors import UserError, suggest
from rlhf_recipes.rewards.judge import preference
from rlhf_recipes.rewards.judge_client import Endpoint
from rlhf_recipes.runs.checkpoints import is_whole

Judge = Callable[[list, list, list], list[float | None]]  # f(prompts, ours, theirs): above 0 where ours is better
STEPWISE = ("ppo", "grpo", "dpo")  # the stages whose checkpoints lie on a path away from the reference


@dataclass(frozen=True)
class Plan:
    """Everyone who answers, by the name under which they are reported, and how they are compared."""

    paths: dict[str, str]  # models: folder or hub id
    endpoints: dict[str, Endpoint] = field(default_factory=dict)
    checkpoints: dict[str, str] = field(default_factory=dict)  # `ppo@20` -> folder
    judge: Judge | None = None  # an endpoint's
    by: str | None = None  # gold, score or a reward's name; None: gold where there is one, else score
    ref: str | None = None
    pairs: list[tuple[str, str]] | None = None  # (ours, theirs); None: every pair


def read(cfg: DictConfig, inputs: Mapping[str, dict]) -> Plan:
    """The plan behind the `evaluate` node.

    Args:
        cfg: the checked config.
        inputs: `StageRun.inputs`: name -> {path, stage}.

    Raises:
        UserError: nothing to compare, or a name, judge, endpoint, benchmark or checkpoint that is not there.
    """
    settings = OmegaConf.to_container(cfg.evaluate, resolve=True)
    paths = {name: entry["path"] for name, entry in inputs.items() if name != "reward_model"}
    endpoints = {name: _endpoint(name, node, settings) for name, node in settings["endpoints"].items()}
    if both := sorted(paths.keys() & endpoints.keys()):
        raise UserError(f"evaluate.endpoints.{both[0]} has the name of a model of this run; expected another name")
    names = [*paths, *endpoints]
    if not names:
        raise UserError(
            f"run {cfg.run.name} has no model to compare; make one (stage=sft), or give inputs.mine=<folder>"
        )
    ref = settings["ref"] or ("sft" if "sft" in paths else next(iter(paths), None))
    if ref is not None and ref not in paths:
        raise UserError(
            f"evaluate.ref={ref}: expected one of the models compared: {', '.join(paths) or 'there is none'}"
        )
    _harness(settings)
    if settings["majority"] > 1:
        if settings["temperature"] == 0:
            raise UserError(
                "evaluate.majority asks for several answers, and evaluate.temperature=0 gives one and the same"
            )
        if not cfg.data.get("exact"):
            raise UserError("evaluate.majority needs to know right from wrong, and the domain has none; set data.exact")
    judge, by = _judge(settings["judge"], cfg, "reward_model" in inputs)
    return Plan(
        paths=paths,
        endpoints=endpoints,
        checkpoints=_checkpoints(inputs) if settings["checkpoints"] else {},
        judge=judge,
        by=by,
        ref=ref,
        pairs=None if settings["pairs"] is None else [_pair(pair, names) for pair in settings["pairs"]],
    )


def own(cfg: DictConfig, entry: Mapping[str, str]) -> bool:
    """Whether a model is the run's own, a stage's or the base, so that the `model` node is meant for it."""
    return "stage" in entry or entry["path"] == cfg.model.path


def _endpoint(name: str, node, settings: dict) -> Endpoint:
    where = f"evaluate.endpoints.{name}"
    if not isinstance(node, dict):
        raise UserError(
            f"{where}={node}: expected settings, {where}.url=http://localhost:8000/v1 and {where}.model=<name>"
        )
    known = [f.name for f in fields(Endpoint)]
    for key in node:
        if key not in known:
            raise UserError(f"no setting {where}.{key}{suggest(str(key), known, f'{where}.')}")
    _complete(where, node)
    asked = {"temperature": settings["temperature"], "top_p": settings["top_p"]}
    asked |= {"max_tokens": settings["max_new_tokens"]}
    return Endpoint(**node | {"parameters": asked | (node.get("parameters") or {})})


def _complete(where: str, node: dict) -> None:
    for key in ("url", "model"):
        if not node.get(key):
            raise UserError(f"{where} has no {key}; expected {where}.{key}=…")


def _judge(node, cfg: DictConfig, has_reward_model: bool) -> tuple[Judge | None, str | None]:
    """(an endpoint as judge, None) or (None, whose scores decide)."""
    if node in ("auto", None):
        return None, None
    if isinstance(node, dict):
        taken = ("prompts", "completions", "column", "columns")
        known = [name for name in signature(preference).parameters if name not in taken]
        for key in node:
            if key not in known:
                raise UserError(f"no setting evaluate.judge.{key}{suggest(str(key), known, 'evaluate.judge.')}")
        _complete("evaluate.judge", node)
        return _asking(node), None
    scorers = {n: spec for kind in ("models", "functions") for n, spec in (cfg.reward.get(kind) or {}).items() if spec}
    rewards = [n for n, spec in scorers.items() if has_reward_model or not _runs_own(spec)]
    if node == "gold" and not cfg.data.get("gold"):
        raise UserError("evaluate.judge=gold: the domain has no gold scorer; set data.gold, or evaluate.judge=score")
    if (node in scorers and node not in rewards) or (node == "score" and not rewards):
        raise UserError(
            f"evaluate.judge={node}: run {cfg.run.name} has no reward model; make it with stage=reward, or give "
            "inputs.reward_model=<folder or hub id>"
        )
    if node not in ("gold", "score", *rewards):
        known = ", ".join(("auto", "gold", "score", *rewards))
        raise UserError(f"evaluate.judge={node}: expected {known}, or an endpoint: evaluate.judge.url=…")
    return None, node


def _runs_own(spec) -> bool:
    """Whether a scorer is, or has among its members, the run's own reward model."""
    path = spec.get("path")
    return "auto" in ([path] if isinstance(path, str) else list(path or []))


def _asking(settings: dict) -> Judge:
    def judge(prompts: list, ours: list, theirs: list) -> list[float | None]:
        marks = preference(prompts, ours, reference=theirs, **settings)  # 1, 0.5, 0
        return [None if mark is None else mark - 0.5 for mark in marks]

    return judge


def _pair(pair: str, names: list[str]) -> tuple[str, str]:
    ours, _, theirs = pair.partition("_vs_")
    if ours not in names or theirs not in names or ours == theirs:
        raise UserError(f"evaluate.pairs={pair}: expected <model>_vs_<model>, of {', '.join(names)}")
    return ours, theirs


def _checkpoints(inputs: Mapping[str, dict]) -> dict[str, str]:
    """`<name>@<step>` -> folder, for every whole checkpoint of the policies compared, by step."""
    found: dict[str, str] = {}
    for name, entry in inputs.items():
        if entry.get("stage") in STEPWISE:
            folders = [f for f in (Path(entry["path"]).parent / "checkpoints").glob("checkpoint-*") if is_whole(f)]
            steps = sorted((int(f.name.rpartition("-")[2]), f) for f in folders)
            found |= {f"{name}@{step}": str(folder) for step, folder in steps}
    if not found:
        raise UserError(
            "evaluate.checkpoints=true finds none; train with trainer.save_total_limit=null to keep them all"
        )
    return found


def _harness(settings: dict) -> None:
    if not settings["benchmarks"]:
        return
    if find_spec("lm_eval") is None:
        raise UserError("evaluate.benchmarks needs lm-evaluation-harness; install it: pip install 'rlhf-recipes[eval]'")
    folder = settings["harness"]["include_path"]
    if folder and not Path(folder).expanduser().is_dir():
        raise UserError(f"evaluate.harness.include_path={folder}: no such folder; expected one with task YAMLs")
