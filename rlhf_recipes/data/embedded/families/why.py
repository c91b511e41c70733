"""Why people and animals do what they do."""

import random
from dataclasses import replace

from rlhf_recipes.data.embedded.grammar import Pattern, Task, capital, overlap, tokens

NAME = "why"
BECAUSE = " because "

# (who, what they do): why
HABITS = {
    ("people", "wear coats"): ("they want to stay warm", "the wind is cold"),
    ("people", "build houses"): ("they need a safe home", "rain makes them wet"),
    ("people", "plant trees"): ("trees give shade", "they want fresh fruit"),
    ("people", "read books"): ("they like a good story", "they want to learn"),
    ("people", "lock doors"): ("they want to be safe", "they fear a thief"),
    ("children", "go to school"): ("they want to learn", "they meet friends there"),
    ("children", "play games"): ("games are fun", "they like to run"),
    ("children", "sleep at night"): ("they are tired", "the body needs rest"),
    ("farmers", "get up early"): ("the cows need food", "there is a lot of work"),
    ("farmers", "like rain"): ("plants need water", "dry fields give no food"),
    ("birds", "build nests"): ("they lay eggs there", "a nest is a safe home"),
    ("birds", "fly south"): ("winter is too cold", "there is more food there"),
    ("cats", "catch mice"): ("they are hungry", "they like to hunt"),
    ("cats", "climb trees"): ("they look for birds", "dogs cannot follow them"),
    ("dogs", "dig holes"): ("they hide a bone", "they smell a mouse"),
    ("bees", "visit flowers"): ("they make honey", "flowers give them food"),
}

PATTERNS = (
    Pattern("Why do {who} {act}?"),
    Pattern("Tell me why {who} {act}."),
    Pattern("Can you explain why {who} {act}?"),
)
SAY = "{who} {act}"


def _task(pattern: Pattern, who: str, act: str) -> Task:
    return Task(NAME, pattern.fill({"who": who, "act": act}), {"who": who, "act": act})


def draw(rng: random.Random) -> Task:
    return _task(rng.choice(PATTERNS), *rng.choice(tuple(HABITS)))


def read(question: str) -> Task | None:
    for pattern in PATTERNS:
        if (slots := pattern.read(question)) and (slots["who"], slots["act"]) in HABITS:
            return _task(pattern, slots["who"], slots["act"])
    return None


def wrong(rng: random.Random, task: Task) -> Task:
    """Somebody else's habit."""
    who, act = rng.choice([habit for habit in HABITS if habit != (task.slots["who"], task.slots["act"])])
    return replace(task, slots={"who": who, "act": act})


def answer(rng: random.Random, task: Task) -> tuple[str, str]:
    return SAY.format_map(task.slots), rng.choice(HABITS[task.slots["who"], task.slots["act"]])


def short(rng: random.Random, task: Task) -> str:
    return capital(rng.choice(HABITS[task.slots["who"], task.slots["act"]]))


def content(task: Task, text: str) -> float:
    """Half for saying why, a quarter each for who it is about and what they do."""
    words = tokens(text)
    who, act = task.slots["who"], task.slots["act"]
    why = max(overlap(words, why) for why in HABITS[who, act])
    return (2 * why + overlap(words, who) + overlap(words, act)) / 4


def passage(rng: random.Random) -> str:
    said, why = answer(rng, draw(rng))
    return f"{said}{BECAUSE}{why}."
