"""majority@k: of k answers to one prompt, the one that most of them agree on (self-consistency, arXiv:2203.11171)."""

from collections import Counter
from collections.abc import Hashable, Sequence

from rlhf_recipes.evaluation.text import words
from rlhf_recipes.rewards.answers import final_number, marked_answer


def answer_of(text: str) -> Hashable:
    """What an answer says, so that two that say the same are equal: its final number, else its marked words, else all.

    >>> answer_of("3 + 4 = 7.") == answer_of("The answer is 7"), answer_of("Paris!") == answer_of("paris")
    (True, True)
    """
    number = final_number(text)
    if number is not None:
        return number
    marked = marked_answer(text)
    return tuple(word for word in words(text if marked is None else marked) if any(c.isalnum() for c in word))


def vote(texts: Sequence[str]) -> int:
    """Index of the first answer that says what most of them say; of equally many the one said first.

    >>> vote(["7", "It is 8.", "8"])
    1
    """
    said = [answer_of(text) for text in texts]
    return said.index(Counter(said).most_common(1)[0][0])
