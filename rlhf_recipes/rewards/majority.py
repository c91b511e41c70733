"""majority@k: of k answers to one prompt, the one that most of them agree on (self-consistency, arXiv:2203.11171)."""

import re
from collections import Counter
from collections.abc import Hashable, Sequence

from rlhf_recipes.rewards.answers import final_number, marked_answer

_WORD = re.compile(r"[\w']+")


def answer_of(text: str) -> Hashable:
    """What an answer says, so that two that say the same are equal: its final number, else its marked words, else all.

    >>> answer_of("3 + 4 = 7.") == answer_of("The answer is 7"), answer_of("Paris!") == answer_of("paris")
    (True, True)
    """
    number = final_number(text)
    if number is not None:
        return number
    marked = marked_answer(text)
    words = _WORD.findall((text if marked is None else marked).lower())
    return tuple(word for word in words if any(character.isalnum() for character in word))


def vote(texts: Sequence[str]) -> int:
    """Index of the first answer that says what most of them say; where counts are equal, what was said first wins.

    >>> vote(["7", "It is 8.", "8"])
    1
    """
    answers = [answer_of(text) for text in texts]
    return answers.index(Counter(answers).most_common(1)[0][0])
