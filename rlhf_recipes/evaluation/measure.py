"""Answers of one causal language model to held-out prompts, sampled from the model as it is."""

import gc
from collections.abc import Sequence
from contextlib import contextmanager
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
    from transformers import GenerationConfig

    stops = stops or Stops()
    encoded = [tuple(ids) for ids in prompt_ids(prompts, tokenizer)]
    longest, limit = max(map(len, encoded), default=0), context_length(model)
    if limit is not None and longest + max_new_tokens > limit:
        raise UserError(
            f"the longest prompt has {longest} tokens and may be answered with {max_new_tokens}, but the model reads "
            f"{limit} at once: lower max_new_tokens, or cut the prompts with data.max_prompt_length"
        )
    stop = stop_ids(tokenizer, base_of(model), stops)
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
            written = _StopStrings(stops, tokenizer, width)
            output = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                generation_config=config,
                stopping_criteria=[written] if stops.stop_strings else None,
            )
            for row, (i, new) in enumerate(zip(batch, output[:, width:].tolist(), strict=True)):
                new = new[: written.ends.get(row, max_new_tokens)]
                shown = stops.stop_token_id is not None
                answers[i] = _answer(tokenizer, encoded[i], new, stop, shown=shown, written=row in written.ends)
    return [answers[i] for i in range(len(encoded))]


class _StopStrings:
    """A stopping criterion of `model.generate`: PPO's own test of the answer, where transformers' reads the prompt too.

    `ends` is {row: tokens until the string was complete}; what follows them is padding.
    """

    def __init__(self, stops: Stops, tokenizer, width: int):
        self.completed, self.width, self.ends = stop_string_test(stops.stop_strings, tokenizer), width, {}

    def __call__(self, input_ids, scores, **kwargs):
        for row, ids in enumerate(input_ids[:, self.width :].tolist()):
            if row not in self.ends and self.completed(ids):
                self.ends[row] = len(ids)
        return input_ids.new_tensor([row in self.ends for row in range(len(input_ids))]).bool()


def _answer(
    tokenizer, prompt_ids: tuple[int, ...], new: list[int], stop: list[int], *, shown: bool, written: bool
) -> Answer:
    """The answer in what was generated. `shown`: the text keeps the stop token; `written`: a stop string ended it."""
    end = next((at for at, token in enumerate(new) if token in stop), None)  # what follows a stop token is padding
    ids = tuple(new if end is None else new[: end + 1])
    text = tokenizer.decode(ids if end is None or shown else ids[:-1], skip_special_tokens=True)
    return Answer(text=text, ids=ids, prompt_ids=prompt_ids, finished=end is not None or written)


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
