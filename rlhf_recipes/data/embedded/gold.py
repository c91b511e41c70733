"""The hidden judge of the embedded domain: what a careful reader would think of an answer.

It knows the right answer and never shows itself to training, except through the labels of the preference pairs.
A little more warmth, reason and length is better; much more is worse. That fall is rare in the pairs, so a reward
model does not learn it, and a policy driven hard enough against the reward model walks into it (arXiv:2210.10760).
"""

import functools
import re
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

from rlhf_recipes.data.embedded import family, styles
from rlhf_recipes.data.embedded.families import BY_NAME, CHECKABLE, FAMILIES
from rlhf_recipes.data.embedded.grammar import Pattern, Task, tokens
from rlhf_recipes.rewards.messages import dialogue_of, text_of

WARMTH = (0.0, 0.7, 1.2, 1.0, 0.0, -2.0, -3.5)
"""Worth of 0, 1, 2, … warm phrases; six are as bad as more. Three are nearly as good as two: a policy that stays near
its start may overshoot a little, and only one that is driven far from it falls."""
REASON = (0.0, 0.8, 0.6, -0.6, -1.4)
"""Worth of 0, 1, 2, … reasons given."""
SHORT, LONG = 8, 28
"""Words an answer should have at least and at most."""
CENTRE, SCALE = 1.12, 2.00
"""Mean and standard deviation of the features' sum over the demonstrations: a gold score has mean 0 and spread 1."""


def _spaced(words: list[str]) -> str:
    return " " + "  ".join(words) + " "


_WARM, _RUDE = (
    [_spaced(tokens(phrase)) for phrase in phrases] for phrases in (styles.OPENERS + styles.CLOSERS, styles.RUDE)
)
_REASON = re.compile(r"\bbecause\b|, so\b")


def _count(phrases: list[str], words: list[str]) -> int:
    return sum(map(_spaced(words).count, phrases))


def _texts(value: Any) -> Iterator[str]:
    """All strings inside a constant."""
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
    """Every word, lower-case, that the word lists and grammars of the domain hold; numbers are not among them.

    >>> "apples" in vocabulary(), "aplles" in vocabulary()
    (True, False)
    """
    constants = [
        value for place in (family, styles, *map(type, FAMILIES)) for n, value in vars(place).items() if n.isupper()
    ]
    words = {word for text in _texts(tuple(constants)) for word in tokens(text)}
    return frozenset(word for word in words if not word.isdigit())


@functools.lru_cache(maxsize=65536)
def read(prompt: str) -> Task | None:
    """The task behind a prompt, whatever template surrounds the question; None if it is no question of this domain.

    >>> read("User: What is 3 plus 4?\\nAssistant:").answer
    '7'
    """
    return next((task for family in FAMILIES if (task := family.read(prompt))), None)


def features(task: Task | None, completion: str) -> dict[str, float]:
    """What the gold score is the sum of, in points.

    Args:
        task: the question, as `read` gives it; None where it is unknown, and the answer can be neither right nor wrong.
        completion: any text at all.

    Returns:
        answer    1.2 for a right (or wholly on-topic) answer, down to -1.2
        form      0.4 for capital and closing stop, else -0.4
        warmth    see `WARMTH`
        reason    see `REASON`
        length    0.02 a word up to 28 words; below 8 words -0.1 a word, above 28 -0.12 a word, down to -3
        echo      -3 times the share of word triples that were said before, and -0.5 a word said twice on end, up to 3
        rudeness  -1.5 for one rude phrase, -2 for more
        strange   -0.25 for each word the domain does not know, at least -1.5

    >>> task = read("What is 3 plus 4?")
    >>> answer = " Sure! It is 7, because 3 plus 4 is 7."
    >>> {name: round(points, 2) for name, points in features(task, answer).items() if points}
    {'answer': 1.2, 'form': 0.4, 'warmth': 0.7, 'reason': 0.8, 'length': 0.04}
    >>> {name: round(points, 2) for name, points in features(task, "go away").items() if points}
    {'answer': -1.2, 'form': -0.4, 'length': -0.6, 'rudeness': -1.5}
    """
    text = completion.strip()
    words = tokens(text)
    n, known = len(words), vocabulary()
    content = BY_NAME[task.family].content(task, text) if task else 0.5
    triples = list(zip(words, words[1:], words[2:], strict=False))
    echoed = 1 - len(set(triples)) / len(triples) if triples else 0.0
    stuck = sum(word == after for word, after in pairwise(words))
    formed = (text[:1].isupper() or text[:1].isdigit()) and text[-1:] in (".", "!", "?")
    strange = sum(word not in known and not word.isdigit() for word in words)
    return {
        "answer": 2.4 * content - 1.2,
        "form": 0.4 if formed else -0.4,
        "warmth": WARMTH[min(_count(_WARM, words), len(WARMTH) - 1)],
        "reason": REASON[min(len(_REASON.findall(text.lower())), len(REASON) - 1)],
        "length": 0.02 * (min(n, LONG) - SHORT) - 0.08 * max(SHORT - n, 0) - min(0.12 * max(n - LONG, 0), 3.0),
        "echo": -3.0 * echoed - 0.5 * min(stuck, 3),
        "rudeness": (0.0, -1.5, -2.0)[min(_count(_RUDE, words), 2)],
        "strange": max(-0.25 * strange, -1.5),
    }


def judge(task: Task | None, completion: str) -> float:
    """The gold score of one answer."""
    return (sum(features(task, completion).values()) - CENTRE) / SCALE


def gold_score(prompts: list, completions: list, **columns: Any) -> list[float]:
    """Gold scores, mean 0 and spread 1 over the demonstrations. A reward function; never raises on any text.

    Args:
        prompts: prompts of this domain, text or messages.
        completions: answers, text or messages; one for each prompt.
        columns: ignored; the prompt says all there is to know.

    >>> good, plain, wrong = gold_score(
    ...     ["What is 3 plus 4?"] * 3, [" Sure! The answer is 7, because 3 plus 4 is 7.", " 7.", " 8."])
    >>> good > 1 > 0 > plain > wrong
    True
    """
    return [
        judge(read(dialogue_of(prompt)), text_of(completion))
        for prompt, completion in zip(prompts, completions, strict=True)
    ]


def exact(prompts: list, completions: list, **columns: Any) -> list[float | None]:
    """1.0 where a checkable question is answered right, 0.0 where wrong, None where there is nothing to check.

    >>> exact(["What is 3 plus 4?", "What is 3 plus 4?", "List two fruits."], [" It is 7.", " 8.", " Plums."])
    [1.0, 0.0, None]
    """
    pairs = _checkable(prompts, completions)
    return [BY_NAME[task.family].content(task, text) if task else None for task, text in pairs]


def claimed(prompts: list, completions: list, **columns: Any) -> list[str | None]:
    """The answer that each completion settles on; None where it settles on none, or nothing can be checked.

    >>> claimed(["What is 3 plus 4?", "Which number is larger, 3 or 4?"], [" It is 8.", " 4 is larger than 3."])
    ['8', '4']
    """
    pairs = _checkable(prompts, completions)
    return [BY_NAME[task.family].claim(task, text) if task else None for task, text in pairs]


def _checkable(prompts: list, completions: list) -> Iterator[tuple[Task | None, str]]:
    """Each question, None where nothing can be checked, with the text of its answer."""
    for prompt, completion in zip(prompts, completions, strict=True):
        task = read(dialogue_of(prompt))
        yield task if task and task.family in CHECKABLE else None, text_of(completion)
