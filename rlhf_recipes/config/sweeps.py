"""What `-m` adds: a run directory a job, the objective a job returns, and no folder left of a sweep that never began.

No torch here.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.artifacts import STAGES, parents_of, read_json

POLICIES = ("ppo", "grpo", "dpo")
# What belongs to one stage alone and is not handed on to the stage that an objective adds.
OWN = ("stage", "recipes", "trainer", "peft", "inputs", "needs", "objective")
HIGHER = ("win_rate", "win", "decided", "gold", "score", "score_last", "accuracy", "eval_accuracy", "eval_margin")


def sweeping() -> bool:
    """Whether this process runs one job of `-m`."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def tolerant() -> bool:
    """Whether the sweeper goes on after a failed job (Optuna's max_failure_rate), and so has to hear of it."""
    return sweeping() and (HydraConfig.get().sweeper.get("max_failure_rate") or 0) > 0


def own_directory(cfg: DictConfig) -> None:
    """Job k of a sweep over run x is the run `x.sweep/k`; x's finished stages serve it as their start."""
    begun = (Path(cfg.run.root) / cfg.run.name).is_dir()
    with open_dict(cfg):
        cfg.run.parent = [*([cfg.run.name] if begun else []), *parents_of(cfg)]
        cfg.run.name = f"{cfg.run.name}.sweep/{HydraConfig.get().job.num}"


def check(cfg: DictConfig) -> None:
    """What can be said of `objective` before the hours are spent.

    Raises:
        UserError: no stage of that name, one that lies before this one, or a sweeper that gets no number to judge by.
    """
    if HydraConfig.initialized() and HydraConfig.get().runtime.choices.get("stage") != cfg.stage:
        return  # a stage that an objective added
    for path in _paths(cfg):
        stage, _, metric = path.partition(".")
        if stage not in STAGES or not metric:
            raise UserError(
                f"objective={path}: expected <stage>.<metric>, e.g. evaluate.win_rate; stages: {', '.join(STAGES)}"
            )
        if cfg.stage in STAGES and STAGES.index(stage) < STAGES.index(cfg.stage):
            raise UserError(f"objective={path}: {stage} comes before stage={cfg.stage}, which cannot change it")
    sweeper = HydraConfig.get().sweeper if sweeping() else {}
    if "n_trials" not in sweeper or HydraConfig.get().job.num:
        return
    if not cfg.objective:
        raise UserError("this sweeper judges by a number, and objective is not set; give objective=evaluate.win_rate")
    directions = [str(d).rpartition(".")[2] for d in _listed(sweeper.direction)]
    for path, direction in zip(_paths(cfg), directions, strict=False):
        if path.rpartition(".")[2] in HIGHER and direction == "minimize":
            print(
                f"objective={path} is better when higher, and the sweeper looks for the lowest; "
                "hydra.sweeper.direction=maximize turns it round",
                file=sys.stderr,
            )


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
    from rlhf_recipes import stages

    found = []
    for path in _paths(cfg):
        stage, _, metric = path.partition(".")
        if stage != cfg.stage:
            stages.run(*_following(cfg, stage))
        found.append(metric_at(_metrics(cfg, stage), metric, path, cfg.stage))
    print(f"objective: {', '.join(f'{p} = {v:.6g}' for p, v in zip(_paths(cfg), found, strict=True))}")
    return found[0] if len(found) == 1 else tuple(found)


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
    wanted = [f"{ours}_vs_{theirs}" for ours in (stage, *POLICIES, "sft") for theirs in ("sft", "base")]
    return next((pair for pair in wanted if pair in pairs), pairs[0])


def _following(cfg: DictConfig, stage: str) -> tuple[DictConfig, list[str]]:
    """The config of a later stage of the same job: the recipe's file for it, or its defaults, and what was set for all.

    With it the words that compose it, for the command that makes the stage again.

    Of the policies a sweep's parent run may hold, only the job's own is evaluated beside base and sft.
    """
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra

    hydra = HydraConfig.get()
    carried = [word for word in hydra.overrides.task if word.lstrip("+~").split("=")[0].split(".")[0] not in OWN]
    recipe = str(hydra.runtime.choices.get("recipes") or "").rpartition("/")[0]
    if recipe and stage in GlobalHydra.instance().config_loader().get_group_options(f"recipes/{recipe}"):
        head = [f"recipes={recipe}/{stage}"]
    else:
        given = {word.partition("=")[0] for word in carried}
        head = [f"stage={stage}"]
        head += [f"{group}={hydra.runtime.choices[group]}" for group in ("model", "data") if group not in given]
    words, inputs = [*head, *carried], compose("config", [*head, *carried]).inputs
    for name in POLICIES:
        if stage == "evaluate" and name != cfg.stage and list(inputs.get(name) or []) == [name, "none"]:
            words.append(f"++inputs.{name}=[none]")
    return compose("config", words), words


def _metrics(cfg: DictConfig, stage: str) -> dict:
    placed = OmegaConf.merge(cfg)
    if sweeping():
        own_directory(placed)
    summary = read_json(Path(placed.run.root) / placed.run.name / stage / "summary.json")
    return (summary or {}).get("metrics") or {}


def _paths(cfg: DictConfig) -> list[str]:
    return [str(path) for path in _listed(cfg.get("objective"))]


def _listed(value) -> list:
    return list(value) if isinstance(value, list | ListConfig) else [value] if value else []


class Sweep(Callback):
    """Hydra's callback: keeps in mind which folders a sweep will make, and says at its end which job was best."""

    made: list[Path] = []  # noqa: RUF012 (of the process: Hydra builds the callback, __main__ clears up)

    def on_multirun_start(self, config: DictConfig, **kwargs) -> None:
        folder = Path(config.hydra.sweep.dir)
        Sweep.made += [place for place in (folder, *folder.parents) if not place.exists()]

    def on_multirun_end(self, config: DictConfig, **kwargs) -> None:
        results = Path(config.hydra.sweep.dir) / "optimization_results.yaml"
        if not results.is_file():
            return
        best = OmegaConf.load(results)
        for row in best.get("solutions") or [{"params": best.best_params, "values": [best.best_value]}]:
            given = ", ".join(f"{key.lstrip('+')}={value}" for key, value in row["params"].items())
            print(f"best: {given} ({', '.join(f'{value:.6g}' for value in row['values'])})")


def clear_up() -> None:
    """Take back the folders of a sweep that failed before any of its jobs wrote something."""
    for folder in Sweep.made:
        if folder.is_dir() and {file.name for file in folder.iterdir()} <= {"multirun.yaml"}:
            (folder / "multirun.yaml").unlink(missing_ok=True)
            folder.rmdir()
