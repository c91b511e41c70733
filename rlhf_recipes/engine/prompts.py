"""The one tokeniser of prompts and answers: what is sampled, scored and evaluated begins from the tokens trained on.

sft, dpo, kto, reward, ppo, grpo, evaluate, collect, the preview, the length checks and chat all come here. A prompt and
its answer are tokenised apart and joined as ids: tokenised as one text, the two may share a token at their boundary,
so that the answer's first token is never trained. Loads neither torch nor TRL.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rlhf_recipes.engine.stops import turn_end
from rlhf_recipes.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Text = str | list[dict]  # plain text, or messages [{"role", "content"}], of which the first may carry the row's "tools"


def prompt_ids(
    prompts: Sequence[Text], tokenizer: "PreTrainedTokenizerBase", *, chat_template: str | None = None
) -> list[list[int]]:
    """Token ids of prompts: text with the tokenizer's own special tokens, messages through the chat template.

    An EOS that the tokenizer itself appends to a text is dropped, because the answer is still to come. An EOS that
    stands in the text stays.

    Args:
        prompts: all text, or all messages.
        tokenizer: the policy's.
        chat_template: Jinja text in place of the tokenizer's own template.

    Raises:
        UserError: the chat template refuses one.
    """
    if not len(prompts):
        return []
    if isinstance(prompts[0], str):
        ids = tokenizer(list(prompts), verbose=False)["input_ids"]
        return [row[:-1] for row in ids] if appends_eos(tokenizer) else ids
    how = {"chat_template": chat_template, "add_generation_prompt": True}
    return encode([rendered(turns, tokenizer, **how) for turns in prompts], tokenizer)


def completion_ids(
    prompts: Sequence[Text], completions: Sequence[Text], tokenizer: "PreTrainedTokenizerBase"
) -> list[list[int]]:
    """Token ids that follow `prompt_ids(prompts, tokenizer)`: each answer's own and one that ends it.

    A text ends with EOS. A dialogue ends where the chat template closes the answer's turn; what the template writes
    after that is never sampled, so it is left out. EOS ends the turns of a template that closes them with no special
    token.

    Args:
        prompts: all text, or all messages.
        completions: one for each prompt, of its kind.
        tokenizer: the policy's.

    Raises:
        UserError: the chat template refuses a row, or renders another prompt once an answer follows it.
    """
    texts, end = list(completions), None
    if len(prompts) and not isinstance(prompts[0], str):
        texts = [after_prompt(*row, tokenizer) for row in zip(prompts, completions, strict=True)]
        end = turn_end(tokenizer)
    return [_closed(ids, end, tokenizer.eos_token_id) for ids in _continued(texts, tokenizer)]


def document_ids(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Token ids of texts that answer nothing, each with one EOS at its end."""
    return [_closed(ids, None, tokenizer.eos_token_id) for ids in prompt_ids(texts, tokenizer)]


def after_prompt(prompt: list[dict], completion: list[dict], tokenizer: "PreTrainedTokenizerBase") -> str:
    """What the chat template writes after the prompt that an answer is sampled from.

    Raises:
        UserError: the template refuses the row, or renders another prompt once an answer follows it.
    """
    asked = rendered(prompt, tokenizer, add_generation_prompt=True)
    whole = rendered([*prompt, *completion], tokenizer)
    if whole.startswith(asked):
        return whole[len(asked) :]
    at = next((i for i, (a, b) in enumerate(zip(asked, whole, strict=False)) if a != b), min(len(asked), len(whole)))
    raise TemplateRefusal(
        f"the chat template of {_name(tokenizer)} renders another prompt once its answer follows",
        f"{asked[max(0, at - 10) : at + 20]!r} becomes {whole[max(0, at - 10) : at + 20]!r}",
    )


REMEDY = (
    "leave out the system turn (data.system=null and none in the rows), give data.template=hh, alpaca or plain, "
    "or model.chat_template=<file.jinja>"
)


class TemplateRefusal(UserError):
    """A chat template that cannot show a row.

    Args:
        reason: the same for every such row.
        detail: what is wrong with this one.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}; {REMEDY}; in a chat system=none")
        self.reason, self.detail = reason, detail


def encode(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Token ids of texts, without the tokens that the tokenizer puts round a text of its own."""
    return tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if len(texts) else []


def _continued(texts: Sequence[str], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Token ids of texts that go on where another text ended.

    Llama's tokenizer writes a space before the first word of whatever it is given, and an answer that was tokenised
    alone would have one too many. There each text is tokenised after a line break, or after a full stop where the break
    would merge with it, and the ids of those are taken off.
    """
    result = encode(texts, tokenizer)
    alone, after = encode(["a", "\na"], tokenizer)
    if after[-len(alone) :] == alone:
        return result
    left = list(range(len(texts)))
    for before in ("\n", "."):
        [lead] = encode([before], tokenizer)
        led = dict(zip(left, encode([before + texts[i] for i in left], tokenizer), strict=True))
        result = [led[i][len(lead) :] if led.get(i, [None])[: len(lead)] == lead else r for i, r in enumerate(result)]
        left = [i for i, ids in led.items() if ids[: len(lead)] != lead]
    return result


def _closed(ids: list[int], end: int | None, eos: int | None) -> list[int]:
    """The ids up to the last `end`, or with EOS behind them where they do not end with it."""
    if end in ids:
        return ids[: len(ids) - ids[::-1].index(end)]
    return ids if eos is None or ids[-1:] == [eos] else [*ids, eos]


def row_prompt_ids(rows: Sequence[Mapping], tokenizer: "PreTrainedTokenizerBase") -> list[list[int]]:
    """Token ids of dataset rows: those that are ready in `input_ids` (without the padding), else of `prompt`.

    Raises:
        UserError: as `prompt_ids`, or a prompt has no tokens.
    """
    if not rows or rows[0].get("input_ids") is None:
        ids = prompt_ids([row["prompt"] for row in rows], tokenizer)
    else:
        masks = [row.get("attention_mask") or [1] * len(row["input_ids"]) for row in rows]
        ids = [
            [token for token, real in zip(row["input_ids"], mask, strict=True) if real]
            for row, mask in zip(rows, masks, strict=True)
        ]
    for row, tokens in zip(rows, ids, strict=True):
        if not tokens:
            prompt = row.get("prompt")
            raise UserError(f"a prompt has no tokens: {prompt!r}; give the tokenizer a BOS or the row some text")
    return ids


def appends_eos(tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Whether the tokenizer closes every text with its EOS (Llama with add_eos_token, T5)."""
    eos = tokenizer.eos_token_id
    return eos is not None and tokenizer("a")["input_ids"][-1:] == [eos]


def as_completion(text: str, prompt: Text) -> Text:
    """A completion in the kind of its prompt: text, or one assistant message."""
    return text if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def rendered(turns: list[dict], tokenizer: "PreTrainedTokenizerBase", **how) -> str:
    """A dialogue as its chat template writes it.

    Args:
        turns: messages; the JSON text in a first message's "tools" is shown as the template shows tools.
        how: `apply_chat_template`'s keywords.

    Raises:
        TemplateRefusal: the template raises, or shows no tools where the dialogue has them.
    """
    from jinja2 import TemplateError

    tools = json.loads(turns[0].get("tools") or "null") if turns else None
    if tools and "tools" not in (how.get("chat_template") or tokenizer.get_chat_template(tools=tools)):
        raise TemplateRefusal(f"the chat template of {_name(tokenizer)} shows no tools", f"the row has {len(tools)}")
    plain = [{key: value for key, value in turn.items() if key != "tools"} for turn in turns]
    try:
        return tokenizer.apply_chat_template(plain, tokenize=False, tools=tools, **how)
    except TemplateError as error:  # Gemma's and Mistral's raise on system prompts, or on turns that do not alternate
        raise TemplateRefusal(f"the chat template of {_name(tokenizer)} refuses a row", str(error)) from error


def _name(tokenizer: "PreTrainedTokenizerBase") -> str:
    return tokenizer.name_or_path or "this tokenizer"
