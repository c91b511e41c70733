"""How much a model can read, and which of its settings are its own. Loads no weights."""

from omegaconf import DictConfig, OmegaConf
from transformers import AutoConfig

from rlhf_recipes.errors import UserError
from rlhf_recipes.models.adapters import bottom_of
from rlhf_recipes.models.pretrained import from_hub


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
