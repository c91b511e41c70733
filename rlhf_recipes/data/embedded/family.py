"""What a family of questions can do: draw one, read it back, answer it rightly or wrongly."""

import random

from rlhf_recipes.data.embedded.grammar import Pattern, Task, capital

NAMES = ("Tom", "Mia", "Ben", "Anna", "Sam", "Lucy", "Max", "Ella", "Leo", "Nora")
THINGS = ("apples", "pears", "plums", "eggs", "books", "coins", "balls", "cards")
PEOPLE = ("friend", "brother", "sister", "teacher", "neighbour", "doctor", "farmer", "baker", "driver", "child")
LEADS = tuple(f"{name} asks: " for name in NAMES) + tuple(f"Please help {name}. " for name in NAMES)
"""Openings of a question that change nothing in what a right answer is."""


class Family:
    """One sort of question.

    NAME names it; BECAUSE joins a reason to a statement; QUESTIONS holds its patterns, each with what `task` needs.
    The words of all upper-case attributes make up the domain's vocabulary. Each family writes

        slots(rng, *details)   what fills a question, at random
        wrong(rng, task)       the same question with a wrong answer or another topic in its slots
        answer(rng, task)      a statement and a reason for it, both without capital and full stop
        short(rng, task)       an answer of a word or two
        content(task, text)    how much of what was asked for is in the text, 0 to 1
    """

    NAME = ""
    BECAUSE = ", because "
    QUESTIONS: tuple[tuple, ...] = ()

    def task(self, slots: dict, pattern: Pattern, *details) -> Task | None:
        """The task of a question whose slots are filled; None where no question of this family has such slots."""
        return Task(self.NAME, pattern.fill(slots), slots)

    def draw(self, rng: random.Random) -> Task:
        """A question at random."""
        question = rng.choice(self.QUESTIONS)
        return self.task(self.slots(rng, *question[1:]), *question)

    def read(self, question: str) -> Task | None:
        """The task behind a question's text; None where it is not of this family."""
        for pattern, *details in self.QUESTIONS:
            if (slots := pattern.read(question)) and (task := self.task(slots, pattern, *details)):
                return task
        return None

    def passage(self, rng: random.Random) -> str:
        """A piece of plain text for the corpus."""
        statement, why = self.answer(rng, self.draw(rng))
        return f"{statement}{self.BECAUSE}{why}."


class Checkable(Family):
    """A family whose questions have one right answer, `task.answer`.

    `claim(task, text)` is the answer that the text settles on; None where it settles on none.
    """

    def short(self, rng: random.Random, task: Task) -> str:
        return capital(task.answer)

    def content(self, task: Task, text: str) -> float:
        return float(self.claim(task, text) == task.answer)
