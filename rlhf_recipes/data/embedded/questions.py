"""The domain's prompts as the trainers take them."""

from rlhf_recipes.data.formats.rows import Drop, Prompt
from rlhf_recipes.data.formats.turns import prompt_of


def question(prompt, answer=None, *, checkable: bool = False) -> Prompt:
    """A question of the embedded domain.

    Args:
        checkable: only questions whose answer can be checked (sums, compare, order, facts), for `reward=exact`.
    """
    if checkable and answer is None:
        raise Drop("nothing to check")
    return {"prompt": prompt_of(prompt)}
