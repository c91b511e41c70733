"""Disk that a stage writes: checkpoints that can be resumed, and the model."""

import math
from dataclasses import dataclass
from pathlib import Path

from rlhf_recipes.preflight.memory import FLOAT, SIZES
from rlhf_recipes.preflight.setting import Setting


@dataclass(frozen=True)
class Disk:
    """Bytes. checkpoint: of one; count: that lie there at once; model: what the stage leaves."""

    checkpoint: float
    count: int
    model: float

    @property
    def total(self) -> float:
        return self.checkpoint * self.count + self.model


def needed(setting: Setting, steps: int | None = None) -> Disk:
    """What a stage writes: a model, and when it trains checkpoints. Scores and answers count as nothing.

    A checkpoint is weights, those of the critic too, and the optimizer's state; an adapter alone where one is trained.
    The oldest is deleted once the newest is whole, so that one more than trainer.save_total_limit lies there.

    Args:
        steps: optimizer steps of the run; None where they are not known.
    """
    args = setting.args
    if setting.cfg.stage == "export":
        return Disk(0.0, 0, setting.networks[0].shape.parameters * SIZES[setting.cfg.export.dtype])
    if args is None:
        return Disk(0.0, 0, 0.0)
    saved = sum(n.shape.trained * (n.numbers.weight if n.shape.adapter is None else FLOAT) for n in setting.trained)
    policy = setting.find("policy")
    model = policy.shape.trained * (policy.numbers.weight if policy.shape.adapter is None else FLOAT)
    if str(getattr(args.save_strategy, "value", args.save_strategy)) == "no":
        return Disk(0.0, 0, model)
    most = math.inf if args.save_total_limit is None else args.save_total_limit + 1
    if steps is not None and args.save_steps:
        every = args.save_steps if args.save_steps >= 1 else max(1, math.ceil(args.save_steps * steps))
        most = min(most, math.ceil(steps / every))
    count = 1 if most == math.inf else int(max(1, most))
    return Disk(saved + (0.0 if args.save_only_model else setting.optimizer), count, model)


def place(setting: Setting) -> Path:
    """Where it is written."""
    cfg = setting.cfg
    return Path((cfg.export.to if cfg.stage == "export" else None) or cfg.run.root)
