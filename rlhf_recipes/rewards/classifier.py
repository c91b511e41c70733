"""Sentiment, or whatever else a sequence classifier of the transformers library tells."""

import math
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
        output: "logit" (what PPO on IMDB is usually trained with: it does not saturate) or "probability" (0 to 1).
        with_prompt: classify prompt and completion as one text, as for a review that goes on.
        batch_size: texts at once.
        max_length: tokens of a text that the classifier sees; the start is cut off, the end kept.
        device: "auto" takes the first GPU if there is one.

    Returns:
        (N,) logits or probabilities of the label.

    Raises:
        UserError: no such model or label, or an unknown `output`.
    """
    if output not in ("logit", "probability"):
        raise UserError(f"kwargs.output is {output!r}; choose logit or probability.")
    import torch

    tokenizer, network, index = _load(model, label, device)
    limit = min(max_length, getattr(network.config, "max_position_embeddings", max_length))
    texts = [text_of(completion) for completion in completions]
    if with_prompt:
        texts = [dialogue_of(prompt) + text for prompt, text in zip(prompts, texts, strict=True)]
    scores: list[float] = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            texts[start : start + batch_size], padding=True, truncation=True, max_length=limit, return_tensors="pt"
        ).to(network.device)
        with torch.inference_mode():
            logits = network(**batch).logits.float()  # (B, labels)
        if output == "probability":
            logits = logits.sigmoid() if logits.shape[-1] == 1 else logits.softmax(-1)
        scores += logits[:, index].tolist()
    return scores


@lru_cache(maxsize=4)
def _load(name: str, label: str | int, device: str) -> tuple[Any, Any, int]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    reach_hub(name, "kwargs.model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, truncation_side="left")
        network = AutoModelForSequenceClassification.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"no classifier {name}: {reason} Give a model's name or folder as kwargs.model.") from error
    index = _index(name, label, network.config.id2label)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return tokenizer, network.eval().requires_grad_(False).to(device), index


def _index(name: str, label: str | int, labels: dict[int, str]) -> int:
    by_name = {text.lower(): i for i, text in labels.items()}
    index = label if isinstance(label, int) else by_name.get(label.lower(), math.nan)
    if index not in labels:
        have = ", ".join(f"{text} ({i})" for i, text in sorted(labels.items()))
        raise UserError(f"{name} has no label {label!r}; it has {have}. Set kwargs.label to one of them.")
    return int(index)
