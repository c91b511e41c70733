"""Short notes: thanks, apologies, invitations."""

import random
from dataclasses import replace

from rlhf_recipes.data.embedded.grammar import Pattern, Task, capital, overlap, tokens
from rlhf_recipes.data.embedded.words import PEOPLE

NAME = "message"
BECAUSE = ", because "

GIFTS = {
    "the book": ("I read it every night", "it was full of wonder"),
    "the cake": ("it tasted so good", "everyone loved it"),
    "the scarf": ("it keeps me warm", "I wear it every day"),
    "the flowers": ("they smell so fresh", "they make the room bright"),
    "the lesson": ("I learned so much", "it made things clear"),
    "the soup": ("I was cold and hungry", "it made me feel well"),
}
FAULTS = {
    "the noise": ("we had a party", "the dog would not sleep"),
    "the broken cup": ("it fell from my hand", "I was in a hurry"),
    "the lost key": ("my pocket has a hole", "I forgot where I put it"),
    "the dirty floor": ("my shoes were wet", "I forgot to sweep it"),
    "the mistake": ("I did not read with care", "I was too tired to think"),
}
EVENTS = {
    "a party": ("there will be music", "it is my birthday"),
    "a picnic": ("the weather is good", "we have a big basket"),
    "a walk": ("the forest is green now", "the air is fresh"),
    "dinner": ("we have a big fish", "we want to see you"),
    "a wedding": ("two friends will marry", "the whole family will be there"),
}
# (what for and why, key word, answer, questions)
KINDS = (
    (GIFTS, "thank", "dear {person}, I thank you for {what}",
     (Pattern("Say thank you to a {person} for {what}."), Pattern("Write a note to thank a {person} for {what}."))),
    (FAULTS, "sorry", "dear {person}, I am sorry for {what}",
     (Pattern("Say sorry to a {person} for {what}."), Pattern("Write a note to a {person} to say sorry for {what}."))),
    (EVENTS, "come", "dear {person}, please come to {what}",
     (Pattern("Invite a {person} to {what}."), Pattern("Write a note to ask a {person} to {what}."))),
)  # fmt: skip


def _task(kind: int, pattern: Pattern, slots: dict[str, str]) -> Task:
    return Task(NAME, pattern.fill(slots), slots | {"kind": kind})


def draw(rng: random.Random) -> Task:
    kind = rng.randrange(len(KINDS))
    whats, _, _, patterns = KINDS[kind]
    return _task(kind, rng.choice(patterns), {"person": rng.choice(PEOPLE), "what": rng.choice(tuple(whats))})


def read(question: str) -> Task | None:
    for kind, (whats, _, _, patterns) in enumerate(KINDS):
        for pattern in patterns:
            if (slots := pattern.read(question)) and slots["what"] in whats:
                return _task(kind, pattern, slots)
    return None


def wrong(rng: random.Random, task: Task) -> Task:
    """A note to somebody else about something else."""
    kind = rng.randrange(len(KINDS))
    what = rng.choice([what for what in KINDS[kind][0] if what != task.slots["what"]])
    return replace(task, slots={"kind": kind, "what": what, "person": rng.choice(PEOPLE)})


def answer(rng: random.Random, task: Task) -> tuple[str, str]:
    whats, _, say, _ = KINDS[task.slots["kind"]]
    return say.format_map(task.slots), rng.choice(whats[task.slots["what"]])


def short(rng: random.Random, task: Task) -> str:
    return capital(KINDS[task.slots["kind"]][1])


def content(task: Task, text: str) -> float:
    """A third each for whom it is to, what it is for, and the word that makes it a note of its kind."""
    words = tokens(text)
    wanted = (task.slots["person"], task.slots["what"], KINDS[task.slots["kind"]][1])
    return sum(overlap(words, phrase) for phrase in wanted) / 3


def passage(rng: random.Random) -> str:
    said, why = answer(rng, draw(rng))
    return f"{said}{BECAUSE}{why}."
