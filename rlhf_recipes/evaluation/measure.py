"""Answers of one causal language model to held-out prompts, sampled from the model as it is."""

import gc
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_recipes.errors import UserError
from rlhf_recipes.evaluation.progress import track

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Text = str | list[dict]  # plain text, or messages [{"role", "content"}]


@dataclass(frozen=True)
class Answer:
    """One sampled answer. `ids` holds the stop token where there is one; `text` does not."""

    text: str
    ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    finished: bool  # by a stop token, not by the length limit

    @property
    def tokens(self) -> int:
        """Length in tokens, stop token included."""
        return len(self.ids)


def encode_prompt(tokenizer: "PreTrainedTokenizerBase", prompt: Text) -> tuple[int, ...]:
    """Token ids of a prompt as TRL's trainers make them: special tokens for a string, chat template for messages."""
    if isinstance(prompt, str):
        return tuple(tokenizer(prompt)["input_ids"])
    return tuple(tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"])


def context_length(model: "PreTrainedModel") -> int | None:
    """Tokens the model can read at once, None where its config does not say."""
    return getattr(model.config, "max_position_embeddings", None)


def stop_ids(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Tokens that end an answer, the same as in PPO: the tokenizer's EOS and those of the model's generation_config."""
    named = getattr(getattr(base_of(model), "generation_config", None), "eos_token_id", None)
    named = named if isinstance(named, list) else [named]
    return list(dict.fromkeys(token for token in (tokenizer.eos_token_id, *named) if token is not None))


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
    stop_token_ids: Sequence[int] | None = None,
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
        stop_token_ids: any of these ends an answer. None: `stop_ids`.
        description: before the progress bar.

    Returns:
        `(n,)` answers in the order of `prompts`.

    Raises:
        UserError: a prompt and its answer do not fit the model's context.
    """
    import torch
    from transformers import GenerationConfig

    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    longest, limit = max(map(len, encoded), default=0), context_length(model)
    if limit is not None and longest + max_new_tokens > limit:
        raise UserError(
            f"the longest prompt has {longest} tokens and may be answered with {max_new_tokens}, but the model reads "
            f"{limit} at once: lower max_new_tokens, or cut the prompts with data.max_prompt_length"
        )
    stop = list(stop_token_ids) if stop_token_ids is not None else stop_ids(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (stop or [0])[0]
    sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": top_k}
    config = GenerationConfig(
        max_new_tokens=max_new_tokens,
        eos_token_id=stop or None,
        pad_token_id=pad,
        bos_token_id=tokenizer.bos_token_id,
        **(sampling if temperature > 0 else {"do_sample": False}),
    )
    order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]), reverse=True)  # the largest batch fails first
    batches = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    answers: dict[int, Answer] = {}
    with evaluating(model), _generation_config(model, config), _seeded(seed, model.device):
        for batch in track(batches, total=len(order), description=description, weight=len):
            width = len(encoded[batch[0]])
            ids = torch.full((len(batch), width), pad)  # (B, P), left padded
            mask = torch.zeros_like(ids)
            for row, i in enumerate(batch):
                ids[row, width - len(encoded[i]) :] = torch.tensor(encoded[i])
                mask[row, width - len(encoded[i]) :] = 1
            output = model.generate(
                input_ids=ids.to(model.device), attention_mask=mask.to(model.device), generation_config=config
            )
            for i, new in zip(batch, output[:, width:].tolist(), strict=True):
                answers[i] = _answer(tokenizer, encoded[i], new[:max_new_tokens], stop)
    return [answers[i] for i in range(len(encoded))]


def _answer(tokenizer, prompt_ids: tuple[int, ...], new: list[int], stop: list[int]) -> Answer:
    end = next((at for at, token in enumerate(new) if token in stop), None)  # what follows a stop token is padding
    ids = tuple(new if end is None else new[: end + 1])
    text = tokenizer.decode(ids if end is None else ids[:-1], skip_special_tokens=True)
    return Answer(text=text, ids=ids, prompt_ids=prompt_ids, finished=end is not None)


def free(device) -> None:
    """Gives back what a model that nobody holds any more took."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def base_of(model):
    return model.get_base_model() if hasattr(model, "peft_config") and hasattr(model, "get_base_model") else model


@contextmanager
def evaluating(model):
    was = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was)


@contextmanager
def _generation_config(model, config):
    """`generate` fills what `config` leaves open from the model's own (penalties, min_p ...): put a bare one there."""
    base = base_of(model)
    was, base.generation_config = base.generation_config, config
    try:
        yield
    finally:
        base.generation_config = was


@contextmanager
def _seeded(seed: int, device):
    import torch

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
