"""The one tokeniser of prompts: what is sampled, scored and evaluated begins from the tokens that were trained on.

ppo, grpo, evaluate, collect, the preview, the length checks and chat all come here. Loads neither torch nor TRL.
"""

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

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
        if appends_eos(tokenizer):
            ids = [row[:-1] for row in ids]
    else:
        ids = through_template(prompts, tokenizer, chat_template=chat_template, add_generation_prompt=True)
    return ids


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


def through_template(dialogues: Sequence[list[dict]], tokenizer: "PreTrainedTokenizerBase", **how) -> list[list[int]]:
    """Token ids of dialogues, as the chat template renders them.

    Args:
        dialogues: messages; the JSON text in a first message's "tools" is shown as the template shows tools.
        how: `apply_chat_template`'s keywords.

    Raises:
        UserError: the template refuses one, or shows no tools where one has them.
    """
    from jinja2 import TemplateError

    how |= {"tokenize": True, "return_dict": True, "tokenizer_kwargs": {"verbose": False}}
    tools = [turns[0].get("tools") if turns else None for turns in dialogues]
    if any(tools):
        template = how.get("chat_template") or tokenizer.get_chat_template(tools=json.loads(next(filter(None, tools))))
        if "tools" not in template:
            raise UserError(f"the chat template of {tokenizer.name_or_path or 'this tokenizer'} shows no tools")
        plain = [[{k: v for k, v in turn.items() if k != "tools"} for turn in turns] for turns in dialogues]
        return [
            through_template([turns], tokenizer, **how | {"tools": json.loads(own) if own else None})[0]
            for turns, own in zip(plain, tools, strict=True)
        ]
    try:
        return tokenizer.apply_chat_template(list(dialogues), **how)["input_ids"]
    except TemplateError as error:  # Gemma's and Mistral's raise on system prompts, or on turns that do not alternate
        raise UserError(
            f"the chat template of {tokenizer.name_or_path or 'this tokenizer'} refuses a row: {error}; "
            "give data.system=null, or data.template=hh, alpaca or plain; in a chat system=none"
        ) from error
