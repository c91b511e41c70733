"""What every loader here shares: from_pretrained with our settings, adapters merged, vocabularies fitted, context."""

import torch
from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from rlhf_recipes.errors import UserError
from rlhf_recipes.models.adapters import base_of, bottom_of
from rlhf_recipes.runs.hub import reach_hub

# A softmax over a vocabulary has subnormal floats, slow ones on a CPU: one in two thousand tripled the time of exp.
# Before any kernel runs: the threads of its pool inherit the setting when they are made.
torch.set_flush_denormal(True)


def from_hub(cls, place: str, **keywords):
    """from_pretrained, with a hub that cannot be reached told at once and in one line."""
    reach_hub(place)
    try:
        return cls.from_pretrained(place, **keywords)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise UserError(f"model.path={place} could not be loaded as {cls.__name__}: {first}") from error


def context_length(model: DictConfig, path: str | None) -> int | None:
    """Tokens the model at `path` (None: that of `model.init`) can read at once; None where it does not say."""
    if path is None:
        return model.init.get("max_position_embeddings")
    config = from_hub(AutoConfig, bottom_of(path), revision=model.revision, trust_remote_code=model.trust_remote_code)
    return getattr(config, "max_position_embeddings", None)


def room_for_prompt(cfg: DictConfig, path: str, answer: int) -> int | None:
    """Longest prompt, in tokens: what `answer` tokens leave of the context, and at most data.max_prompt_length.

    Raises:
        UserError: the answer alone fills the context.
    """
    context = context_length(cfg.model, path)
    if context is not None and answer >= context:
        raise UserError(
            f"answers of {answer} tokens leave no room for a prompt: the model reads {context}; ask for fewer"
        )
    limits = [cfg.data.get("max_prompt_length"), None if context is None else context - answer]
    return min((n for n in limits if n is not None), default=None)


def plain(model: DictConfig) -> DictConfig:
    """The `model` node without what is the policy's own: for another model, which brings its tokenizer and revision."""
    own = ("tokenizer", "chat_template", "pad_token", "eos_token", "quantization", "revision")
    return OmegaConf.merge(model, dict.fromkeys(own))


def pretrained(cls, model: DictConfig, path: str, tokenizer, frozen: bool, **more) -> PreTrainedModel:
    """cls.from_pretrained under the `model` node's settings; an adapter folder comes merged into its base."""
    if (base := base_of(path)) is not None:
        from peft import PeftConfig, PeftModel

        loaded = pretrained(cls, model, base, tokenizer, frozen, **more)
        if len(tokenizer) > loaded.get_input_embeddings().num_embeddings:
            loaded.resize_token_embeddings(len(tokenizer))
        config = PeftConfig.from_pretrained(path)
        config.task_type = None  # no wrapper of a task's own: an SFT adapter may carry on as a reward model
        loaded = PeftModel.from_pretrained(loaded, path, config=config).merge_and_unload()
        loaded.name_or_path = loaded.config._name_or_path = str(path)  # what a further adapter names as its base
        return loaded
    keywords = OmegaConf.to_container(model.kwargs) | more | {"dtype": _dtype(model, frozen)}
    if model.attn_implementation:
        keywords["attn_implementation"] = model.attn_implementation
    if model.quantization:
        keywords["quantization_config"] = _quantization(model)
    return from_hub(cls, path, revision=model.revision, trust_remote_code=model.trust_remote_code, **keywords)


def fit_vocabulary(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model with an embedding for all the tokenizer's tokens, its pad token, and its EOS among the stop tokens."""
    if len(tokenizer) > model.get_input_embeddings().num_embeddings:
        model.resize_token_embeddings(len(tokenizer))
    model.config.pad_token_id = tokenizer.pad_token_id
    generation = getattr(model, "generation_config", None)
    if generation is not None:
        generation.pad_token_id = tokenizer.pad_token_id
        # A model may stop on more tokens than the tokenizer's own EOS (Qwen, Llama 3): keep those, and add it.
        own = generation.eos_token_id
        own = [] if own is None else own if isinstance(own, list) else [own]
        stops = own if tokenizer.eos_token_id in own else [tokenizer.eos_token_id, *own]
        generation.eos_token_id = stops if len(stops) > 1 else stops[0]
    return model


def _dtype(model: DictConfig, frozen: bool) -> str | torch.dtype:
    """Weights trained in full stay float32 (autocast does the rest); frozen ones may be half as large on a GPU."""
    if model.dtype != "auto":
        return getattr(torch, model.dtype, None) or model.dtype
    return "auto" if (frozen or model.quantization) and torch.cuda.is_available() else torch.float32


def _quantization(model: DictConfig):
    from transformers import BitsAndBytesConfig  # imports bitsandbytes, which prints a notice: only when asked for

    return BitsAndBytesConfig(**OmegaConf.to_container(model.quantization))
