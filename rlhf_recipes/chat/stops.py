"""Which tokens end an answer: those the model was trained to stop with."""

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from rlhf_recipes.models.tokenizer import turn_end


def stop_ids(
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    *,
    own_template: bool = False,
    trained: int | None = None,
) -> list[int]:
    """Token ids, the trained one first, each once.

    Args:
        tokenizer: its EOS closes every completion of rows that are text.
        model: its generation_config may name more (Qwen, Llama 3).
        own_template: rows were turns under the tokenizer's own chat template, which may close a turn otherwise.
        trained: trainer.stop_token_id, where PPO was given one.
    """
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    closing = turn_end(tokenizer) if own_template else None
    every = [trained, closing, tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])]
    return list(dict.fromkeys(token for token in every if token is not None))
