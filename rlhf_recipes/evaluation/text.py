"""What can be read off the answers' words alone: variety, likeness among answers, repetition. Plain Python.

Words are runs of letters, digits and apostrophes, lower-cased; any other mark but a space is a word of its own.
"""

import random
import re
from collections.abc import Sequence
from itertools import combinations

_WORD = re.compile(r"[\w']+|[^\w\s]")


def words(text: str) -> list[str]:
    """
    >>> words("Don't stop, Ann!")
    ["don't", 'stop', ',', 'ann', '!']
    """
    return _WORD.findall(text.lower())


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of n words, in order; none where the text is shorter than n."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams over all n-grams of the whole set, 0 to 1 (arXiv:1510.03055).

    It falls as the set grows, so compare only sets of equal size.

    Returns:
        0.0 where no text has n words.

    >>> distinct(["a b a b"], 2)  # ab, ba, ab
    0.6666666666666666
    """
    grams = [gram for text in texts for gram in ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_similarity(texts: Sequence[str], n: int = 2, *, max_pairs: int = 5000, seed: int = 0) -> float:
    """Mean Jaccard overlap of the n-gram sets of two answers, 0 (nothing shared) to 1 (all the same).

    The same question as Self-BLEU (arXiv:1802.01886), without its brevity penalty: high means mode collapse.

    Args:
        texts: answers to different prompts. Those shorter than n words are left out.
        n: words in an n-gram.
        max_pairs: where there are more pairs than this, so many are drawn.
        seed: of that draw.

    Returns:
        0.0 with fewer than two texts.

    >>> self_similarity(["the cat sat", "the cat ran"])  # {the cat, cat sat} and {the cat, cat ran}
    0.3333333333333333
    """
    sets = [grams for grams in (frozenset(ngrams(words(text), n)) for text in texts) if grams]
    count = len(sets) * (len(sets) - 1) // 2
    if count == 0:
        return 0.0
    if count <= max_pairs:
        pairs = combinations(sets, 2)
    else:
        rng = random.Random(seed)
        pairs = (rng.sample(sets, 2) for _ in range(max_pairs))
    overlaps = [len(a & b) / len(a | b) for a, b in pairs]
    return sum(overlaps) / len(overlaps)


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's n-grams that it has already used, 0 to 1 (seq-rep-n of arXiv:1908.04319).

    >>> repetition("no no no no no", n=2)  # four bigrams, one of them new
    0.75
    """
    grams = ngrams(words(text), n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
