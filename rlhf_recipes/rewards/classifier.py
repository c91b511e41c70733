"""Sentiment, or any other label of a sequence classifier of the transformers library."""

from functools import lru_cache
from typing import Any

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.messages import Text, dialogue_of, text_of
from rlhf_recipes.runs.hub import reach_hub


def label_score(
    prompts: list[Text],
    completions: list[Text],
    *,
    model: str,
    label: str | int,
    output: str = "logit",
    with_prompt: bool = True,
    batch_size: int = 32,
    max_length: int = 512,
    device: str = "auto",
    **columns: Any,
) -> list[float]:
    """What a classifier gives one label.

    Args:
        model: name or path of a sequence classifier with its tokenizer, loaded at the first call.
        label: which label is the reward: its name in the model's config, or its index.
        output: "logit" (the usual reward for PPO on IMDB: it does not saturate) or "probability" (0 to 1).
        with_prompt: classify prompt and completion as one text, as for a review that goes on.
        batch_size: texts at once.
        max_length: tokens of a text that the classifier reads; a longer text loses its start.
        device: "auto" takes the first GPU if there is one.

    Returns:
        (N,) logits or probabilities of the label.

    Raises:
        UserError: no such model or label, or an unknown `output`.
    """
    if output not in ("logit", "probability"):
        raise UserError(f"kwargs.output is {output!r}; choose logit or probability.")
    reward = _load(model, label, output, batch_size, max_length, device)
    texts = [text_of(completion) for completion in completions]
    if with_prompt:
        texts = [dialogue_of(prompt) + text for prompt, text in zip(prompts, texts, strict=True)]
    return reward(texts, [""] * len(texts))  # one text each, tokenised whole


@lru_cache(maxsize=4)
def _load(name: str, label: str | int, output: str, batch_size: int, max_length: int, device: str):
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from rlhf_recipes.rewards.model import ModelReward

    reach_hub(name, "kwargs.model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, model_max_length=max_length)
        network = AutoModelForSequenceClassification.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no classifier {name}: {reason} Give a model's name or folder as kwargs.model.") from error
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    network.requires_grad_(False).to(device)
    probability = output == "probability"
    return ModelReward(
        network, tokenizer, append_eos=False, label=label, batch_size=batch_size, probability=probability
    )
