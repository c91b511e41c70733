"""Lists of two, three or four things of a kind."""

import random
from dataclasses import replace

from rlhf_recipes.data.embedded.grammar import Pattern, Task, capital, listed, tokens

NAME = "lists"

KINDS = {
    "fruits": ("apples", "pears", "plums", "lemons", "cherries", "grapes"),
    "animals": ("dogs", "cats", "cows", "horses", "lions", "bears"),
    "colours": ("red", "blue", "green", "yellow", "black", "white"),
    "tools": ("hammers", "saws", "spades", "ropes", "ladders", "nails"),
    "clothes": ("coats", "hats", "shoes", "gloves", "shirts", "socks"),
    "foods": ("bread", "cheese", "soup", "rice", "beans", "fish"),
    "games": ("chess", "football", "tennis", "tag", "golf", "darts"),
}
LIKED = {
    "fruits": ("they are sweet", "they grow in my garden"),
    "animals": ("they are kind to people", "they run so well"),
    "colours": ("they look so bright", "they go well with my coat"),
    "tools": ("they help me build things", "they are easy to use"),
    "clothes": ("they keep me warm", "they fit me well"),
    "foods": ("they taste so good", "they fill me up"),
    "games": ("they are fun to play", "all my friends play them"),
}
NUMBERS = {"two": 2, "three": 3, "four": 4}

PATTERNS = (
    Pattern("List {count} {kind}."),
    Pattern("Name {count} {kind} that you know."),
    Pattern("Give me the names of {count} {kind}."),
    Pattern("Can you think of {count} {kind}?"),
)
SAY = "{count} {kind} are {items}"
BECAUSE = ", and I like them because "


def _task(pattern: Pattern, slots: dict[str, str]) -> Task:
    return Task(NAME, pattern.fill(slots), slots)


def draw(rng: random.Random) -> Task:
    return _task(rng.choice(PATTERNS), {"count": rng.choice(tuple(NUMBERS)), "kind": rng.choice(tuple(KINDS))})


def read(question: str) -> Task | None:
    for pattern in PATTERNS:
        if (slots := pattern.read(question)) and slots["count"] in NUMBERS and slots["kind"] in KINDS:
            return _task(pattern, slots)
    return None


def wrong(rng: random.Random, task: Task) -> Task:
    """Things of another kind."""
    kind = rng.choice([kind for kind in KINDS if kind != task.slots["kind"]])
    return replace(task, slots=task.slots | {"kind": kind})


def answer(rng: random.Random, task: Task) -> tuple[str, str]:
    items = rng.sample(KINDS[task.slots["kind"]], NUMBERS[task.slots["count"]])
    return SAY.format(items=listed(items), **task.slots), rng.choice(LIKED[task.slots["kind"]])


def short(rng: random.Random, task: Task) -> str:
    return capital(rng.choice(KINDS[task.slots["kind"]]))


def content(task: Task, text: str) -> float:
    """Share of the things asked for that are there: different ones, and of the right kind."""
    named = set(tokens(text)) & set(KINDS[task.slots["kind"]])
    wanted = NUMBERS[task.slots["count"]]
    return min(len(named), wanted) / max(len(named), wanted)


def passage(rng: random.Random) -> str:
    said, why = answer(rng, draw(rng))
    return f"{said}{BECAUSE}{why}."
