"""The four rewards of reasoning-format training, with tags of your own choosing.

    <start_working_out> 48 / 2 = 24, 48 + 24 = 72 <end_working_out> <SOLUTION> 72 </SOLUTION>

The chat template usually ends the prompt with the first tag, so a completion may lack it. Source: the reward functions
of Unsloth's GRPO notebooks (Qwen3 4B, 2025); rewards and penalties are theirs, and each one is a kwarg here.
Full marks for a gold answer in this form: 3.0 + 1.5 + 5.0 + 3.5 = 13.0.
"""

from fractions import Fraction
from typing import Any, NamedTuple

from rlhf_recipes.rewards.answers import gold_answer, gold_number
from rlhf_recipes.rewards.messages import Text, column_of, text_of
from rlhf_recipes.rewards.numerals import Number, number_in


class Tags(NamedTuple):
    """What surrounds the reasoning and the solution."""

    reasoning_start: str = "<start_working_out>"
    reasoning_end: str = "<end_working_out>"
    solution_start: str = "<SOLUTION>"
    solution_end: str = "</SOLUTION>"


def exact_format(
    prompts: list[Text],
    completions: list[Text],
    *,
    reasoning_start: str = Tags().reasoning_start,
    reasoning_end: str = Tags().reasoning_end,
    solution_start: str = Tags().solution_start,
    solution_end: str = Tags().solution_end,
    reward: float = 3.0,
    **columns: Any,
) -> list[float]:
    """Reasoning, then a solution that is not empty, then nothing: each tag once, in order.

    Args:
        reasoning_start, reasoning_end, solution_start, solution_end: the tags.
        reward: for the exact form.

    >>> exact_format(["?"] * 2, ["6 x 12 <end_working_out> <SOLUTION>72</SOLUTION>", "<SOLUTION>72</SOLUTION>"])
    [3.0, 0.0]
    """
    tags = Tags(reasoning_start, reasoning_end, solution_start, solution_end)
    return [reward * _is_exact(text_of(completion), tags) for completion in completions]


def approximate_format(
    prompts: list[Text],
    completions: list[Text],
    *,
    reasoning_end: str = Tags().reasoning_end,
    solution_start: str = Tags().solution_start,
    solution_end: str = Tags().solution_end,
    reward: float = 0.5,
    penalty: float = -1.0,
    **columns: Any,
) -> list[float]:
    """A step towards the form: a tag earns a reward if it occurs once, and costs a penalty otherwise.

    Args:
        reasoning_end, solution_start, solution_end: the tags counted (the first one is the prompt's).
        reward: for a tag that occurs once.
        penalty: for a tag that does not.

    >>> approximate_format(["?"] * 2, ["6 x 12 <end_working_out> <SOLUTION>72</SOLUTION>", "<SOLUTION>72"])
    [1.5, -1.5]
    """
    tags = (reasoning_end, solution_start, solution_end)
    return [sum(reward if text.count(tag) == 1 else penalty for tag in tags) for text in map(text_of, completions)]


def check_answer(
    prompts: list[Text],
    completions: list[Text],
    *,
    column: str = "final_answer|answer",
    reasoning_start: str = Tags().reasoning_start,
    reasoning_end: str = Tags().reasoning_end,
    solution_start: str = Tags().solution_start,
    solution_end: str = Tags().solution_end,
    exact: float = 5.0,
    stripped: float = 3.5,
    within_10: float = 2.0,
    within_20: float = 1.5,
    wrong: float = -2.5,
    not_a_number: float = -4.5,
    no_answer: float = -2.0,
    **columns: Any,
) -> list[float | None]:
    """How close is the solution to the gold answer? Only a completion in the exact form has a solution.

    Args:
        column: the dataset column with the gold answer, bare or ending `#### 72`.
        reasoning_start, reasoning_end, solution_start, solution_end: the tags.
        exact: the same characters. stripped: the same but for white space around it.
        within_10, within_20: a number off by at most 10 or 20 % of the gold one.
        wrong: any other number. not_a_number: words, where the gold is a number. no_answer: not the exact form.

    Returns:
        One of these marks a row; None where the gold is None.

    >>> solutions = ("72", " 72 ", "75", "85", "9", "many")
    >>> texts = [f"6 x 12 <end_working_out><SOLUTION>{words}</SOLUTION>" for words in solutions]
    >>> check_answer(["?"] * 7, texts + ["72"], answer=["72"] * 7)
    [5.0, 3.5, 2.0, 1.5, -2.5, -4.5, -2.0]
    """
    tags = Tags(reasoning_start, reasoning_end, solution_start, solution_end)

    def mark(text: str, gold: str) -> float:
        if not _is_exact(text, tags):
            return no_answer
        solution = text.partition(solution_start)[2].partition(solution_end)[0]
        if solution.strip() == gold:
            return exact if solution == gold else stripped
        number, target = number_in(solution), gold_number(gold)
        if number is None or target is None:
            return not_a_number if number is None else wrong
        error = Fraction(abs(number - target)) / abs(target) if target else number != target  # of 0 there is no share
        return within_10 if error <= Fraction(1, 10) else within_20 if error <= Fraction(1, 5) else wrong

    golds = column_of(columns, column)
    return [
        None if gold is None else mark(text_of(completion), gold_answer(gold))
        for completion, gold in zip(completions, golds, strict=True)
    ]


def check_number(
    prompts: list[Text],
    completions: list[Text],
    *,
    column: str = "final_answer|answer",
    solution_start: str = Tags().solution_start,
    solution_end: str = Tags().solution_end,
    reward: float = 3.5,
    wrong: float = -1.5,
    no_number: float = -2.5,
    **columns: Any,
) -> list[float | None]:
    """Is the number after the solution tag the gold one? Units, separators and the other tags do not matter.

    Args:
        column: the dataset column with the gold answer.
        solution_start, solution_end: the tags; the second may be missing.
        reward: the gold number. wrong: another one. no_number: none at all.

    Returns:
        One of these marks a row; None where the gold is None or holds no number.

    >>> check_number(["?"] * 3, ["<SOLUTION>$1,072.00 in all</SOLUTION>", "<SOLUTION>72", "1072"], answer=["1,072"] * 3)
    [3.5, -1.5, -2.5]
    """

    def mark(text: str, target: Number) -> float:
        number = number_in(text.partition(solution_start)[2].partition(solution_end)[0])
        return no_number if number is None else reward if number == target else wrong

    targets = [None if gold is None else gold_number(gold) for gold in column_of(columns, column)]
    return [
        None if target is None else mark(text_of(completion), target)
        for completion, target in zip(completions, targets, strict=True)
    ]


def _is_exact(text: str, tags: Tags) -> bool:
    text = text.strip().removeprefix(tags.reasoning_start)
    reasoning, ended, rest = text.partition(tags.reasoning_end)
    before, started, rest = rest.partition(tags.solution_start)
    solution, closed, after = rest.partition(tags.solution_end)
    whole = bool(ended and started and closed) and not after.strip() and bool(solution.strip())
    return whole and not any(tag in part for tag in tags for part in (reasoning, before, solution))
