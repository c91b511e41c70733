"""A model as one set of weights that transformers, vLLM and the hub read: adapters merged, and the merge checked."""

from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_recipes import models
from rlhf_recipes.data.chat_template import ChatTemplate
from rlhf_recipes.engine.stops import stop_ids
from rlhf_recipes.errors import UserError
from rlhf_recipes.models.adapters import base_of
from rlhf_recipes.runs.resolve import Stops

TOLERANCE = 1e-5
"""Largest difference of a logit before and after a merge, in units of the largest logit (at least 1), in float32."""


@dataclass(frozen=True)
class Merged:
    """A model on the CPU in float32, without adapters.

    Args:
        adapters: the merged adapters' folders, the last one first.
        difference: the largest that any merge made, in units of TOLERANCE; None without an adapter.
        base: what it all began with: a folder or a hub id.
    """

    model: PreTrainedModel
    adapters: tuple[str, ...]
    difference: float | None
    base: str


def load(node: DictConfig, path: str, tokenizer: PreTrainedTokenizerBase, *, reward: bool) -> Merged:
    """A model, its adapters merged one after the other: PPO's may stand on SFT's.

    Args:
        node: the `model` node.
        path: a model folder, an adapter folder or a hub id.
        tokenizer: of the model at `path`.
        reward: it has a head for scores.

    Raises:
        UserError: an adapter cannot be merged, or merging it changes the logits by more than TOLERANCE.
    """
    node = OmegaConf.merge(node, {"dtype": "float32", "quantization": None})
    if (base := base_of(path)) is None:
        whole = models.load_classifier if reward else models.load_policy
        return Merged(whole(node, path, tokenizer).cpu().eval(), (), None, path)
    if reward and base_of(base) is None:  # a language model lacks the head that the adapter brings
        below = Merged(models.load_reward_model(node, base, tokenizer).cpu().eval(), (), None, base)
    else:
        below = load(node, base, tokenizer, reward=reward)
    model, difference = _merge(below.model, path, tokenizer)
    return Merged(model, (path, *below.adapters), max(difference, below.difference or 0.0), below.base)


def _merge(base: PreTrainedModel, adapter: str, tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedModel, float]:
    """The base with one adapter merged in, and by how much its logits moved."""
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(adapter)
    kind, config.task_type = config.peft_type, None  # as models.load_policy reads it: no wrapper of a task's own
    wrapped = PeftModel.from_pretrained(base, adapter, config=config).eval()
    if not hasattr(wrapped.base_model, "merge_and_unload"):
        raise UserError(f"{adapter} is a {kind} adapter, which cannot be merged into weights; expected LoRA")
    width = min(32, getattr(base.config, "max_position_embeddings", None) or 32)
    ids = torch.randint(len(tokenizer), (4, width), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # logits are (4, T, V) of a language model, (4, 1) of a reward model
        before = wrapped(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        model = wrapped.merge_and_unload().eval()
        difference = apart(before, model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits)
    if not difference <= TOLERANCE:  # a NaN is refused too
        raise UserError(
            f"merging {adapter} moves the logits by {difference:.1e} of the largest, {TOLERANCE:.0e} are allowed: the "
            "merged model would not be the one you trained; nothing is written"
        )
    return model, difference


def apart(before: Tensor, after: Tensor) -> float:
    """Largest difference, in units of the largest value, at least 1; NaN where either has one.

    >>> apart(torch.tensor([4.0, 1.0]), torch.tensor([4.0, 2.0]))
    0.25
    """
    return ((before - after).abs().max() / before.abs().max().clamp(min=1.0)).item()


def write(
    folder: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: str,
    *,
    template: ChatTemplate | None = None,
    trained_stops: Stops | None = None,
) -> list[int]:
    """Fills an empty folder with weights, tokenizer and generation_config. Returns the tokens that end an answer.

    Args:
        model: whole, in float32; it is cast in place.
        dtype: float32, bfloat16 or float16.
        template: what the model was trained with, so that a chat server prompts it rightly; None for a reward model,
            whose tokenizer stays as it is.
        trained_stops: where its answers ended in training.

    Raises:
        UserError: float16 cannot hold the weights.
    """
    stops: list[int] = []
    if template is not None:
        if template.jinja is not None:
            tokenizer.chat_template = template.with_bos(tokenizer)
        stops = stop_ids(tokenizer, model, trained_stops, serving=True)
        model.generation_config = model.generation_config or GenerationConfig()
        model.generation_config.eos_token_id = stops if len(stops) > 1 else stops[0]
        model.generation_config.pad_token_id = tokenizer.pad_token_id
        model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.config.pad_token_id, model.config.use_cache = tokenizer.pad_token_id, True
    # a folder of the machine it was made on
    model.config._name_or_path = model.name_or_path = tokenizer.name_or_path = ""
    tokenizer.init_kwargs.pop("name_or_path", None)
    largest = max(p.detach().abs().max().item() for p in model.parameters() if p.is_floating_point())
    if largest > torch.finfo(getattr(torch, dtype)).max:
        raise UserError(f"export.dtype={dtype} cannot hold a weight of {largest:.3g}; use export.dtype=bfloat16")
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return stops
