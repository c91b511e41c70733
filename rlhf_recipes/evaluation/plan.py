"""The `evaluate` node, checked before torch is imported: who competes, who judges, which pairs are compared."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlhf_recipes.config.stage import Stages, aligned, reference
from rlhf_recipes.errors import UserError, suggest
from rlhf_recipes.evaluation.compare import Judge, Judging
from rlhf_recipes.rewards.judge import preference
from rlhf_recipes.rewards.judge_client import Endpoint
from rlhf_recipes.runs.checkpoints import is_whole


@dataclass(frozen=True)
class Lineup:
    """Everyone who answers, by the name under which they are reported, and how they are compared.

    Args:
        paths: of the models: folders or hub ids.
        checkpoints: `ppo@20` -> folder.
        judging: everything but the scorers, which need the stage's models.
    """

    paths: dict[str, str]
    endpoints: dict[str, Endpoint]
    checkpoints: dict[str, str]
    judging: Judging


def read(cfg: DictConfig, inputs: Mapping[str, dict], stages: Stages) -> Lineup:
    """The line-up behind the `evaluate` node.

    Args:
        cfg: the checked config.
        inputs: `StageRun.inputs`: name -> {path, stage}.
        stages: the catalogue, which says what the reference is and whose checkpoints lead away from it.

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
            f"run {cfg.run.name} has no model to compare; make one (stage={reference(stages)}), or give "
            "inputs.mine=<folder>"
        )
    usual = reference(stages)
    ref = settings["ref"] or (usual if usual in paths else next(iter(paths), None))
    if ref is not None and ref not in paths:
        raise UserError(
            f"evaluate.ref={ref}: expected one of the models compared: {', '.join(paths) or 'there is none'}"
        )
    _check_benchmarks(settings)
    if settings["majority"] > 1 and settings["temperature"] == 0:
        raise UserError("evaluate.majority asks for several answers, and evaluate.temperature=0 gives one and the same")
    if settings["majority"] > 1 and not cfg.data.get("exact"):
        raise UserError("evaluate.majority needs to know right from wrong, and the domain has none; set data.exact")
    judge, pairs = settings["judge"], settings["pairs"]
    judging = Judging(
        judge=_judge(judge) if isinstance(judge, dict) else None,
        by=None if isinstance(judge, dict) else _deciding_scores(judge, cfg, "reward_model" in inputs),
        ref=ref,
        pairs=None if pairs is None else [_pair(pair, names) for pair in pairs],
        tie=settings["tie"],
    )
    checkpoints = _checkpoints(inputs, aligned(stages)) if settings["checkpoints"] else {}
    return Lineup(paths, endpoints, checkpoints, judging)


def own(cfg: DictConfig, entry: Mapping[str, str]) -> bool:
    """Whether a model is the run's own, a stage's or the base, so that the `model` node is meant for it."""
    return "stage" in entry or entry["path"] == cfg.model.path


def _endpoint(name: str, node, settings: dict) -> Endpoint:
    where = f"evaluate.endpoints.{name}"
    if not isinstance(node, dict):
        raise UserError(
            f"{where}={node}: expected settings, {where}.url=http://localhost:8000/v1 and {where}.model=<name>"
        )
    _check_endpoint(where, node, [f.name for f in fields(Endpoint)])
    drawn = {"temperature": settings["temperature"], "top_p": settings["top_p"]}
    drawn |= {"max_tokens": settings["max_new_tokens"]}
    return Endpoint(**node | {"parameters": drawn | (node.get("parameters") or {})})


def _check_endpoint(where: str, node: dict, known: list[str]) -> None:
    for key in node:
        if key not in known:
            raise UserError(f"no setting {where}.{key}{suggest(str(key), known, f'{where}.')}")
    for key in ("url", "model"):
        if not node.get(key):
            raise UserError(f"{where} has no {key}; expected {where}.{key}=…")


def _judge(node: dict) -> Judge:
    """A language model behind an endpoint says which of two answers is better."""
    known = signature(preference).parameters.keys() - {"prompts", "completions", "column", "columns"}
    _check_endpoint("evaluate.judge", node, sorted(known))

    def judge(prompts: list, ours: list, theirs: list) -> list[float | None]:
        marks = preference(prompts, ours, reference=theirs, **node)  # 1, 0.5 or 0
        return [None if mark is None else mark - 0.5 for mark in marks]

    return judge


def _deciding_scores(by: str | None, cfg: DictConfig, has_reward_model: bool) -> str | None:
    """Whose scores decide; None for gold where there is one, and the score elsewhere."""
    if by in ("auto", None):
        return None
    scorers = {n: spec for kind in ("models", "functions") for n, spec in (cfg.reward.get(kind) or {}).items() if spec}
    rewards = [name for name, spec in scorers.items() if has_reward_model or not _is_own_model(spec)]
    if by == "gold" and not cfg.data.get("gold"):
        raise UserError("evaluate.judge=gold: the domain has no gold scorer; set data.gold, or evaluate.judge=score")
    if (by in scorers and by not in rewards) or (by == "score" and not rewards):
        raise UserError(
            f"evaluate.judge={by}: run {cfg.run.name} has no reward model; make it with stage=reward, or give "
            "inputs.reward_model=<folder or hub id>"
        )
    if by not in ("gold", "score", *rewards):
        known = ", ".join(("auto", "gold", "score", *rewards))
        raise UserError(f"evaluate.judge={by}: expected {known}, or an endpoint: evaluate.judge.url=…")
    return by


def _is_own_model(spec) -> bool:
    """Whether a scorer is the run's own reward model, or has it among its members."""
    path = spec.get("path")
    return "auto" in ([path] if isinstance(path, str) else list(path or []))


def _pair(pair: str, names: list[str]) -> tuple[str, str]:
    ours, _, theirs = pair.partition("_vs_")
    if ours not in names or theirs not in names or ours == theirs:
        raise UserError(f"evaluate.pairs={pair}: expected <model>_vs_<model>, of {', '.join(names)}")
    return ours, theirs


def _checkpoints(inputs: Mapping[str, dict], stages: Iterable[str]) -> dict[str, str]:
    """`<name>@<step>` -> folder, for every whole checkpoint of the policies compared, by step."""
    checkpoints: dict[str, str] = {}
    for name, entry in inputs.items():
        if entry.get("stage") in stages:
            folders = [f for f in (Path(entry["path"]).parent / "checkpoints").glob("checkpoint-*") if is_whole(f)]
            steps = sorted((int(f.name.rpartition("-")[2]), f) for f in folders)
            checkpoints |= {f"{name}@{step}": str(folder) for step, folder in steps}
    if not checkpoints:
        raise UserError(
            "evaluate.checkpoints=true finds none; train with trainer.save_total_limit=null to keep them all"
        )
    return checkpoints


def _check_benchmarks(settings: dict) -> None:
    if settings["benchmarks"] and find_spec("lm_eval") is None:
        raise UserError("evaluate.benchmarks needs lm-evaluation-harness; install it: pip install 'rlhf-recipes[eval]'")
    folder = settings["harness"]["include_path"]
    if settings["benchmarks"] and folder and not Path(folder).expanduser().is_dir():
        raise UserError(f"evaluate.harness.include_path={folder}: no such folder; expected one with task YAMLs")
