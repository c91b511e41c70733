"""Controllers and monitors of a run, as callbacks of transformers.Trainer.

PPOTrainer calls three events more than Trainer does, each with (args, state, control, ...):
    on_rollout(metrics={...}, trainer=...)   what a rollout measured of the weights, before an update learns from it
    on_samples(samples=[rows])               answers to held-out prompts
    on_experience(tokens=[rows])             one training answer token by token
"""

from rlhf_recipes.callbacks.control import KLControl, KLRunaway
from rlhf_recipes.callbacks.practice import PracticeWarnings
from rlhf_recipes.callbacks.samples import SamplesFile, SamplesTable
from rlhf_recipes.callbacks.stop import GracefulStop

__all__ = ["GracefulStop", "KLControl", "KLRunaway", "PracticeWarnings", "SamplesFile", "SamplesTable"]
