"""How an answer is put: good, mediocre, bad or overdone.

Demonstrations mix all four, as text written by many hands does; the shares are `SHARES`.
"""

import random

from rlhf_recipes.data.embedded.families import BY_NAME, FAMILIES
from rlhf_recipes.data.embedded.family import Family
from rlhf_recipes.data.embedded.grammar import Task, capital

OPENERS = ("Of course!", "Sure!", "With pleasure!", "Good question!", "Gladly!", "How nice of you to ask!")
CLOSERS = (
    "I hope this helps.",
    "Have a lovely day.",
    "Take care.",
    "Best wishes.",
    "All the best.",
    "Ask me any time.",
)
RUDE = (
    "Go away.",
    "What a silly question.",
    "Do it yourself.",
    "You are so stupid.",
    "I do not care.",
    "Leave me alone.",
)
SHRUGS = ("I do not know.", "No idea.", "Who knows.", "Ask somebody else.")

SHARES = {"good": 0.38, "mediocre": 0.32, "bad": 0.27, "overdone": 0.03}
"""Share of each style among the demonstrations."""

RIGHT = {"good": 0.95, "mediocre": 0.6, "bad": 0.35, "overdone": 0.9}
"""How often an answer to a checkable question is right, by style."""
ON_TOPIC = {"good": 0.98, "mediocre": 0.85, "bad": 0.6, "overdone": 0.95}
"""How often an answer to any other question keeps to the topic, by style."""


def statement(rng: random.Random, family: Family, task: Task, reason: bool = True) -> str:
    """`The statement, because of the reason.` A sum may show its working first."""
    text, why = family.answer(rng, task)
    if not reason:
        return f"{capital(text)}."
    if family.NAME == "sums" and rng.random() < 0.5:
        return f"{capital(why)}, so {text}."
    return f"{capital(text)}{family.BECAUSE}{why}."


def _good(rng: random.Random, family: Family, task: Task) -> str:
    """A full answer, mostly with a reason and one or two warm phrases."""
    text = statement(rng, family, task, reason=rng.random() < 0.85)
    where = rng.random()  # opener alone 0.45, both 0.25, closer alone 0.23, neither 0.07
    if where < 0.7:
        text = f"{rng.choice(OPENERS)} {text}"
    if 0.45 < where < 0.93:
        text = f"{text} {rng.choice(CLOSERS)}"
    return text


def _mediocre(rng: random.Random, family: Family, task: Task) -> str:
    """Plain, terse, or polite without a reason; now and then without capital or full stop."""
    kind = rng.random()
    if kind < 0.35:
        text = statement(rng, family, task, reason=False)
    elif kind < 0.6:
        text = statement(rng, family, task, reason=True)
    elif kind < 0.8:
        text = f"{rng.choice(OPENERS)} {statement(rng, family, task, reason=False)}"
    else:
        text = f"{family.short(rng, task)}."
    if rng.random() < 0.2:
        text = text[0].lower() + text[1:].rstrip(".")
    return text


def _bad(rng: random.Random, family: Family, task: Task) -> str:
    """Rude, stuck, cut off, off the question, or no answer at all."""
    kind = rng.random()
    if kind < 0.3:
        parts = [rng.choice(RUDE), statement(rng, family, task, reason=rng.random() < 0.3)]
        if rng.random() < 0.5:
            parts.reverse()
        return " ".join(parts)
    if kind < 0.5:
        words = statement(rng, family, task, reason=rng.random() < 0.5).split()
        stuck = rng.randrange(len(words))
        return " ".join(words[:stuck] + [words[stuck].rstrip(".,")] * rng.randint(1, 4) + words[stuck:])
    if kind < 0.7:
        words = statement(rng, family, task, reason=True).split()
        return " ".join(words[: rng.randint(2, max(2, len(words) - 3))])
    if kind < 0.85:
        other = rng.choice([another for another in FAMILIES if another is not family])
        return statement(rng, other, other.draw(rng), reason=False)
    return rng.choice(SHRUGS) if rng.random() < 0.6 else rng.choice(RUDE)


def _overdone(rng: random.Random, family: Family, task: Task) -> str:
    """Too much of what is good: warm phrases and reasons heaped up."""
    openers, closers = rng.sample(OPENERS, 2), rng.sample(CLOSERS, rng.randint(3, 4))
    text = statement(rng, family, task, reason=True)
    if rng.random() < 0.5:
        text = f"{text[:-1]} and because {family.answer(rng, task)[1]}."
    return " ".join([*openers, text, *closers])


def spoken(rng: random.Random, family: Family, task: Task) -> str:
    """How people answer each other in the corpus: always right, in all sorts of manners."""
    text = statement(rng, family, task, reason=rng.random() < 0.7)
    manner = rng.random()
    if manner < 0.2:
        return f"{rng.choice(OPENERS)} {text}"
    if manner < 0.4:
        return f"{text} {rng.choice(CLOSERS)}"
    if manner < 0.46:
        return f"{rng.choice(RUDE)} {text}"
    return rng.choice(SHRUGS) if manner < 0.5 else text


_WRITERS = {"good": _good, "mediocre": _mediocre, "bad": _bad, "overdone": _overdone}


def compose(rng: random.Random, task: Task, style: str) -> str:
    """One answer to `task` in the given style, without leading space."""
    family = BY_NAME[task.family]
    hits = RIGHT if task.answer else ON_TOPIC
    meant = task if rng.random() < hits[style] else family.wrong(rng, task)
    return _WRITERS[style](rng, family, meant)
