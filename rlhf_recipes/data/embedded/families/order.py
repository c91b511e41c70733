"""What comes before or after: days, months, numbers. Checkable."""

import random
from dataclasses import replace

from rlhf_recipes.data.embedded.grammar import Pattern, Task, capital, first_named

NAME = "order"
BECAUSE = ", because "

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
COUNT = tuple(str(n) for n in range(1, 14))

# (sequence, steps, question, answer); the answer is {y}
KINDS = (
    (DAYS, 1, Pattern("What day comes after {x}?"), "after {x} comes {y}"),
    (DAYS, -1, Pattern("What day comes before {x}?"), "before {x} comes {y}"),
    (DAYS, 1, Pattern("Today is {x}. What day is it tomorrow?"), "tomorrow is {y}"),
    (DAYS, -1, Pattern("Today is {x}. What day was it yesterday?"), "yesterday was {y}"),
    (MONTHS, 1, Pattern("What month comes after {x}?"), "after {x} comes {y}"),
    (COUNT, 1, Pattern("What number comes after {x}?"), "after {x} comes {y}"),
    (COUNT, -1, Pattern("What number comes before {x}?"), "before {x} comes {y}"),
)

CALLED = {DAYS: "the week", MONTHS: "the year", COUNT: "the count"}
GOES = "{called} goes {first}, {second}, {third}"


def _step(sequence: tuple[str, ...], item: str, by: int) -> str:
    return sequence[(sequence.index(item) + by) % len(sequence)]


def _task(sequence: tuple[str, ...], steps: int, pattern: Pattern, say: str, x: str) -> Task:
    slots = {"x": x, "y": _step(sequence, x, steps), "steps": steps, "sequence": sequence, "say": say}
    return Task(NAME, pattern.fill({"x": x}), slots, answer=slots["y"])


def draw(rng: random.Random) -> Task:
    sequence, steps, pattern, say = rng.choice(KINDS)
    x = rng.choice(sequence[1:-2] if sequence is COUNT else sequence)
    return _task(sequence, steps, pattern, say, x)


def read(question: str) -> Task | None:
    for kind in KINDS:
        if (slots := kind[2].read(question)) and slots["x"] in kind[0]:
            return _task(*kind, slots["x"])
    return None


def wrong(rng: random.Random, task: Task) -> Task:
    """A step too far, or the wrong way."""
    sequence, x = task.slots["sequence"], task.slots["x"]
    near = {_step(sequence, x, by) for by in (-2, -1, 1, 2, 3)} - {task.answer, x}
    y = rng.choice(sorted(near))
    return replace(task, slots=task.slots | {"y": y}, answer=y)


def answer(rng: random.Random, task: Task) -> tuple[str, str]:
    x, y, sequence, steps = (task.slots[key] for key in ("x", "y", "sequence", "steps"))
    first, second = (x, y) if steps == 1 else (y, x)
    why = GOES.format(called=CALLED[sequence], first=first, second=second, third=_step(sequence, second, 1))
    return task.slots["say"].format_map(task.slots), why


def short(rng: random.Random, task: Task) -> str:
    return capital(task.answer)


def claim(task: Task, text: str) -> str | None:
    """The first member of the sequence that the text names, the one asked about left out."""
    return first_named(text, task.slots["sequence"], but=task.slots["x"])


def content(task: Task, text: str) -> float:
    return float(claim(task, text) == task.answer)


def passage(rng: random.Random) -> str:
    said, why = answer(rng, draw(rng))
    return f"{said}{BECAUSE}{why}."
