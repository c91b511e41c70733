"""The families with one right answer: sums, comparisons, what comes next, small facts."""

# ruff: noqa: RUF012 (the tables are constants)

import re
from dataclasses import replace

from rlhf_recipes.data.embedded.family import NAMES, THINGS, Checkable
from rlhf_recipes.data.embedded.grammar import Pattern, Task, capital, first_named


class Sums(Checkable):
    """Sums and differences of small numbers, bare or as a little story."""

    NAME = "sums"
    QUESTIONS = (  # pattern, operation, statement
        (
            Pattern("{name} has {a} {things} and buys {b} more. How many {things} does {name} have now?"),
            "plus",
            "{name} has {n} {things} now",
        ),
        (
            Pattern("There are {a} {things} in a box and {b} {things} on a table. How many {things} are there?"),
            "plus",
            "there are {n} {things}",
        ),
        (Pattern("What is {a} plus {b}?"), "plus", "the answer is {n}"),
        (
            Pattern("{name} has {a} {things} and loses {b}. How many {things} does {name} have now?"),
            "minus",
            "{name} has {n} {things} now",
        ),
        (Pattern("What is {a} minus {b}?"), "minus", "the answer is {n}"),
    )
    WORKING = "{a} {op} {b} is {n}"
    most = 5  # largest number that is added or taken away

    def task(self, slots, pattern, op, say):
        a, b = int(slots["a"]), int(slots["b"])
        n = str(a + b if op == "plus" else a - b)
        return Task(self.NAME, pattern.fill(slots), slots | {"op": op, "say": say, "n": n}, answer=n)

    def slots(self, rng, op, say):
        a, b = rng.randint(1, self.most), rng.randint(1, self.most)
        a += b if op == "minus" else 0
        return {"name": rng.choice(NAMES), "things": rng.choice(THINGS), "a": str(a), "b": str(b)}

    def wrong(self, rng, task):
        """A miss by one, two or three, or the other operation."""
        right, a, b = int(task.answer), int(task.slots["a"]), int(task.slots["b"])
        misses = {right + step for step in (-3, -2, -1, 1, 2, 3)} | {abs(a - b), a + b}
        n = str(rng.choice(sorted(miss for miss in misses if miss >= 0 and miss != right)))
        return replace(task, slots=task.slots | {"n": n}, answer=n)

    def answer(self, rng, task):
        return task.slots["say"].format_map(task.slots), self.WORKING.format_map(task.slots)

    def claim(self, task, text):
        """The one number left when the operands of a written-out sum are taken away, so that working may be shown."""
        rest = re.sub(r"\d+ (?:plus|minus)(?: \d+)?", " ", text)
        numbers = set(re.findall(r"\d+", rest))
        return numbers.pop() if len(numbers) == 1 else None

    def passage(self, rng):
        """A story with its sum, or four lines of adding or taking away."""
        task = self.draw(rng)
        if " How many" in task.question:
            statement, why = self.answer(rng, task)
            return f"{task.question.split(' How many')[0]} {why}, so {statement}."
        lines = []
        for b in rng.sample(range(1, self.most + 1), 4):
            a = rng.randint(1, self.most)
            lines.append(f"{a} plus {b} is {a + b}." if task.slots["op"] == "plus" else f"{a + b} minus {b} is {a}.")
        return " ".join(lines)


class Compare(Checkable):
    """Which of two numbers, ages or heaps is the larger."""

    NAME = "compare"
    QUESTIONS = (
        (Pattern("Which number is larger, {a} or {b}?"), "{winner} is larger than {loser}"),
        (Pattern("{name} is {a} years old and {other} is {b}. Who is older?"), "{winner} is older than {loser}"),
        (
            Pattern("{name} has {a} {things} and {other} has {b}. Who has more?"),
            "{winner} has more {things} than {loser}",
        ),
    )
    WHY = "{high} is more than {low}"
    numbers = tuple(str(n) for n in range(1, 13))

    def task(self, slots, pattern, say):
        a, b = slots["a"], slots["b"]
        if a == b:
            return None
        (low, loser), (high, winner) = sorted([(int(a), slots.get("name", a)), (int(b), slots.get("other", b))])
        slots = slots | {"say": say, "winner": winner, "loser": loser, "high": high, "low": low}
        return Task(self.NAME, pattern.fill(slots), slots, answer=winner)

    def draw(self, rng):
        pattern, say = rng.choice(self.QUESTIONS)
        slots = dict(zip("ab", rng.sample(self.numbers, 2), strict=True))
        if "{name}" in pattern.text:
            slots["name"], slots["other"] = rng.sample(NAMES, 2)
            slots["things"] = rng.choice(THINGS)
        return self.task(slots, pattern, say)

    def wrong(self, rng, task):
        """The other side, and a reason to match."""
        s = task.slots
        swapped = {"winner": s["loser"], "loser": s["winner"], "high": s["low"], "low": s["high"]}
        return replace(task, slots=s | swapped, answer=s["loser"])

    def answer(self, rng, task):
        return task.slots["say"].format_map(task.slots), self.WHY.format_map(task.slots)

    def claim(self, task, text):
        """Whoever the text names first, or its first number; somebody who was not asked about is a wrong answer."""
        return first_named(text, NAMES if "name" in task.slots else self.numbers)

    def passage(self, rng):
        task = self.draw(rng)
        statement, why = self.answer(rng, task)
        scene = f"{task.question.split(' Who')[0]} " if "Who" in task.question else ""
        return f"{scene}{statement}{self.BECAUSE}{why}."


class Order(Checkable):
    """What comes before or after: days, months, numbers."""

    NAME = "order"
    DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    MONTHS = (
        "January", "February", "March", "April", "May", "June",
        "July", "August", "September", "October", "November", "December",
    )  # fmt: skip
    COUNT = tuple(str(n) for n in range(1, 14))
    QUESTIONS = (  # pattern, sequence, steps, statement
        (Pattern("What day comes after {x}?"), DAYS, 1, "after {x} comes {y}"),
        (Pattern("What day comes before {x}?"), DAYS, -1, "before {x} comes {y}"),
        (Pattern("Today is {x}. What day is it tomorrow?"), DAYS, 1, "tomorrow is {y}"),
        (Pattern("Today is {x}. What day was it yesterday?"), DAYS, -1, "yesterday was {y}"),
        (Pattern("What month comes after {x}?"), MONTHS, 1, "after {x} comes {y}"),
        (Pattern("What number comes after {x}?"), COUNT, 1, "after {x} comes {y}"),
        (Pattern("What number comes before {x}?"), COUNT, -1, "before {x} comes {y}"),
    )
    CALLED = {DAYS: "the week", MONTHS: "the year", COUNT: "the count"}
    GOES = "{called} goes {first}, {second}, {third}"

    def task(self, slots, pattern, sequence, steps, say):
        if (x := slots["x"]) not in sequence:
            return None
        slots = {"x": x, "y": _step(sequence, x, steps), "steps": steps, "sequence": sequence, "say": say}
        return Task(self.NAME, pattern.fill({"x": x}), slots, answer=slots["y"])

    def slots(self, rng, sequence, steps, say):
        return {"x": rng.choice(sequence[1:-2] if sequence is self.COUNT else sequence)}

    def wrong(self, rng, task):
        """A step too far, or the wrong way."""
        sequence, x = task.slots["sequence"], task.slots["x"]
        near = {_step(sequence, x, by) for by in (-2, -1, 1, 2, 3)} - {task.answer, x}
        y = rng.choice(sorted(near))
        return replace(task, slots=task.slots | {"y": y}, answer=y)

    def answer(self, rng, task):
        x, y, sequence, steps = (task.slots[key] for key in ("x", "y", "sequence", "steps"))
        first, second = (x, y) if steps == 1 else (y, x)
        third = _step(sequence, second, 1)
        why = self.GOES.format(called=self.CALLED[sequence], first=first, second=second, third=third)
        return task.slots["say"].format_map(task.slots), why

    def claim(self, task, text):
        """The first member of the sequence that the text names, except the one in the question."""
        return first_named(text, task.slots["sequence"], but=task.slots["x"])


def _step(sequence: tuple[str, ...], item: str, by: int) -> str:
    return sequence[(sequence.index(item) + by) % len(sequence)]


class Facts(Checkable):
    """Small facts: colours, sounds, opposites, young animals."""

    NAME = "facts"
    COLOURS = {
        "the sky": "blue", "the sea": "blue", "grass": "green", "a frog": "green", "snow": "white", "milk": "white",
        "coal": "black", "the night": "black", "a lemon": "yellow", "the sun": "yellow", "blood": "red",
        "a tomato": "red",
    }  # fmt: skip
    SOUNDS = {
        "cow": "moo", "dog": "woof", "cat": "meow", "duck": "quack", "sheep": "baa", "pig": "oink", "bee": "buzz",
        "lion": "roar",
    }  # fmt: skip
    YOUNG = {
        "dog": "puppy", "cat": "kitten", "cow": "calf", "sheep": "lamb", "duck": "duckling", "horse": "foal",
        "bear": "cub", "goat": "kid",
    }  # fmt: skip
    PAIRS = ("hot cold", "big small", "fast slow", "up down", "old new", "wet dry", "rich poor")
    OPPOSITES = {a: b for pair in PAIRS for a, b in (pair.split(), pair.split()[::-1])}
    QUESTIONS = (  # pattern, facts, statement, reasons; asked about {x}, the answer is {y}
        (
            Pattern("What colour is {x}?"),
            COLOURS,
            "{x} is {y}",
            ("that is how it looks in the light", "anyone can see it"),
        ),
        (
            Pattern("What sound does a {x} make?"),
            SOUNDS,
            "a {x} says {y}",
            ("that is how it calls", "that is how it talks to others"),
        ),
        (
            Pattern("What is a young {x} called?"),
            YOUNG,
            "a young {x} is called a {y}",
            ("that is its name on the farm",),
        ),
        (
            Pattern("What is the opposite of {x}?"),
            OPPOSITES,
            "the opposite of {x} is {y}",
            ("nothing can be both at once", "the two are far apart"),
        ),
    )

    def task(self, slots, pattern, facts, say, reasons):
        if (x := slots["x"]) not in facts:
            return None
        slots = {"x": x, "y": facts[x], "facts": facts, "say": say, "reasons": reasons}
        return Task(self.NAME, pattern.fill(slots), slots, answer=facts[x])

    def slots(self, rng, facts, say, reasons):
        return {"x": rng.choice(tuple(facts))}

    def wrong(self, rng, task):
        """The answer to another question of the same sort."""
        y = rng.choice(sorted(set(task.slots["facts"].values()) - {task.answer, task.slots["x"]}))
        return replace(task, slots=task.slots | {"y": y}, answer=y)

    def answer(self, rng, task):
        return task.slots["say"].format_map(task.slots), rng.choice(task.slots["reasons"])

    def claim(self, task, text):
        """The first possible answer that the text names, except the word in the question."""
        return first_named(text, tuple(task.slots["facts"].values()), but=task.slots["x"])

    def passage(self, rng):
        statement, why = self.answer(rng, self.draw(rng))
        return f"{statement}{self.BECAUSE}{why}. {capital(self.answer(rng, self.draw(rng))[0])}."
