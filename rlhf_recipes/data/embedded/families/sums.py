"""Sums and differences of small numbers, bare or as a little story. Checkable."""

import random
import re
from dataclasses import replace

from rlhf_recipes.data.embedded.grammar import Pattern, Task
from rlhf_recipes.data.embedded.words import NAMES, THINGS

NAME = "sums"
BECAUSE = ", because "

# (operation, question, answer)
KINDS = (
    (
        "plus",
        Pattern("{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?"),
        "{name} has {n} {things} now",
    ),
    (
        "plus",
        Pattern("There are {a} {things} in a box and {b} {things} on a table. How many {things} are there?"),
        "there are {n} {things}",
    ),
    ("plus", Pattern("What is {a} plus {b}?"), "the answer is {n}"),
    (
        "minus",
        Pattern("{name} has {a} {things} and loses {b}. How many {things} does {name} have now?"),
        "{name} has {n} {things} now",
    ),
    ("minus", Pattern("What is {a} minus {b}?"), "the answer is {n}"),
)

MOST = 5
"""Largest number that is added or taken away."""
WORKING = "{a} {op} {b} is {n}"


def _task(op: str, pattern: Pattern, say: str, slots: dict[str, str]) -> Task:
    a, b = int(slots["a"]), int(slots["b"])
    n = str(a + b if op == "plus" else a - b)
    return Task(NAME, pattern.fill(slots), slots | {"op": op, "say": say, "n": n}, answer=n)


def draw(rng: random.Random) -> Task:
    op, pattern, say = rng.choice(KINDS)
    a, b = rng.randint(1, MOST), rng.randint(1, MOST)
    if op == "minus":
        a += b
    slots = {"name": rng.choice(NAMES), "things": rng.choice(THINGS), "a": str(a), "b": str(b)}
    return _task(op, pattern, say, slots)


def read(question: str) -> Task | None:
    for op, pattern, say in KINDS:
        if slots := pattern.read(question):
            return _task(op, pattern, say, slots)
    return None


def wrong(rng: random.Random, task: Task) -> Task:
    """A miss by one, two or three, or the other operation."""
    right, a, b = int(task.answer), int(task.slots["a"]), int(task.slots["b"])
    misses = {right + step for step in (-3, -2, -1, 1, 2, 3)} | {abs(a - b), a + b}
    n = str(rng.choice(sorted(miss for miss in misses if miss >= 0 and miss != right)))
    return replace(task, slots=task.slots | {"n": n}, answer=n)


def answer(rng: random.Random, task: Task) -> tuple[str, str]:
    return task.slots["say"].format_map(task.slots), WORKING.format_map(task.slots)


def short(rng: random.Random, task: Task) -> str:
    return task.answer


def claim(task: Task, text: str) -> str | None:
    """The number the text settles on; None where its numbers disagree.

    The operands of a written-out sum do not count, so the working may be shown.
    """
    rest = re.sub(r"\d+ (?:plus|minus)(?: \d+)?", " ", text)
    numbers = set(re.findall(r"\d+", rest))
    return numbers.pop() if len(numbers) == 1 else None


def content(task: Task, text: str) -> float:
    return float(claim(task, text) == task.answer)


def passage(rng: random.Random) -> str:
    """A story with its sum, or a row of a times-table's little brother."""
    task = draw(rng)
    if " How many" in task.question:
        said, why = answer(rng, task)
        return f"{task.question.split(' How many')[0]} {why}, so {said}."
    lines = []
    for b in rng.sample(range(1, MOST + 1), 4):
        a = rng.randint(1, MOST)
        lines.append(f"{a} plus {b} is {a + b}." if task.slots["op"] == "plus" else f"{a + b} minus {b} is {a}.")
    return " ".join(lines)
