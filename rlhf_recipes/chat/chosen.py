"""Whom `chat.models` means: one model or several. No torch here."""

from omegaconf import DictConfig

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs import resolve
from rlhf_recipes.runs.artifacts import StageRun


def speakers(cfg: DictConfig, run: StageRun) -> list[resolve.Found]:
    """Every model that is to talk; the run's latest where none is named.

    Raises:
        UserError: one is not there, or scores instead of writing.
    """
    places = [cfg.chat.models] if isinstance(cfg.chat.models, str) else list(cfg.chat.models or [None])
    chosen = [resolve.find(run, place, "chat.models") for place in places]
    for found in chosen:
        if resolve.kind(found.path) == "reward":
            raise UserError(
                f"{found.name} is a reward model: it scores, it does not write; try stage=score reward=model"
            )
    return chosen
