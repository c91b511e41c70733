"""The nine families of questions."""

from rlhf_recipes.data.embedded.checkable import Compare, Facts, Order, Sums
from rlhf_recipes.data.embedded.family import Checkable
from rlhf_recipes.data.embedded.open_ended import Advice, Lists, Message, Sentence, Why

FAMILIES = (Sums(), Compare(), Order(), Facts(), Lists(), Sentence(), Message(), Advice(), Why())
BY_NAME = {family.NAME: family for family in FAMILIES}
CHECKABLE = tuple(family.NAME for family in FAMILIES if isinstance(family, Checkable))
TAUGHT = FAMILIES + tuple(family for family in FAMILIES[:4] for _ in range(2))
"""Families as often as the corpus speaks of them: what can be checked takes the longest to learn."""
