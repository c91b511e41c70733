"""Weights, tokenizer and generation_config as transformers, vLLM and the hub read them."""

from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_recipes.data.chat_template import ChatTemplate
from rlhf_recipes.engine.stops import stop_ids
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.resolve import Stops


def write(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str,
    *,
    template: ChatTemplate | None = None,
    stop_token_id: int | None = None,
) -> list[int]:
    """Fills a folder.

    Args:
        folder: exists and is empty.
        model: whole, in float32; it is cast in place.
        dtype: float32, bfloat16 or float16.
        template: what the model was trained with, so that a server of chats speaks to it rightly; None for a reward
            model, whose tokenizer stays as it is.
        stop_token_id: trainer.stop_token_id, where PPO was given one.

    Returns:
        The tokens that end an answer; empty for a reward model.

    Raises:
        UserError: float16 cannot hold the weights.
    """
    stops: list[int] = []
    if template is not None:
        if template.jinja is not None:
            tokenizer.chat_template = template.with_bos(tokenizer)
        stops = stop_ids(tokenizer, model, Stops(stop_token_id=stop_token_id), serving=True)
        generation = model.generation_config or GenerationConfig()
        generation.eos_token_id = stops if len(stops) > 1 else stops[0]
        generation.pad_token_id, generation.bos_token_id = tokenizer.pad_token_id, tokenizer.bos_token_id
        model.generation_config = generation
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = True
    model.config._name_or_path = model.name_or_path = ""  # a folder of the machine it was made on
    tokenizer.name_or_path = ""
    tokenizer.init_kwargs.pop("name_or_path", None)
    cast(model, dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return stops


def cast(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """The model in another dtype.

    Raises:
        UserError: a finite weight becomes infinite in it.
    """
    target = getattr(torch, dtype)
    largest = max(p.detach().abs().max().item() for p in model.parameters() if p.is_floating_point())
    if largest > torch.finfo(target).max:
        raise UserError(f"export.dtype={dtype} cannot hold a weight of {largest:.3g}; use export.dtype=bfloat16")
    return model.to(target)
