"""Advice to somebody who is tired, cold, late and so on."""

import random
from dataclasses import replace

from rlhf_recipes.data.embedded.grammar import Pattern, Task, capital, overlap, tokens
from rlhf_recipes.data.embedded.words import PEOPLE

NAME = "advice"
BECAUSE = ", because "

# how somebody is: what helps, and why
STATES = {
    "tired": (("go to bed early", "sleep gives new strength"), ("rest for an hour", "the body needs a break")),
    "cold": (("wear a thick coat", "wool keeps the wind out"), ("sit near the fire", "the fire is warm")),
    "hungry": (("cook some rice", "a warm meal helps"), ("eat an apple", "fruit is good for you")),
    "thirsty": (("drink some water", "the body needs it"), ("make a pot of tea", "tea feels good")),
    "bored": (("read a new book", "a story makes time fly"), ("learn to paint", "a hobby is fun")),
    "sick": (("see a doctor", "a doctor knows what to do"), ("stay in bed", "rest makes you well")),
    "lost": (("look at a map", "a map shows the way"), ("ask a police officer", "they know every street")),
    "late": (("take the bus", "the bus is fast"), ("call the office", "they want to know")),
    "sad": (("listen to music", "a good song lifts the heart"), ("go for a walk", "fresh air clears the head")),
}

PATTERNS = (
    Pattern("Give advice to a {person} who is {state}."),
    Pattern("My {person} is {state}. What should we do?"),
    Pattern("What would you say to a {person} who is {state}?"),
    Pattern("How can I help a {person} who is {state}?"),
)
SAY = "your {person} should {do}"


def _slots(rng: random.Random) -> dict[str, str]:
    return {"person": rng.choice(PEOPLE), "state": rng.choice(tuple(STATES))}


def _task(pattern: Pattern, slots: dict[str, str]) -> Task:
    return Task(NAME, pattern.fill(slots), slots)


def draw(rng: random.Random) -> Task:
    return _task(rng.choice(PATTERNS), _slots(rng))


def read(question: str) -> Task | None:
    for pattern in PATTERNS:
        if (slots := pattern.read(question)) and slots["state"] in STATES:
            return _task(pattern, slots)
    return None


def wrong(rng: random.Random, task: Task) -> Task:
    """Advice for another trouble, to another person."""
    state = rng.choice([state for state in STATES if state != task.slots["state"]])
    return replace(task, slots={"person": rng.choice(PEOPLE), "state": state})


def answer(rng: random.Random, task: Task) -> tuple[str, str]:
    do, why = rng.choice(STATES[task.slots["state"]])
    return SAY.format(do=do, **task.slots), why


def short(rng: random.Random, task: Task) -> str:
    return capital(rng.choice(STATES[task.slots["state"]])[0])


def content(task: Task, text: str) -> float:
    """Two thirds for advice that helps, one third for naming the person."""
    words = tokens(text)
    helps = max(overlap(words, do) for do, _ in STATES[task.slots["state"]])
    return (2 * helps + overlap(words, task.slots["person"])) / 3


def passage(rng: random.Random) -> str:
    task = draw(rng)
    said, why = answer(rng, task)
    return f"my {task.slots['person']} is {task.slots['state']}. {capital(said)}{BECAUSE}{why}."
