"""The families of questions, a module each.

A family module holds NAME, BECAUSE (how a reason is joined to a statement) and these functions:

    draw(rng) -> Task                    a question at random
    read(question) -> Task | None        the task behind a question's text, None where it is not of this family
    wrong(rng, task) -> Task             the same question, with a wrong answer or another topic in its slots
    answer(rng, task) -> (str, str)      a statement and a reason for it, both without capital and full stop
    short(rng, task) -> str              an answer of a word or two
    content(task, text) -> float         0 to 1: how much of what was asked for is in the text
    claim(task, text) -> str | None      checkable families only: the answer the text settles on
    passage(rng) -> str                  a piece of plain text for the corpus
"""

from rlhf_recipes.data.embedded.families import (
    advice,
    compare,
    facts,
    lists,
    message,
    order,
    sentence,
    sums,
    why,
)

FAMILIES = (sums, compare, order, facts, lists, sentence, message, advice, why)
BY_NAME = {family.NAME: family for family in FAMILIES}
CHECKABLE = tuple(family.NAME for family in FAMILIES if hasattr(family, "claim"))
