"""Every word the domain can say."""

import functools
import re
from collections.abc import Iterator
from typing import Any

from rlhf_recipes.data.embedded import styles, words
from rlhf_recipes.data.embedded.families import FAMILIES
from rlhf_recipes.data.embedded.grammar import Pattern, tokens


def _texts(value: Any) -> Iterator[str]:
    """All strings inside a module's constants."""
    if isinstance(value, str):
        yield re.sub(r"\{\w+\}", " ", value)
    elif isinstance(value, Pattern):
        yield from _texts(value.text)
    elif isinstance(value, dict):
        yield from _texts(tuple(value.items()))
    elif isinstance(value, tuple):
        for item in value:
            yield from _texts(item)


@functools.cache
def vocabulary() -> frozenset[str]:
    """The words, lower-case, that the word lists and grammars of all families hold; numbers are not among them.

    >>> "apples" in vocabulary(), "aplles" in vocabulary()
    (True, False)
    """
    modules = (words, styles, *FAMILIES)
    found = {word for module in modules for name, value in vars(module).items() if name.isupper()
             for text in _texts(value) for word in tokens(text)}  # fmt: skip
    return frozenset(word for word in found if not word.isdigit())
