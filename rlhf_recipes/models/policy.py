"""Policies: a causal language model, from a folder or the hub, or with random weights."""

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_recipes.models.pretrained import fit_vocabulary, pretrained


def load_policy(
    model: DictConfig, path: str, tokenizer: PreTrainedTokenizerBase, *, frozen: bool = False
) -> PreTrainedModel:
    """A causal language model; an adapter folder is loaded as its base with the adapter merged in.

    Args:
        model: the `model` node (dtype, attention, quantisation, further from_pretrained keywords).
        path: a model folder, an adapter folder or a hub id.
        tokenizer: embeddings grow to hold its tokens.
        frozen: no gradients will be asked for: it may lie in a smaller dtype, and lies on the GPU where there is one.
    """
    torch.manual_seed(0)  # rows of the embedding that are new here are the same in every run
    loaded = fit_vocabulary(pretrained(AutoModelForCausalLM, model, path, tokenizer, frozen), tokenizer)
    return loaded.to("cuda") if frozen and torch.cuda.is_available() and not model.quantization else loaded


def init_policy(model: DictConfig, tokenizer: PreTrainedTokenizerBase, seed: int) -> PreTrainedModel:
    """A model of seeded random weights from `model.init`: a transformers config's fields, `model_type` among them."""
    torch.manual_seed(seed)
    fields = OmegaConf.to_container(model.init)
    config = AutoConfig.for_model(fields.pop("model_type"), vocab_size=len(tokenizer), **fields)
    return fit_vocabulary(AutoModelForCausalLM.from_config(config), tokenizer)


def parameters(model: torch.nn.Module) -> str:
    """«2.1 M parameters, all trained», for the screen."""
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    share = "all trained" if trained == total else f"{trained / 1e6:.2f} M trained"
    return f"{total / 1e6:.1f} M parameters, {share}"
