"""GRPOConfig: TRL's fields, and two that TRL's GRPO lacks."""

from dataclasses import dataclass, field
from typing import Literal

from trl import GRPOConfig as TRLGRPOConfig

from rlhf_recipes.errors import UserError


@dataclass
class GRPOConfig(TRLGRPOConfig):
    """Settings of GRPOTrainer. TRL's fields keep TRL's names and meaning; two are added.

    Args:
        zero_variance: what becomes of a group whose answers all score alike, and so have no advantage. keep: TRL's
            way, its tokens count in the loss's mean and its KL is paid. skip: it is left out, forward and backward
            too. resample: other prompts are drawn in its place, as DAPO does (arXiv:2503.14476 section 3.2).
        max_resamples: generation batches drawn at most to fill one; what is still missing then is skipped.

    Raises:
        UserError: values that TRL refuses, in one line.
    """

    zero_variance: Literal["keep", "skip", "resample"] = field(
        default="keep", metadata={"help": "Groups whose answers all score alike: keep, skip or resample."}
    )
    max_resamples: int = field(default=3, metadata={"help": "Further generation batches drawn to fill one."})

    def __post_init__(self):
        if self.zero_variance not in ("keep", "skip", "resample"):
            raise UserError(f"trainer.zero_variance={self.zero_variance}: expected keep, skip or resample")
        if self.max_resamples < 1:
            raise UserError(f"trainer.max_resamples={self.max_resamples}: expected at least 1")
        try:
            super().__post_init__()
        except ValueError as error:
            raise UserError(f"trainer: {' '.join(str(error).split())}") from error
