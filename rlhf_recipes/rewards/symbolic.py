"""Symbolic equivalence of mathematical answers: 1/2 is 0.5, x + 1 is 1 + x. Needs the package math-verify."""

import logging
import threading
from collections.abc import Callable
from typing import Any

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards.answers import gold_answer, marked_answer
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
        timeout: seconds that parsing and comparing one answer may take each; `9^{9^{9}}` then scores 0. It works by a
            signal, so only in the main thread: elsewhere nothing stops an endless formula.

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
        said = marked_answer(text, tag)
        number = None if said is None else lone_number(gold)
        if number is not None and number_in(said) == number:
            return reward  # the common case, a thousand times faster than parsing
        target = parse(f"${gold}$", parsing_timeout=seconds)
        if not target:
            return None
        said = text[-_TAIL:] if said is None else f"${said.strip('$')[-_TAIL:]}$"
        return reward * bool(verify(target, parse(said, parsing_timeout=seconds), timeout_seconds=seconds))

    return [
        None if gold is None else mark(text_of(completion), gold_answer(gold).strip("$"))
        for completion, gold in zip(completions, column_of(columns, column), strict=True)
    ]


def _math_verify() -> tuple[Callable, Callable]:
    try:
        from math_verify import parse, verify
    except ImportError as error:
        raise UserError(
            "rewards.symbolic:equivalent compares formulas with the package math-verify, which is not installed. "
            "Run: pip install 'math-verify[antlr4_9_3]' (that parser version is the one that Hydra uses), "
            "or take reward=gsm8k, which compares numbers only."
        ) from error
    for name in ("parser", "grader"):  # each timeout would log the whole hostile formula
        logging.getLogger(f"math_verify.{name}").setLevel(logging.CRITICAL)
    return parse, verify
