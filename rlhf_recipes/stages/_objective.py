"""What a job of a sweep is judged by: a metric of its own stage, or of a later stage that is run after it."""

from collections.abc import Mapping
from pathlib import Path

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rlhf_recipes import stages
from rlhf_recipes.config import sweeps
from rlhf_recipes.config.stage import aligned, reference
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.jsonl import read_json
from rlhf_recipes.stages import catalogue

# What belongs to one stage alone and is not handed on to the stage that an objective adds.
OWN = ("stage", "recipes", "trainer", "peft", "inputs", "objective")


def objective(cfg: DictConfig) -> float | tuple[float, ...] | None:
    """The metric, or metrics, that a finished job is judged by; None where none is named.

    A stage named in `objective` that is not the job's own is run after it, in the same run directory: with
    stage=ppo, objective=evaluate.win_rate evaluates the policy just trained.

    Args:
        cfg: the job's config, as Hydra composed it.

    Raises:
        UserError: no such metric; names those there are.
    """
    if not cfg.get("objective") or cfg.get("preview") or cfg.get("preflight"):
        return None
    values = []
    for path in sweeps.paths(cfg):
        stage, _, metric = path.partition(".")
        if stage != cfg.stage:
            stages.run(*_following(cfg, stage))
        values.append(metric_at(_metrics(cfg, stage), metric, path, cfg.stage))
    print(f"objective: {', '.join(f'{p} = {v:.6g}' for p, v in zip(sweeps.paths(cfg), values, strict=True))}")
    return values[0] if len(values) == 1 else tuple(values)


def metric_at(metrics: Mapping, within: str, path: str, stage: str) -> float:
    """The number at a dotted path below a summary's metrics.

    `win_rate` alone means the pair that tells most, the stage's own policy against sft (or base), and a pair alone
    its `decided`: the share of comparisons won, ties left out; 0.5 where every answer is a tie.

    >>> metric_at({"win_rate": {"ppo_vs_sft": {"win": 0.6, "decided": 0.75}}}, "win_rate", "evaluate.win_rate", "ppo")
    0.75
    """
    node, rest = metrics, within
    while rest:
        key = next((k for k in sorted(node, key=len, reverse=True) if rest == k or rest.startswith(f"{k}.")), None)
        if key is None or not (rest == key or isinstance(node[key], Mapping)):
            raise UserError(f"objective={path}: there is no {rest}; there is {', '.join(map(str, node))}")
        node, rest = node[key], rest[len(key) + 1 :]
    if within == "win_rate" and node:
        node = node[_telling(list(node), stage)]
    if isinstance(node, Mapping) and "decided" in node:
        node = 0.5 if node["decided"] is None else node["decided"]
    if isinstance(node, Mapping):
        raise UserError(f"objective={path} names several numbers; go on with one of {', '.join(node)}")
    if not isinstance(node, int | float):
        raise UserError(f"objective={path} is {node!r}; expected a number to judge by")
    return float(node)


def _telling(pairs: list[str], stage: str) -> str:
    start = reference(catalogue())
    wanted = [f"{ours}_vs_{theirs}" for ours in (stage, *aligned(catalogue()), start) for theirs in (start, "base")]
    return next((pair for pair in wanted if pair in pairs), pairs[0])


def _following(cfg: DictConfig, stage: str) -> tuple[DictConfig, list[str]]:
    """The config of a later stage of the same job: the recipe's file for it, or its defaults, and what was set for all.

    With it the words that compose it, for the command that makes the stage again.

    Of the policies a sweep's parent run may hold, only the job's own is evaluated beside base and sft.
    """
    hydra = HydraConfig.get()
    carried = [word for word in hydra.overrides.task if word.lstrip("+~").split("=")[0].split(".")[0] not in OWN]
    recipe = str(hydra.runtime.choices.get("recipes") or "").rpartition("/")[0]
    if recipe and stage in GlobalHydra.instance().config_loader().get_group_options(f"recipes/{recipe}"):
        head = [f"recipes={recipe}/{stage}"]
    else:
        given = {word.partition("=")[0] for word in carried}
        head = [f"stage={stage}"]
        if recipe:  # it may have chosen them; where nobody did, the run's own hold
            head += [f"{group}={hydra.runtime.choices[group]}" for group in ("model", "data") if group not in given]
    words, inputs = [*head, *carried], compose("config", [*head, *carried]).inputs
    for name in aligned(catalogue()) if catalogue()[stage].compares else ():
        if name != cfg.stage and name not in inputs:
            words.append(f"++inputs.{name}=[none]")
    return compose("config", words), words


def _metrics(cfg: DictConfig, stage: str) -> dict:
    placed = OmegaConf.merge(cfg)
    if sweeps.sweeping():
        sweeps.own_directory(placed)
    summary = read_json(Path(placed.run.root) / placed.run.name / stage / "summary.json")
    return (summary or {}).get("metrics") or {}
