"""The one rule of what ends an answer, for training, evaluation, chat and export. Loads neither torch nor TRL."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class StopSettings(Protocol):
    """PPO's settings by their names; `runs.resolve.Stops` and PPOConfig have them."""

    stop_token: str | None
    stop_token_id: int | None
    stop_strings: Sequence[str] | None


def stop_ids(
    tokenizer: "PreTrainedTokenizerBase", model=None, settings: StopSettings | None = None, *, serving: bool = False
) -> list[int]:
    """The tokens that end an answer, each once.

    `stop_token_id` is the only one where it is given, and there is none where `stop_token` is null. Otherwise an answer
    ends at the special token with which the chat template closes an assistant's turn, at the tokenizer's EOS, and at
    those of the model's generation_config (Qwen and Llama 3 name several).

    Args:
        model: whatever has a `generation_config`; None for a model that brings none.
        settings: how the model was trained to stop; None: by TRL's defaults.
        serving: for a chat or an exported model. `stop_token_id` comes first and the default ones follow it, so that an
            answer always has an end.
    """
    trained = []
    if settings is not None:
        trained = [] if settings.stop_token_id is None else [settings.stop_token_id]
        if not serving and (trained or settings.stop_token is None):
            return trained
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    own = own if isinstance(own, list) else [own]
    every = [*trained, turn_end(tokenizer), tokenizer.eos_token_id, *own]
    return list(dict.fromkeys(token for token in every if token is not None))


def turn_end(tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The special token with which the tokenizer's chat template closes an answer; None where it has none.

    It is the first token after the answer, but for white space. What follows the answer is what two dialogues with
    unlike answers end with alike.
    """
    if not tokenizer.chat_template:
        return None
    one, two = (_talk(tokenizer, answer) for answer in "12")
    alike = next((n for n, (a, b) in enumerate(zip(one[::-1], two[::-1], strict=False)) if a != b), 0)
    ids = tokenizer(one[len(one) - alike :], add_special_tokens=False)["input_ids"]
    ids = [token for token in ids if tokenizer.decode([token]).strip()]
    special = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    return ids[0] if ids and ids[0] in special else None


def _talk(tokenizer: "PreTrainedTokenizerBase", answer: str) -> str:
    """A short dialogue as the chat template writes it; a template may refuse one without a system turn."""
    from jinja2 import TemplateError

    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": answer}]
    try:
        return tokenizer.apply_chat_template(talk, tokenize=False)
    except TemplateError:
        system = {"role": "system", "content": "a"}
        try:
            return tokenizer.apply_chat_template([system, *talk], tokenize=False)
        except TemplateError:  # rows that it refuses are named when they are read
            return ""


def stop_string_test(
    strings: Sequence[str] | None, tokenizer: "PreTrainedTokenizerBase"
) -> Callable[[list[int]], bool] | None:
    """(an answer's token ids so far) -> whether the last of them completed one of `strings`; None without strings.

    Only the answer is read. A string that the prompt began does not count.
    """
    if not strings:
        return None
    # a token is a byte or more, and special ones decode to nothing
    reach = max(len(s.encode()) for s in strings) + 8

    def completed(ids: list[int]) -> bool:
        tail = tokenizer.decode(ids[-reach:])
        before = tokenizer.decode(ids[-reach:-1])
        return any(tail.count(s) > before.count(s) for s in strings)

    return completed
