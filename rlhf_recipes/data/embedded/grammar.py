"""Sentences with slots: filled to write a question, matched to read it back."""

import re
from dataclasses import dataclass, field

_SLOTS = {"a": r"\d+", "b": r"\d+", "name": r"[A-Z][a-z]+", "other": r"[A-Z][a-z]+"}


@dataclass(frozen=True)
class Task:
    """One question and what a right answer must hold.

    Args:
        family: name of the family that wrote it.
        question: the question as plain text, without the speaker's name.
        slots: what varies in the question and in its answers, by slot name.
        answer: the gold answer of a checkable question, else None.
    """

    family: str
    question: str
    slots: dict[str, str] = field(hash=False)
    answer: str | None = None


class Pattern:
    """A sentence with slots that can be filled and read back.

    The slots `a` and `b` hold a whole number, `name` and `other` one capitalised word, any other slot a few words.

    >>> pattern = Pattern("Say thank you to {person} for {gift}.")
    >>> pattern.fill({"person": "a teacher", "gift": "the book"})
    'Say thank you to a teacher for the book.'
    >>> pattern.read("User: Say thank you to a teacher for the book.")
    {'person': 'a teacher', 'gift': 'the book'}
    >>> pattern.read("Say nothing.") is None
    True
    """

    def __init__(self, text: str):
        self.text = text
        expression, seen = r"\b", set()
        for index, part in enumerate(re.split(r"\{(\w+)\}", text)):
            if index % 2 == 0:
                expression += re.escape(part)
            elif part in seen:
                expression += rf"(?P={part})"
            else:
                seen.add(part)
                expression += rf"(?P<{part}>{_SLOTS.get(part, r'[A-Za-z0-9 ]+?')})"
        self._regex = re.compile(expression)

    def fill(self, slots: dict[str, str]) -> str:
        """The sentence with its slots filled."""
        return self.text.format_map(slots)

    def read(self, text: str) -> dict[str, str] | None:
        """The slots' values where the sentence stands in `text`, else None."""
        match = self._regex.search(text)
        return match.groupdict() if match else None


def capital(text: str) -> str:
    """The text with its first letter large: `the cat` -> `The cat`."""
    return text[:1].upper() + text[1:]


def listed(items: list[str]) -> str:
    """The items as English lists them.

    >>> listed(["plums", "pears", "figs"])
    'plums, pears and figs'
    """
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def tokens(text: str) -> list[str]:
    """Words and numbers of a text, lower-case, without punctuation.

    >>> tokens("Tom's 3 pears, please!")
    ['tom', 's', '3', 'pears', 'please']
    """
    return re.findall(r"[a-z]+|\d+", text.lower())


_EMPTY_WORDS = frozenset(
    tokens(
        "a an and are at be behind by for has have i in is it its like my near of on our so some that the their them "
        "they this to under was we who with you your"
    )
)


def overlap(words: list[str], phrase: str) -> float:
    """Share (0 to 1) of the phrase's telling words that are among `words`.

    >>> overlap(["rest", "for", "long"], "rest for an hour")
    0.5
    """
    wanted = set(tokens(phrase)) - _EMPTY_WORDS
    return len(wanted.intersection(words)) / len(wanted)


def first_named(text: str, names: tuple[str, ...], but: str = "") -> str | None:
    """Which of `names` the text says first; `but` is ignored.

    >>> first_named("After Monday comes Tuesday, then Wednesday.", ("Monday", "Tuesday", "Wednesday"), but="Monday")
    'Tuesday'
    """
    wanted = {name.lower(): name for name in names if name != but}
    return next((wanted[word] for word in tokens(text) if word in wanted), None)
