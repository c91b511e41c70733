"""The four rewards of reasoning-format training, with tags of your own choosing.

    <start_working_out> 48 / 2 = 24, 48 + 24 = 72 <end_working_out> <SOLUTION> 72 </SOLUTION>

The chat template usually ends the prompt with the first tag, so a completion may lack it. Source: the reward functions
of Unsloth's GRPO notebooks (Qwen3 4B, 2025); rewards and penalties are theirs, and each one is a kwarg here.
Full marks for a gold answer in this form: 3.0 + 1.5 + 5.0 + 3.5 = 13.0. Each function takes those of the four tags that
it reads.
"""

from fractions import Fraction
from typing import Any

from rlhf_recipes.rewards.answers import gold_answer, gold_number
from rlhf_recipes.rewards.messages import Text, column_of, text_of
from rlhf_recipes.rewards.numerals import number_in

START, END = "<start_working_out>", "<end_working_out>"
SOLUTION, SOLUTION_END = "<SOLUTION>", "</SOLUTION>"


def exact_format(
    prompts: list[Text],
    completions: list[Text],
    *,
    reasoning_start: str = START,
    reasoning_end: str = END,
    solution_start: str = SOLUTION,
    solution_end: str = SOLUTION_END,
    reward: float = 3.0,
    **columns: Any,
) -> list[float]:
    """Reasoning, then a solution that is not empty, then nothing: each tag once, in order. Scores `reward` or 0.

    >>> exact_format(["?"] * 2, ["6 x 12 <end_working_out> <SOLUTION>72</SOLUTION>", "<SOLUTION>72</SOLUTION>"])
    [3.0, 0.0]
    """
    tags = (reasoning_start, reasoning_end, solution_start, solution_end)
    return [reward * (_solution(text_of(completion), *tags) is not None) for completion in completions]


def approximate_format(
    prompts: list[Text],
    completions: list[Text],
    *,
    reasoning_end: str = END,
    solution_start: str = SOLUTION,
    solution_end: str = SOLUTION_END,
    reward: float = 0.5,
    penalty: float = -1.0,
    **columns: Any,
) -> list[float]:
    """A step towards the form: each of these tags earns `reward` if it occurs once, and `penalty` otherwise.

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
    reasoning_start: str = START,
    reasoning_end: str = END,
    solution_start: str = SOLUTION,
    solution_end: str = SOLUTION_END,
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

    def mark(text: str, gold: str) -> float:
        solution = _solution(text, reasoning_start, reasoning_end, solution_start, solution_end)
        if solution is None:
            return no_answer
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
    solution_start: str = SOLUTION,
    solution_end: str = SOLUTION_END,
    reward: float = 3.5,
    wrong: float = -1.5,
    no_number: float = -2.5,
    **columns: Any,
) -> list[float | None]:
    """Is the number after the solution tag the gold one? Units, separators and the other tags do not matter.

    Args:
        column: the dataset column with the gold answer.
        reward: the gold number. wrong: another one. no_number: none at all.

    Returns:
        One of these marks a row; None where the gold is None or holds no number.

    >>> check_number(["?"] * 3, ["<SOLUTION>$1,072.00 in all</SOLUTION>", "<SOLUTION>72", "1072"], answer=["1,072"] * 3)
    [3.5, -1.5, -2.5]
    """
    scores: list[float | None] = []
    for completion, gold in zip(completions, column_of(columns, column), strict=True):
        number = number_in(text_of(completion).partition(solution_start)[2].partition(solution_end)[0])
        target = None if gold is None else gold_number(gold)
        mark = no_number if number is None else reward if number == target else wrong
        scores.append(None if target is None else mark)
    return scores


def _solution(text: str, *tags: str) -> str | None:
    """What stands between the solution's tags; None where the text has not the exact form."""
    parts = [text.strip().removeprefix(tags[0])]
    for tag in tags[1:]:
        before, marked, after = parts.pop().partition(tag)
        if not marked:
            return None
        parts += [before, after]
    *_, solution, after = parts
    formed = solution.strip() and not after.strip() and not any(tag in part for tag in tags for part in parts)
    return solution if formed else None
