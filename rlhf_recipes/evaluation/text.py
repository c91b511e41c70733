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


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """All runs of n words, in order; none where the text is shorter."""
    tokens = words(text)
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams over all n-grams of the whole set, 0 to 1 (arXiv:1510.03055); 0 where no text has n words.

    It falls as the set grows, so compare only sets of equal size.

    >>> distinct(["a b a b"], 2)  # ab, ba, ab
    0.6666666666666666
    """
    grams = [gram for text in texts for gram in ngrams(text, n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def self_similarity(texts: Sequence[str], n: int = 2, *, max_pairs: int = 5000, seed: int = 0) -> float:
    """Mean Jaccard overlap of the n-gram sets of two answers, 0 (nothing shared) to 1 (all the same).

    The same question as Self-BLEU (arXiv:1802.01886), without its brevity penalty: high means mode collapse. Texts of
    fewer than n words are left out; with fewer than two others the result is 0. Where there are more than `max_pairs`
    pairs, that many are drawn.

    >>> self_similarity(["the cat sat", "the cat ran"])  # {the cat, cat sat} and {the cat, cat ran}
    0.3333333333333333
    """
    sets = [grams for grams in (frozenset(ngrams(text, n)) for text in texts) if grams]
    count = len(sets) * (len(sets) - 1) // 2
    rng = random.Random(seed)
    pairs = combinations(sets, 2) if count <= max_pairs else (rng.sample(sets, 2) for _ in range(max_pairs))
    overlaps = [len(a & b) / len(a | b) for a, b in pairs]
    return sum(overlaps) / len(overlaps) if overlaps else 0.0


def repetition(text: str, n: int = 4) -> float:
    """Share of a text's n-grams that it has already used, 0 to 1 (seq-rep-n of arXiv:1908.04319).

    >>> repetition("no no no no no", n=2)  # four bigrams, one of them new
    0.75
    """
    grams = ngrams(text, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
