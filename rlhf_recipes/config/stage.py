"""How a stage describes itself to every other room. Its settings are in conf/stage/<name>.yaml.

Each file of rlhf_recipes/stages holds one `STAGE = Stage(…)`. Nothing here or there imports a package outside the
standard library before the stage runs: make and the shell can ask in milliseconds, without a virtual environment.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Figure(NamedTuple):
    """A metric of summary.json that says in one number how a stage went."""

    metric: str
    label: str
    digits: int | str = 2  # after the point; `%`: a share, as a percentage; 0: a count, written before its label


@dataclass(frozen=True)
class Stage:
    """One stage.

    Args:
        name: what `stage=` takes, and the name of its files and of its folder in a run.
        title: its heading in a report and in a model card.
        order: its place among the stages of a pipeline, ascending. None: it is started by hand, and leaves nothing in
            the run that a later stage starts from.
        starts_from: {input: places}. Of an input's places the first that exists wins: a stage, `base` (model.path), or
            `none` (it may be absent).
        compares: every policy of the run that `starts_from` does not mention is an optional input under its own name,
            and a person may add inputs under any name.
        rows: the kinds of rows that it reads from the `data` node.
        makes: what its folder holds for later stages: "policy", "reward_model", a kind of rows, or None.
        learns_from: what its trainer learns from: "text", "preferences" or "reward"; None where nothing is trained.
        scores: whether it reads the `reward` node.
        single_process: whether it refuses to be started by `accelerate launch` in several processes.
        figures: the metrics of its summary.json that a report shows beside its title.
    """

    name: str
    title: str
    order: int | None = None
    starts_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    compares: bool = False
    rows: tuple[str, ...] = ()
    makes: str | None = None
    learns_from: str | None = None
    scores: bool = False
    single_process: bool = False
    figures: tuple[Figure, ...] = ()


Stages = Mapping[str, Stage]  # by name, in the order of a pipeline; those that are started by hand come last


def pipeline(stages: Stages) -> list[str]:
    """The stages of a pipeline, in the order they are made."""
    return [name for name, stage in stages.items() if stage.order is not None]


def inputs(stage: Stage, stages: Stages) -> dict[str, list[str]]:
    """What a stage starts from: its own inputs; one that compares models has every policy that these do not mention."""
    own = {name: list(places) for name, places in stage.starts_from.items()}
    mentioned = {place for places in own.values() for place in places}
    others = [name for name, other in stages.items() if other.makes == "policy" and name not in mentioned]
    return own | ({name: [name, "none"] for name in others} if stage.compares else {})


def prerequisites(stage: Stage, stages: Stages) -> list[str]:
    """The earlier stages that a stage may start from, or whose rows it may read, in the order of the pipeline."""
    places = {place for places in inputs(stage, stages).values() for place in places}
    earlier = [stages[name] for name in pipeline(stages) if stage.order and stages[name].order < stage.order]
    return [other.name for other in earlier if other.name in places or other.makes in stage.rows]


def policies(stages: Stages) -> list[str]:
    """The stages that make a policy, the furthest from the base model first: the first that a run has is its result."""

    def distance(name: str) -> int:
        """How many stages lie between a stage and the base model, along the longest way."""
        return max((1 + distance(before) for before in prerequisites(stages[name], stages)), default=0)

    made = [name for name in pipeline(stages) if stages[name].makes == "policy"]
    return sorted(made, key=lambda name: -distance(name))


def aligned(stages: Stages) -> list[str]:
    """The policies that learned from preferences or from a reward, in the order of `policies`."""
    return [name for name in policies(stages) if stages[name].learns_from in ("preferences", "reward")]


def reference(stages: Stages) -> str:
    """The policy that aligned ones start from and are compared with: the last that learned from text."""
    return next(name for name in policies(stages) if stages[name].learns_from == "text")


def maker(what: str, stages: Stages) -> str:
    """The first stage that makes a policy, a reward model or a kind of rows."""
    return next(name for name in pipeline(stages) if stages[name].makes == what)
