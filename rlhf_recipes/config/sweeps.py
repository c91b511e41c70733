"""What `-m` adds: a run directory a job, a checked objective, and no folder left of a sweep that never began."""

import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from rlhf_recipes.config.stage import Stages, pipeline
from rlhf_recipes.errors import UserError

HIGHER = ("win_rate", "win", "decided", "gold", "score", "score_last", "accuracy", "eval_accuracy", "eval_margin")


def sweeping() -> bool:
    """Whether this process runs one job of `-m`."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def tolerant() -> bool:
    """Whether the sweeper goes on after a failed job (Optuna's max_failure_rate), so that it must get the exception."""
    return sweeping() and (HydraConfig.get().sweeper.get("max_failure_rate") or 0) > 0


def parents_of(cfg: DictConfig) -> list[str]:
    """The runs named by run.parent, nearest first."""
    return _listed(cfg.run.parent)


def own_directory(cfg: DictConfig) -> None:
    """Job k of a sweep over run x is the run `x.sweep/k`; x's finished stages serve it as their start."""
    exists = (Path(cfg.run.root) / cfg.run.name).is_dir()
    with open_dict(cfg):
        cfg.run.parent = [*([cfg.run.name] if exists else []), *parents_of(cfg)]
        cfg.run.name = f"{cfg.run.name}.sweep/{HydraConfig.get().job.num}"


def check(cfg: DictConfig, stages: Stages) -> None:
    """Check `objective` before the hours are spent.

    Raises:
        UserError: no stage of that name, one that lies before this one, or a sweeper that gets no number to judge by.
    """
    if HydraConfig.initialized() and HydraConfig.get().runtime.choices.get("stage") != cfg.stage:
        return  # a stage that an objective added
    order = pipeline(stages)
    for path in paths(cfg):
        stage, _, metric = path.partition(".")
        if stage not in order or not metric:
            raise UserError(
                f"objective={path}: expected <stage>.<metric>, e.g. evaluate.win_rate; stages: {', '.join(order)}"
            )
        if cfg.stage in order and order.index(stage) < order.index(cfg.stage):
            raise UserError(f"objective={path}: {stage} comes before stage={cfg.stage}, which cannot change it")
    sweeper = HydraConfig.get().sweeper if sweeping() else {}
    if "n_trials" not in sweeper or HydraConfig.get().job.num:
        return
    if not cfg.objective:
        raise UserError("this sweeper judges by a number, and objective is not set; give objective=evaluate.win_rate")
    directions = [str(d).rpartition(".")[2] for d in _listed(sweeper.direction)]
    for path, direction in zip(paths(cfg), directions, strict=False):
        if path.rpartition(".")[2] in HIGHER and direction == "minimize":
            print(
                f"objective={path} is better when higher, and the sweeper looks for the lowest; "
                "hydra.sweeper.direction=maximize turns it round",
                file=sys.stderr,
            )


def paths(cfg: DictConfig) -> list[str]:
    """The metrics that `objective` names, `<stage>.<metric>` each."""
    return [str(path) for path in _listed(cfg.get("objective"))]


def _listed(value) -> list:
    return list(value) if isinstance(value, list | ListConfig) else [value] if value else []


class Sweep(Callback):
    """Hydra's callback: remembers which folders a sweep will make, and prints at its end which job was best."""

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
    """Remove the folders of a sweep that failed before any of its jobs wrote something."""
    for folder in Sweep.made:
        if folder.is_dir() and {file.name for file in folder.iterdir()} <= {"multirun.yaml"}:
            (folder / "multirun.yaml").unlink(missing_ok=True)
            folder.rmdir()
