"""Plain text: a document, or its beginning as a prompt and the rest as the answer."""

from rlhf_recipes.data.formats.rows import Demo, Drop, Prompt, Text
from rlhf_recipes.data.formats.turns import as_text, prompt_of
from rlhf_recipes.errors import UserError


def text(text) -> Text:
    """A document. `text`."""
    return {"text": as_text(text, "text")}


def prompt(prompt) -> Prompt:
    """A question without an answer: `prompt`, a string or a list of turns."""
    return {"prompt": prompt_of(prompt)}


def continuation(text, *, tokens: int = 10, tokenizer=None) -> Demo:
    """The document's first `tokens` tokens as the prompt and the rest as the answer (IMDB's reviews, for one).

    The cut is made in the text at a token's end, so that prompt + completion is the document, letter for letter.
    The split hashes the whole document, as it does for a corpus: what is held out here is held out there.

    Args:
        tokens: length of the prompt, counted without special tokens.
        tokenizer: the policy's; `load` passes it on.
    """
    if tokenizer is None:
        raise UserError(
            "format=continuation cuts a prompt of a few tokens off each text and so needs the model's tokenizer; "
            "for stage=pretrain give the texts as data.corpus with format=text"
        )
    text = as_text(text, "text")
    ends = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    if len(ends) <= tokens:
        raise Drop(f"no more than {tokens} tokens, so nothing to continue")
    cut = ends[tokens - 1][1]
    return {"prompt": text[:cut], "completion": text[cut:], "key": text}
