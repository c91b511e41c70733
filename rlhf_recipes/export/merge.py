"""A model as one set of weights: LoRA adapters merged into their base, and the merge checked."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_recipes import models
from rlhf_recipes.errors import UserError

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
        UserError: an adapter that cannot be merged, or whose merge changes the logits by more than TOLERANCE.
    """
    file = Path(path) / "adapter_config.json"
    node = OmegaConf.merge(node, {"dtype": "float32", "quantization": None})
    if not file.is_file():
        whole = models.load_classifier if reward else models.load_policy
        return Merged(whole(node, path, tokenizer).cpu().eval(), (), None, path)
    base_path = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"]
    below = load_base(node, base_path, tokenizer, reward=reward)
    model, difference = merged(below.model, path, tokenizer)
    return Merged(model, (path, *below.adapters), max(difference, below.difference or 0.0), below.base)


def load_base(node: DictConfig, path: str, tokenizer: PreTrainedTokenizerBase, *, reward: bool) -> Merged:
    """What an adapter stands on. A reward adapter brings the head that its base, a language model, lacks."""
    if reward and not (Path(path) / "adapter_config.json").is_file():
        return Merged(models.load_reward_model(node, path, tokenizer).cpu().eval(), (), None, path)
    return load(node, path, tokenizer, reward=reward)


def merged(base: PreTrainedModel, adapter: str, tokenizer: PreTrainedTokenizerBase) -> tuple[PreTrainedModel, float]:
    """The base with one adapter merged in, and by how much its logits moved.

    Raises:
        UserError: as `load`.
    """
    from peft import PeftConfig, PeftModel

    config = PeftConfig.from_pretrained(adapter)
    kind, config.task_type = config.peft_type, None  # as models.load_policy reads it: no wrapper of a task's own
    wrapped = PeftModel.from_pretrained(base, adapter, config=config).eval()
    if not hasattr(wrapped.base_model, "merge_and_unload"):
        raise UserError(f"{adapter} is a {kind} adapter, which cannot be merged into weights; expected LoRA")
    ids = probe(base, tokenizer)
    before = logits(wrapped, ids)
    model = wrapped.merge_and_unload().eval()
    difference = apart(before, logits(model, ids))
    if not difference <= TOLERANCE:  # a NaN is none either
        raise UserError(
            f"merging {adapter} moves the logits by {difference:.1e} of the largest, {TOLERANCE:.0e} are allowed: the "
            "merged model would not be the one you trained; nothing is written"
        )
    return model, difference


def probe(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """Token ids (4, T), T at most 32: seeded and from the whole vocabulary."""
    width = min(32, getattr(model.config, "max_position_embeddings", None) or 32)
    return torch.randint(len(tokenizer), (4, width), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model: torch.nn.Module, ids: Tensor) -> Tensor:
    """(4, T, V) of a language model, (4, 1) of a reward model."""
    return model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits


def apart(before: Tensor, after: Tensor) -> float:
    """Largest difference, in units of the largest value, at least 1; NaN where either has one.

    >>> apart(torch.tensor([4.0, 1.0]), torch.tensor([4.0, 2.0]))
    0.25
    """
    return ((before - after).abs().max() / before.abs().max().clamp(min=1.0)).item()
