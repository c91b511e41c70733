"""Symbolic equivalence of mathematical answers: 1/2 is 0.5, x + 1 is 1 + x. Needs the package math-verify."""

import logging
import re
import threading
from typing import Any

from rlhf_recipes.rewards.answers import gold_answer, gold_number, marked_answer
from rlhf_recipes.rewards.load import extra
from rlhf_recipes.rewards.messages import Text, column_of, text_of
from rlhf_recipes.rewards.numerals import number_in, plain

_TAIL = 2000  # characters of an answer that are parsed; longer formulas are noise and slow
_DOLLARS = re.compile(r"\$([^$]+)\$")
_WORD = re.compile(r"[a-z]{2,}")
_UPRIGHT = re.compile(r"\\mathrm\{([ei])\}")  # math-verify cannot read an upright e or i


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
            A number may have a unit.
        tag: the XML tag that may hold the answer.
        reward: for an equivalent answer.
        timeout: seconds for parsing one answer, and as many for comparing it; `9^{9^{9}}` then scores 0. math-verify
            uses a signal for this, which works in the main thread only: elsewhere nothing stops an endless formula.

    Returns:
        `reward` or 0.0 a row; None where the gold is None or empty. A gold that math-verify cannot read is right only
        in the same words.

    Raises:
        UserError: math-verify is not installed.

    >>> equivalent(["?"] * 2, [r"So \boxed{1 + x}.", r"\boxed{x}"], answer=["x + 1"] * 2)
    [1.0, 0.0]
    """
    math_verify = extra("math_verify")
    for name in ("parser", "grader"):  # each timeout would log the whole hostile formula
        logging.getLogger(f"math_verify.{name}").setLevel(logging.CRITICAL)
    seconds = timeout if threading.current_thread() is threading.main_thread() else None

    def parsed(answer: str) -> list:
        """Without the strings that math-verify adds: of a formula that it cannot read they may hold the start alone."""
        forms = math_verify.parse(_UPRIGHT.sub(r" \1", answer), parsing_timeout=seconds)
        return [form for form in forms if not isinstance(form, str)]

    def same(gold: str, answer: str) -> bool:
        return math_verify.verify(parsed(gold), parsed(answer), timeout_seconds=seconds)

    def is_right(text: str, gold: object) -> bool:
        number, marked = gold_number(gold), marked_answer(text, tag)
        gold = str(number) if number is not None else gold_answer(gold)
        if marked is not None:  # the common cases, a thousand times faster than parsing
            if number is not None and number_in(marked) == number:
                return True
            if _written(marked) == _written(gold):
                return True
        words, formulas = _parts(gold)
        if not words:
            return same(_boxed(gold), text[-_TAIL:] if marked is None else _boxed(marked[-_TAIL:]))
        own_words, own = _parts((text if marked is None else marked)[-_TAIL:])
        if marked is None:
            own = own[-len(formulas) :]
        elif own_words and own_words != words:
            return False
        return len(own) == len(formulas) and all(map(same, map(_boxed, formulas), map(_boxed, own)))

    golds = column_of(columns, column)
    return [
        None if gold is None or not gold_answer(gold) else reward * is_right(text_of(completion), gold)
        for completion, gold in zip(completions, golds, strict=True)
    ]


def _boxed(answer: str) -> str:
    r"""The answer as math-verify reads it whole: a box may hold words and several formulas in dollar signs."""
    return rf"\boxed{{{answer}}}"


def _written(answer: str) -> list[str]:
    return plain(answer).replace("$", " ").rstrip(". ").split()


def _parts(answer: str) -> tuple[list[str], list[str]]:
    """The words of an answer such as "maximum at $(0,1)$", and its formulas; without dollar signs it is one formula.

    math-verify would read one of the formulas, or multiply the letters of the words.
    """
    parts = _DOLLARS.split(answer)
    if len(parts) == 1:
        return [], parts
    return [word for word in _WORD.findall(" ".join(parts[::2]).lower()) if word not in ("and", "or")], parts[1::2]
