"""GRPOConfig: TRL's fields and two more."""

from dataclasses import dataclass, field
from typing import Literal

from trl import GRPOConfig as TRLGRPOConfig

from rlhf_recipes.errors import UserError


@dataclass
class GRPOConfig(TRLGRPOConfig):
    """Settings of GRPOTrainer. TRL's fields keep TRL's names and meaning; two are added.

    Args:
        zero_variance: what becomes of a group whose answers all score alike, and so have no advantage. keep: as in
            TRL, its tokens count in the loss's mean and its KL is paid. skip: it is left out of the loss and of the
            forward pass. resample: other prompts are drawn in its place, as DAPO does (arXiv:2503.14476 section 3.2).
        max_resamples: further generation batches drawn at most to fill one; what is still missing is skipped.

    Raises:
        UserError: a value of the two that is out of range.
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
        super().__post_init__()
