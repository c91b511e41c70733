"""One sentence about an animal in a place."""

import random
from dataclasses import replace

from rlhf_recipes.data.embedded.grammar import Pattern, Task, overlap, tokens

NAME = "sentence"
BECAUSE = " because "

ANIMALS = (
    "cat", "dog", "horse", "duck", "mouse", "bird", "cow", "fox", "frog", "goat",
)  # fmt: skip
LOOKS = ("small", "big", "black", "white", "quiet", "lazy", "hungry")
PLACES = (
    "in the kitchen", "in the garden", "on the farm", "in the forest", "at the market",
    "on the beach", "in the barn", "in the park", "at the station", "on the hill",
)  # fmt: skip
ACTS = {
    "sleeps": ("it is tired", "it ran all morning"),
    "plays": ("the sun is out", "it found a ball"),
    "hides": ("it heard a noise", "it is afraid of the rain"),
    "waits": ("it wants some food", "it misses its friend"),
    "sits": ("it likes the view", "its legs are sore"),
    "runs": ("it saw a bird", "it is full of joy"),
    "eats": ("it found some bread", "it is time for dinner"),
}

PATTERNS = (
    Pattern("Write one sentence about a {look} {animal} {place}."),
    Pattern("Tell me something about a {look} {animal} {place}."),
    Pattern("Make up a line about a {look} {animal} {place}."),
)
SAY = "a {look} {animal} {act} {place}"


def _slots(rng: random.Random) -> dict[str, str]:
    return {"look": rng.choice(LOOKS), "animal": rng.choice(ANIMALS), "place": rng.choice(PLACES)}


def _task(pattern: Pattern, slots: dict[str, str]) -> Task:
    return Task(NAME, pattern.fill(slots), slots)


def draw(rng: random.Random) -> Task:
    return _task(rng.choice(PATTERNS), _slots(rng))


def read(question: str) -> Task | None:
    for pattern in PATTERNS:
        if slots := pattern.read(question):
            return _task(pattern, slots)
    return None


def wrong(rng: random.Random, task: Task) -> Task:
    """Another animal in another place."""
    return replace(task, slots=_slots(rng))


def answer(rng: random.Random, task: Task) -> tuple[str, str]:
    act = rng.choice(tuple(ACTS))
    return SAY.format(act=act, **task.slots), rng.choice(ACTS[act])


def short(rng: random.Random, task: Task) -> str:
    return "A {animal}".format(**task.slots)


def content(task: Task, text: str) -> float:
    """A third each for the animal, how it looks, and the place."""
    words = tokens(text)
    return sum(overlap(words, task.slots[slot]) for slot in ("look", "animal", "place")) / 3


def passage(rng: random.Random) -> str:
    said, why = answer(rng, draw(rng))
    return f"{said}{BECAUSE}{why}."
