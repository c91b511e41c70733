"""Small facts: colours, sounds, opposites, young animals. Checkable."""

import random
from dataclasses import replace

from rlhf_recipes.data.embedded.grammar import Pattern, Task, capital, first_named

NAME = "facts"
BECAUSE = ", because "

COLOURS = {
    "the sky": "blue", "the sea": "blue", "grass": "green", "a frog": "green", "snow": "white", "milk": "white",
    "coal": "black", "the night": "black", "a lemon": "yellow", "the sun": "yellow", "blood": "red", "a tomato": "red",
}  # fmt: skip
SOUNDS = {
    "cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa", "pig": "oink", "bee": "buzz",
    "lion": "roar",
}  # fmt: skip
YOUNG = {
    "dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "duck": "duckling", "horse": "foal",
    "bear": "cub", "goat": "kid",
}  # fmt: skip
_PAIRS = ("hot cold", "big small", "fast slow", "up down", "old new", "wet dry", "rich poor")
OPPOSITES = {a: b for pair in _PAIRS for a, b in (pair.split(), pair.split()[::-1])}

# (facts, question, answer, reasons); asked about {x}, the answer is {y}
KINDS = (
    (COLOURS, Pattern("What colour is {x}?"), "{x} is {y}", ("that is how it looks in the light", "anyone can see it")),
    (
        SOUNDS,
        Pattern("What sound does a {x} make?"),
        "a {x} says {y}",
        ("that is how it calls", "that is how it talks to others"),
    ),
    (YOUNG, Pattern("What is a young {x} called?"), "a young {x} is called a {y}", ("that is its name on the farm",)),
    (
        OPPOSITES,
        Pattern("What is the opposite of {x}?"),
        "the opposite of {x} is {y}",
        ("nothing can be both at once", "the two are far apart"),
    ),
)


def _task(kind: int, x: str) -> Task:
    facts, pattern, _, _ = KINDS[kind]
    return Task(NAME, pattern.fill({"x": x}), {"kind": kind, "x": x, "y": facts[x]}, answer=facts[x])


def draw(rng: random.Random) -> Task:
    kind = rng.randrange(len(KINDS))
    return _task(kind, rng.choice(tuple(KINDS[kind][0])))


def read(question: str) -> Task | None:
    for kind, (facts, pattern, _, _) in enumerate(KINDS):
        if (slots := pattern.read(question)) and slots["x"] in facts:
            return _task(kind, slots["x"])
    return None


def wrong(rng: random.Random, task: Task) -> Task:
    """The answer to another question of the same sort."""
    values = sorted(set(KINDS[task.slots["kind"]][0].values()) - {task.answer, task.slots["x"]})
    y = rng.choice(values)
    return replace(task, slots=task.slots | {"y": y}, answer=y)


def answer(rng: random.Random, task: Task) -> tuple[str, str]:
    _, _, say, reasons = KINDS[task.slots["kind"]]
    return say.format_map(task.slots), rng.choice(reasons)


def short(rng: random.Random, task: Task) -> str:
    return capital(task.answer)


def claim(task: Task, text: str) -> str | None:
    """The first possible answer that the text names, the word asked about left out."""
    facts = KINDS[task.slots["kind"]][0]
    return first_named(text, tuple(facts.values()), but=task.slots["x"])


def content(task: Task, text: str) -> float:
    return float(claim(task, text) == task.answer)


def passage(rng: random.Random) -> str:
    said, why = answer(rng, draw(rng))
    return f"{said}{BECAUSE}{why}. {capital(answer(rng, draw(rng))[0])}."
