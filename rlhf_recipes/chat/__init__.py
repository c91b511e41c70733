"""Talking with a model in the terminal: `speaker` is one model's side of the talk, `terminal` what surrounds it."""

from omegaconf import DictConfig

from rlhf_recipes.errors import UserError
from rlhf_recipes.runs import resolve
from rlhf_recipes.runs.artifacts import StageRun


def chosen_models(cfg: DictConfig, run: StageRun) -> list[resolve.ModelSource]:
    """The models of `chat.models`, the run's latest where none is named. Raises UserError for one that is not there."""
    places = [cfg.chat.models] if isinstance(cfg.chat.models, str) else list(cfg.chat.models or [None])
    chosen = [resolve.find(run, place, "chat.models") for place in places]
    for model in chosen:
        if resolve.is_reward_model(model.path):
            raise UserError(f"{model.name} is a reward model: it scores, it does not write; try stage=score")
    return chosen
