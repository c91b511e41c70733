"""Which of two numbers, ages or heaps is the larger. Checkable."""

import random
from dataclasses import replace

from rlhf_recipes.data.embedded.grammar import Pattern, Task, first_named
from rlhf_recipes.data.embedded.words import NAMES, THINGS

NAME = "compare"
BECAUSE = ", because "

# (question, answer); the winner is {winner}, the other {loser}
KINDS = (
    (Pattern("Which number is larger, {a} or {b}?"), "{winner} is larger than {loser}"),
    (Pattern("{name} is {a} years old and {other} is {b}. Who is older?"), "{winner} is older than {loser}"),
    (Pattern("{name} has {a} {things} and {other} has {b}. Who has more?"), "{winner} has more {things} than {loser}"),
)
WHY = "{high} is more than {low}"
MOST = 12
"""Largest number that is compared."""
NUMBERS = tuple(str(n) for n in range(1, MOST + 1))


def _task(pattern: Pattern, say: str, slots: dict[str, str]) -> Task:
    a, b = slots["a"], slots["b"]
    (low, loser), (high, winner) = sorted([(int(a), slots.get("name", a)), (int(b), slots.get("other", b))])
    slots = slots | {"say": say, "winner": winner, "loser": loser, "high": high, "low": low}
    return Task(NAME, pattern.fill(slots), slots, answer=winner)


def draw(rng: random.Random) -> Task:
    pattern, say = rng.choice(KINDS)
    a, b = rng.sample(range(1, MOST + 1), 2)
    slots = {"a": str(a), "b": str(b)}
    if "{name}" in pattern.text:
        slots["name"], slots["other"] = rng.sample(NAMES, 2)
        slots["things"] = rng.choice(THINGS)
    return _task(pattern, say, slots)


def read(question: str) -> Task | None:
    for pattern, say in KINDS:
        if (slots := pattern.read(question)) and slots["a"] != slots["b"]:
            return _task(pattern, say, slots)
    return None


def wrong(rng: random.Random, task: Task) -> Task:
    """The other side, and a reason to match."""
    s = task.slots
    swapped = {"winner": s["loser"], "loser": s["winner"], "high": s["low"], "low": s["high"]}
    return replace(task, slots=s | swapped, answer=s["loser"])


def answer(rng: random.Random, task: Task) -> tuple[str, str]:
    return task.slots["say"].format_map(task.slots), WHY.format_map(task.slots)


def short(rng: random.Random, task: Task) -> str:
    return task.answer


def claim(task: Task, text: str) -> str | None:
    """Whoever the text names first, or the number it says first; somebody not asked about is a wrong answer."""
    return first_named(text, NAMES if "name" in task.slots else NUMBERS)


def content(task: Task, text: str) -> float:
    return float(claim(task, text) == task.answer)


def passage(rng: random.Random) -> str:
    task = draw(rng)
    said, why = answer(rng, task)
    told = f"{task.question.split(' Who')[0]} " if "Who" in task.question else ""
    return f"{told}{said}{BECAUSE}{why}."
