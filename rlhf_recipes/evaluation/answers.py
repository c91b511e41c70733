"""Answers of one causal language model to held-out prompts, sampled from the model as it is."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf_recipes.config.schema import Drawing
from rlhf_recipes.engine.prompts import Text, prompt_ids
from rlhf_recipes.engine.stops import stop_ids, stop_string_test
from rlhf_recipes.errors import UserError
from rlhf_recipes.runs.resolve import Stops

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass
class Draw(Drawing):
    """How answers are drawn: at most `max_new_tokens`, at temperature 0 the likeliest token, among the nucleus `top_p`.

    Args:
        seed: of the sampling. An answer depends on it and on the prompt's place among the prompts, on nothing else.
    """

    seed: int = 0

    @classmethod
    def of(cls, node, seed: int) -> "Draw":
        """From the `evaluate` or the `collect` node."""
        return cls(node.temperature, node.top_p, node.max_new_tokens, node.batch_size, seed)


@dataclass(frozen=True)
class Answer:
    """One sampled answer. `ids` holds the stop token where there is one; `text` only the one PPO was told to use."""

    text: str
    ids: tuple[int, ...]
    prompt_ids: tuple[int, ...]
    finished: bool  # by a stop token or string, not by the length limit


def tokens_of(answers: Sequence[Answer]) -> dict[str, list]:
    """The columns that PPO gives reward functions beside the dataset's: TRL's completion_ids, prompt_ids, finished."""
    return {
        "completion_ids": [list(answer.ids) for answer in answers],
        "prompt_ids": [list(answer.prompt_ids) for answer in answers],
        "finished": [answer.finished for answer in answers],
    }


def generate(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[Text],
    draw: Draw,
    *,
    stops: Stops | None = None,
    description: str = "answers",
) -> list[Answer]:
    """Answers every prompt once. Of the model's own generation_config only the stop tokens count, no penalty.

    Args:
        model: causal language model, on any device.
        tokenizer: of that model.
        prompts: `(n,)` strings or message lists.
        draw: how to sample.
        stops: what ends an answer, as in PPO. None: as after any other stage.
        description: before the progress bar.

    Returns:
        `(n,)` answers in the order of `prompts`.

    Raises:
        UserError: a prompt and its answer do not fit the model's context.
    """
    import torch

    from rlhf_recipes.engine import generation
    from rlhf_recipes.engine.forward import evaluating
    from rlhf_recipes.engine.sampling import Sampling

    if not len(prompts):
        return []
    stops, encoded = stops or Stops(), prompt_ids(prompts, tokenizer)
    longest, limit = max(map(len, encoded)), getattr(model.config, "max_position_embeddings", None)
    if limit is not None and longest + draw.max_new_tokens > limit:
        raise UserError(
            f"the longest prompt has {longest} tokens and may be answered with {draw.max_new_tokens}, but the model "
            f"reads {limit} at once: lower max_new_tokens, or cut the prompts with data.max_prompt_length"
        )
    sampling = Sampling(
        max_length=draw.max_new_tokens,
        temperature=draw.temperature,
        stop_ids=stop_ids(tokenizer, model, stops),
        top_p=draw.top_p,
        stopped=stop_string_test(stops.stop_strings, tokenizer),
    )
    with evaluating(model):
        generated = generation.generate(
            model,
            encoded,
            torch.rand(len(encoded), draw.max_new_tokens, generator=torch.Generator().manual_seed(draw.seed)),
            sampling,
            pad_id=tokenizer.pad_token_id or 0,
            batch_size=draw.batch_size,
            keep_sets=False,
            track=lambda batches: track(batches, len(encoded), description),
        )
    answers = []
    for prompt, ids, finished in zip(
        encoded, generated.sequences.completions(), generated.finished.tolist(), strict=True
    ):
        # PPO's reward read the text of a stop token that PPO was told to use
        hidden = stops.stop_token_id is None and ids[-1] in sampling.stop_ids
        text = tokenizer.decode(ids[:-1] if hidden else ids, skip_special_tokens=True)
        answers.append(Answer(text=text, ids=tuple(ids), prompt_ids=tuple(prompt), finished=finished))
    return answers


def track(batches: Iterable, total: int, description: str) -> Iterator:
    """Yields the batches behind a progress bar; where no terminal redraws it, a line is written every 15 seconds."""
    from tqdm import tqdm

    from rlhf_recipes.training.progress import terminal

    lines = {"delay": 15, "mininterval": 15, "bar_format": "{desc}: {n} of {total}, about {remaining} left\n"}
    with tqdm(total=total, desc=description, leave=False, dynamic_ncols=True, **({} if terminal() else lines)) as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))
