"""Sentiment by a lexicon: fast, without a model, and easy to explain."""

import math
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.messages import Text, dialogue_of, text_of

# Constants of VADER (Hutto and Gilbert 2014): a negation up to three words before inverts a valence and weakens it, a
# word of degree directly before strengthens or weakens it, and the sum x becomes x / sqrt(x^2 + 15).
_NEGATED = -0.74
_DEGREE = 0.293
_ALPHA = 15.0
_REACH = 3
_NEGATIONS = re.compile(
    "no|not|never|none|nobody|nothing|nowhere|neither|nor|cannot|without|hardly|barely|rarely|.*n't"
)
_MORE = re.compile("very|really|extremely|so|too|quite|absolutely|completely|totally|truly|incredibly|most")
_LESS = re.compile("slightly|somewhat|partly|almost|little|kinda|sorta|less|marginally")
_WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|[^\w\s]+")


def sentiment(
    prompts: list[Text],
    completions: list[Text],
    *,
    lexicon: str,
    with_prompt: bool = False,
    **columns: Any,
) -> list[float]:
    """How positive the words are, from -1 to 1; 0 where no word is in the lexicon.

    A small relative of VADER: it knows negation and words of degree, and has no rules for capitals, punctuation, "but"
    or idioms. The package vaderSentiment is no more accurate on film reviews and 30 times slower.

    Args:
        lexicon: a file with a token and its mean valence on each line, separated by a tab (VADER's format; further
            fields are ignored). Valences of VADER go from -4 to 4.
        with_prompt: score prompt and completion as one text, as for a story that goes on.

    Raises:
        UserError: the file is missing or a line has no number.

    Source: C. Hutto and E. Gilbert, "VADER", ICWSM 2014.

    >>> from tempfile import NamedTemporaryFile as File
    >>> with File("w+") as file:
    ...     _ = file.write("good\\t1.9\\nbad\\t-2.5\\n"), file.flush()
    ...     scores = sentiment(["?"] * 3, ["Good!", "not good", "A table."], lexicon=file.name)
    >>> [round(score, 3) for score in scores]
    [0.44, -0.341, 0.0]
    """
    valences = _read(str(Path(lexicon).expanduser()))
    texts = [text_of(completion) for completion in completions]
    if with_prompt:
        texts = [dialogue_of(prompt) + text for prompt, text in zip(prompts, texts, strict=True)]
    return [compound(text, valences) for text in texts]


def compound(text: str, valences: dict[str, float]) -> float:
    """The sum of the words' valences, scaled to (-1, 1).

    >>> round(compound("very good", {"good": 1.9}), 4)  # 2.193 / sqrt(2.193^2 + 15)
    0.4927
    """
    words = _WORD.findall(text.lower())
    total = 0.0
    for i, word in enumerate(words):
        valence = valences.get(word)
        if not valence:
            continue
        before = words[max(0, i - _REACH) : i]
        if before and _MORE.fullmatch(before[-1]):
            valence += math.copysign(_DEGREE, valence)
        elif before and _LESS.fullmatch(before[-1]):
            valence -= math.copysign(_DEGREE, valence)
        if any(map(_NEGATIONS.fullmatch, before)):
            valence *= _NEGATED
        total += valence
    return total / math.sqrt(total * total + _ALPHA)


@lru_cache(maxsize=4)
def _read(path: str) -> dict[str, float]:
    if not Path(path).is_file():
        raise UserError(
            f"no lexicon file {path}. Give one in VADER's format (token, tab, mean valence) as kwargs.lexicon."
        )
    valences = {}
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        token, _, rest = line.partition("\t")
        try:
            valences[token.strip().lower()] = float(rest.split("\t")[0])
        except ValueError as error:
            raise UserError(f"{path} line {number} is {line[:60]!r}; expected token, tab, number.") from error
    return valences
