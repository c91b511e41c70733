"""Symbolic equivalence of mathematical answers: 1/2 is 0.5, x + 1 is 1 + x. Needs the package math-verify."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from rlhf_recipes.rewards.answers import gold_answer, marked_answer
from rlhf_recipes.rewards.load import extra
from rlhf_recipes.rewards.messages import Text, column_of, text_of
from rlhf_recipes.rewards.numerals import lone_number, number_in

_TAIL = 2000  # characters of an answer that are parsed; longer formulas are noise and slow


def equivalent(
    prompts: list[Text],
    completions: list[Text],
    *,
    column: str = "final_answer|answer",
    tag: str = "answer",
    reward: float = 1.0,
    timeout: int = 3,
    **columns: Any,
) -> list[float | None]:
    r"""Is the answer mathematically the gold one?

    Args:
        column: the dataset column with the gold answer (LaTeX, a number, or a solution with `\boxed{}` or `####`).
        tag: the XML tag that may hold the answer.
        reward: for an equivalent answer.
        timeout: seconds for parsing one answer, and as many for comparing it; `9^{9^{9}}` then scores 0. math-verify
            uses a signal for this, which works in the main thread only: elsewhere nothing stops an endless formula.

    Returns:
        `reward` or 0.0 a row; None where the gold is None or cannot be parsed.

    Raises:
        UserError: math-verify is not installed.

    >>> equivalent(["?"] * 2, [r"So \boxed{1 + x}.", r"\boxed{x}"], answer=["x + 1"] * 2)
    [1.0, 0.0]
    """
    parse, verify = _math_verify()
    seconds = timeout if threading.current_thread() is threading.main_thread() else None

    def mark(text: str, gold: str) -> float | None:
        marked = marked_answer(text, tag)
        number = None if marked is None else lone_number(gold)
        if number is not None and number_in(marked) == number:
            return reward  # the common case, a thousand times faster than parsing
        target = parse(f"${gold}$", parsing_timeout=seconds)
        if not target:
            return None
        answer = text[-_TAIL:] if marked is None else f"${marked.strip('$')[-_TAIL:]}$"
        return reward * bool(verify(target, parse(answer, parsing_timeout=seconds), timeout_seconds=seconds))

    return [
        None if gold is None else mark(text_of(completion), gold_answer(gold).strip("$"))
        for completion, gold in zip(completions, column_of(columns, column), strict=True)
    ]


def _math_verify() -> tuple[Callable, Callable]:
    math_verify = extra("math_verify")
    for name in ("parser", "grader"):  # each timeout would log the whole hostile formula
        logging.getLogger(f"math_verify.{name}").setLevel(logging.CRITICAL)
    return math_verify.parse, math_verify.verify
