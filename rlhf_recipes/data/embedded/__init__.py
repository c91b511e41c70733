"""A small world of short instructions, written by code: questions, answers of mixed quality, and a hidden judge.

Nine families of questions, four of them checkable. Everything is drawn from a seed; the same seed gives the same rows.
"""

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator

from rlhf_recipes.data.embedded.families import FAMILIES, TAUGHT
from rlhf_recipes.data.embedded.family import LEADS, NAMES
from rlhf_recipes.data.embedded.gold import judge
from rlhf_recipes.data.embedded.grammar import Task, capital
from rlhf_recipes.data.embedded.styles import SHARES, compose, spoken
from rlhf_recipes.data.formats.rows import Drop, Prompt
from rlhf_recipes.errors import UserError

COUNTS = {"corpus": 24_000, "demos": 24_000, "preferences": 12_000, "ranked": 4_000, "prompts": 8_000}
"""Rows of each kind where `n` is not given. Prompts are distinct; the other kinds may ask one thing twice."""

LABEL_NOISE = 0.2
"""Temperature of the labeller's coin, in gold points: P(first chosen) = sigmoid(difference / LABEL_NOISE)."""

PREFERENCE_SHARES = {"good": 0.40, "mediocre": 0.32, "bad": 0.28}
"""Styles of the answers that are compared: next to nothing overdone, so that its fall is not learned."""


def rows(kind: str, seed: int = 0, n: int | None = None) -> Iterator[dict]:
    """Rows of the embedded domain, one at a time.

    Args:
        kind: corpus, demos, preferences, ranked or prompts.
        seed: any whole number; another seed gives other rows.
        n: how many rows; `COUNTS[kind]` where None.

    Yields:
        corpus       {"text"}
        demos        {"prompt", "completion", "family", "quality"}
        preferences  {"prompt", "chosen", "rejected", "margin", "gold_chosen", "gold_rejected", "family"}
        ranked       {"prompt", "answers"}, four answers, best first in the labeller's eyes
        prompts      {"prompt", "family", "answer"}, the answer None where nothing can be checked

    Raises:
        UserError: unknown kind, or n below 0.

    >>> next(rows("prompts", seed=0))["prompt"].startswith("User: ")
    True
    """
    if kind not in _WRITERS:
        raise UserError(f"the embedded domain has no kind '{kind}'; expected one of {', '.join(_WRITERS)}")
    count = COUNTS[kind] if n is None else n
    if count < 0:
        raise UserError(f"n={n} rows of '{kind}' asked for; expected 0 or more")
    return itertools.islice(_WRITERS[kind](random.Random(f"{kind} {seed}")), count)


def prompt_of(task: Task, lead: str = "") -> str:
    """The prompt as the policy sees it; a completion follows with a space."""
    return f"User: {lead}{task.question}\nAssistant:"


def _draw(rng: random.Random) -> tuple[Task, str]:
    task = rng.choice(FAMILIES).draw(rng)
    led = "name" not in task.slots and rng.random() < 0.4  # a story names people already
    return task, prompt_of(task, rng.choice(LEADS) if led else "")


def _answers(rng: random.Random, task: Task, shares: dict[str, float], k: int) -> list[str]:
    """k different answers to one question."""
    answers: dict[str, None] = {}
    while len(answers) < k:
        style = rng.choices(tuple(shares), tuple(shares.values()))[0]
        answers[" " + compose(rng, task, style)] = None
    return list(answers)


def _corpus(rng: random.Random) -> Iterator[dict]:
    """Plain text, always right, a few pieces a document; most of them a talk between two people."""
    while True:
        pieces = []
        for _ in range(rng.randint(1, 2)):
            family = rng.choice(TAUGHT)
            if rng.random() < 0.7:
                task = family.draw(rng)
                one, two = rng.sample(NAMES, 2) if rng.random() < 0.6 else ("User", "Assistant")
                pieces.append(f"{one}: {task.question}\n{two}: {spoken(rng, family, task)}")
            else:
                pieces.append(capital(family.passage(rng)))
        yield {"text": "\n".join(pieces)}


def _demos(rng: random.Random) -> Iterator[dict]:
    styles, weights = tuple(SHARES), tuple(SHARES.values())
    while True:
        task, prompt = _draw(rng)
        style = rng.choices(styles, weights)[0]
        completion = " " + compose(rng, task, style)
        yield {"prompt": prompt, "completion": completion, "family": task.family, "quality": style}


def _ranking(rng: random.Random, golds: list[float]) -> list[int]:
    """Indices, best first, as a noisy labeller ranks them.

    Gold plus Gumbel noise: for two answers this is the Bradley-Terry coin, for more it is Plackett-Luce.
    """
    noisy = [gold - LABEL_NOISE * math.log(rng.expovariate(1.0)) for gold in golds]
    return sorted(range(len(golds)), key=lambda index: -noisy[index])


def _preferences(rng: random.Random) -> Iterator[dict]:
    while True:
        task, prompt = _draw(rng)
        answers = _answers(rng, task, PREFERENCE_SHARES, 2)
        golds = [judge(task, answer) for answer in answers]
        best, worst = _ranking(rng, golds)
        yield {
            "prompt": prompt,
            "chosen": answers[best],
            "rejected": answers[worst],
            "margin": _margin(golds),
            "gold_chosen": golds[best],
            "gold_rejected": golds[worst],
            "family": task.family,
        }


def _margin(golds: list[float]) -> float:
    """How much better a labeller says the chosen answer is, in thirds, as in arXiv:2307.09288 section 3.2.2."""
    difference = abs(golds[0] - golds[1])
    return 0.0 if difference < 0.2 else 1 / 3 if difference < 0.5 else 2 / 3 if difference < 1.0 else 1.0


def _ranked(rng: random.Random) -> Iterator[dict]:
    while True:
        task, prompt = _draw(rng)
        answers = _answers(rng, task, PREFERENCE_SHARES, 4)
        order = _ranking(rng, [judge(task, answer) for answer in answers])
        yield {"prompt": prompt, "answers": [answers[index] for index in order]}


def _prompts(rng: random.Random) -> Iterator[dict]:
    seen: set[str] = set()
    while True:
        task, prompt = _draw(rng)
        if prompt not in seen:
            seen.add(prompt)
            yield {"prompt": prompt, "family": task.family, "answer": task.answer}


def question(prompt, answer=None, *, checkable: bool = False) -> Prompt:
    """The row mapper of the embedded prompts.

    Args:
        checkable: only questions whose answer can be checked (sums, compare, order, facts), for `reward=exact`.
    """
    if checkable and answer is None:
        raise Drop("nothing to check")
    return {"prompt": prompt}


def label_ceiling(preferences: Iterable[dict]) -> float:
    """Share of labels that agree with gold, an even pair counting half: the best accuracy a judge can reach.

    >>> label_ceiling([{"gold_chosen": 1.0, "gold_rejected": 0.0}, {"gold_chosen": 1.0, "gold_rejected": 1.0}])
    0.75
    """
    marks = [
        1.0 if row["gold_chosen"] > row["gold_rejected"] else 0.5 * (row["gold_chosen"] == row["gold_rejected"])
        for row in preferences
    ]
    return sum(marks) / len(marks)


_WRITERS: dict[str, Callable[[random.Random], Iterator[dict]]] = {
    "corpus": _corpus,
    "demos": _demos,
    "preferences": _preferences,
    "ranked": _ranked,
    "prompts": _prompts,
}
