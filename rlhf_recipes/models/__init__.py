"""Tokenizer, policy, reward model and classifier, from a path, an adapter folder or a config."""

from rlhf_recipes.models.policy import init_policy, load_policy, parameters
from rlhf_recipes.models.pretrained import context_length, plain, room_for_prompt
from rlhf_recipes.models.reward_model import load_classifier, load_reward_model, scorer_tokenizer
from rlhf_recipes.models.tokenizer import load_tokenizer

__all__ = [
    "context_length",
    "init_policy",
    "load_classifier",
    "load_policy",
    "load_reward_model",
    "load_tokenizer",
    "parameters",
    "plain",
    "room_for_prompt",
    "scorer_tokenizer",
]
