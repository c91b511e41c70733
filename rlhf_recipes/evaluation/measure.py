"""Answers of one causal language model to held-out prompts, sampled from the model as it is."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_recipes.engine.prompts import Text, prompt_ids
from rlhf_recipes.engine.stops import stop_ids, stop_string_test
from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation.progress import track
from rlhf_recipes.runs.resolve import Stops

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Answer:
    """One sampled answer. `ids` holds the stop token where there is one; `text` only the one PPO was told to use."""

    text: str
    ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    finished: bool  # by a stop token or string, not by the length limit

    @property
    def tokens(self) -> int:
        """Length in tokens, stop token included."""
        return len(self.ids)


def context_length(model: "PreTrainedModel") -> int | None:
    """Tokens the model can read at once, None where its config does not say."""
    return getattr(model.config, "max_position_embeddings", None)


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Text],
    *,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    top_p: float = 1.0,
    top_k: int = 0,
    batch_size: int = 64,
    seed: int = 0,
    stops: Stops | None = None,
    description: str = "answers",
) -> list[Answer]:
    """Answers every prompt once.

    Of the model's own generation_config only the stop tokens are used, so that no penalty hidden in it changes the
    distribution.

    Args:
        model: causal language model, on any device.
        tokenizer: of that model.
        prompts: `(n,)` strings or message lists.
        max_new_tokens: at most so many tokens an answer.
        temperature: 0 takes the likeliest token.
        top_p: nucleus, 1.0 for all of it.
        top_k: 0 for all tokens.
        batch_size: prompts at once; they are sorted by length, so that little is padding.
        seed: of the sampling; the caller's own random state is left as it was.
        stops: what ends an answer, as in PPO. None: the tokenizer's EOS and those of the model's generation_config.
        description: before the progress bar.

    Returns:
        `(n,)` answers in the order of `prompts`.

    Raises:
        UserError: a prompt and its answer do not fit the model's context.
    """
    import torch

    from rlhf_recipes.engine import generation as engine
    from rlhf_recipes.engine.forward import evaluating
    from rlhf_recipes.engine.sampling import Sampling

    stops = stops or Stops()
    encoded = prompt_ids(prompts, tokenizer)
    longest, limit = max(map(len, encoded), default=0), context_length(model)
    if limit is not None and longest + max_new_tokens > limit:
        raise UserError(
            f"the longest prompt has {longest} tokens and may be answered with {max_new_tokens}, but the model reads "
            f"{limit} at once: lower max_new_tokens, or cut the prompts with data.max_prompt_length"
        )
    sampling = Sampling(
        max_length=max_new_tokens,
        temperature=temperature,
        stop_ids=stop_ids(tokenizer, base_of(model), stops),
        top_k=top_k,
        top_p=top_p,
        stopped=stop_string_test(stops.stop_strings, tokenizer),
    )
    if not encoded:
        return []
    uniforms = torch.rand(len(encoded), max_new_tokens, generator=torch.Generator().manual_seed(seed))
    with evaluating(model):
        written = engine.generate(
            model,
            encoded,
            uniforms,
            sampling,
            pad_id=tokenizer.pad_token_id or 0,
            batch_size=batch_size,
            keep_sets=False,
            track=lambda batches: track(batches, total=len(encoded), description=description, weight=len),
        )
    answers = []
    for prompt, ids, finished in zip(encoded, written.answers(), written.finished.tolist(), strict=True):
        # the text of PPO's own stop token is part of what its reward read
        silent = stops.stop_token_id is None and ids[-1] in sampling.stop_ids
        text = tokenizer.decode(ids[:-1] if silent else ids, skip_special_tokens=True)
        answers.append(Answer(text=text, ids=tuple(ids), prompt_ids=tuple(prompt), finished=finished))
    return answers


def free(device) -> None:
    """Gives back what a model that nobody holds any more took."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def base_of(model):
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model
