"""One file a stage. `catalogue` tells which there are; `run` takes a composed config to a finished stage.

A stage's file has its STAGE, `run(cfg, run)` that does the work and returns the metrics, for one that trains
`trainer(cfg, run)` that `run` uses, and where something can be said before torch is imported, `check(cfg, run)`.
The catalogue needs nothing but the standard library: make asks for it before there is a virtual environment.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from rlhf_recipes.config.stage import Stage


@cache
def catalogue() -> dict[str, Stage]:
    """Every stage by its name, in the order of a pipeline; those that are started by hand come last, by name."""
    names = [module.name for module in iter_modules(__path__) if not module.name.startswith("_")]
    stages = [import_module(f"{__name__}.{name}").STAGE for name in names]
    return {stage.name: stage for stage in sorted(stages, key=lambda s: (s.order is None, s.order, s.name))}


def __getattr__(name: str):
    """`run`, `checked` and `defaults`, which need Hydra."""
    if name in ("run", "checked", "defaults", "objective"):
        return getattr(import_module(f"{__name__}._start"), name)
    raise AttributeError(f"module {__name__} has no attribute {name}")
