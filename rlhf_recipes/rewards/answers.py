r"""The final answer in what a model wrote, and the number in it.

If the writer marks the answer, the last mark of the first kind present counts, in this order: `<answer>` tags,
`\boxed{}`, `#### 72`, "the answer is 72", a number in bold. Without a mark the last number counts. math-verify does not
replace this: it reads 123 of the 278 rows in tests/rewards/test_answers.py as meant, at 170 a second.
Every search takes time linear in the text, since completions may be hostile.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from rlhf_recipes.rewards.numerals import (
    CURRENCY,
    NUMBER,
    VULGAR,
    Number,
    denied,
    lone_number,
    number_in,
    plain,
    value_of,
)

_STATEMENT = re.compile(
    r"answer[*_]{0,4}+(?:\s{1,9}+(?:to|for|of|in)\b[^.\n:=]{0,80}?)?[*_]{0,4}+\s{0,9}+"
    r"(?:(?:is|are|equals|would be|will be|should be|comes to|:|=)(?![a-z])|\n)(?!\s*not\b)",
    re.IGNORECASE,
)
_NOT_GIVEN = re.compile(  # "To check the answer: 72 / 2 = 36", "This answer is 3 times 24"
    r"\b(?:(?:check|verify|confirm|test)\w{0,3}\s(?:the|my|our|your)|this|that|above|previous|wrong|incorrect)"
    r"\s(?:final\s)?$",
    re.IGNORECASE,
)
_OPENING = re.compile(r"(?:[\s:*_]|\\\[|\\\(|\$\$|(?<=\n)[-\u2022]\s)*+")
_NUMBER_FIRST = re.compile(
    rf"[\s*_`({{\[{CURRENCY}\\]*(?:[-\u2212\u2013]|minus|negative)?\s?[({{]?\\?[{CURRENCY}]?\s?"
    rf"(?:\.?\d|\\[dtc]?frac|[{''.join(VULGAR)}])"
)
_LIST_ITEM = re.compile(r"[\s*_]*\d+[.)]\s+[A-Za-z]")
_BRACE = re.compile(r"\\.|[{}]")  # in \left\{ the brace is escaped, and no other one need close it
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_SENTENCE = re.compile(r"(?<!i\.e)[.!?](?:\s|$)")
_WITH_UNIT = re.compile(  # "9 apples", "9 (apples)", "5 km/h", "12 cm^2"; not "9 to 5", "June 20" nor "7 Eleven"
    rf"([-+]?[{CURRENCY}]?[\d,./]*\d)\s{{1,3}}"
    r"\(?((?!(?:or|and|to|in|of|x|by|plus|minus|times|if|is|st|nd|rd|th|pi|sqrt|sin|cos|tan|log|ln)\b)"
    r"[a-z][A-Za-z]{1,19}\.?\s?){1,3}(?:/\s?[a-z]{1,9})?(?:\^\{?[23]\}?|[²³])?\)?\.?"
)
_TAIL = 160  # characters that are searched for the last number first, before all of the text
_LAST_OF_A_KIND = 8  # marks of one kind that are tried, from the end


def marked_answer(text: str, tag: str = "answer") -> str | None:
    r"""The words that the writer marks as the answer; None if nothing is marked.

    Args:
        text: a completion. Thinking (`<think>`) is ignored, and a thought that does not end holds no answer.
        tag: name of the XML tag that may hold the answer.

    >>> marked_answer(r"So \boxed{5}? No: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> marked_answer("<answer>\n72\n</answer>"), marked_answer("48 + 24 = 72")
    ('72', None)
    """
    marked = _marked(_after_thinking(text), tag)
    return None if marked is None else marked[0]


def final_number(text: str, tag: str = "answer") -> Number | None:
    r"""The number that a completion answers with; None if it has none, or offers several as the answer.

    >>> [final_number(t) for t in ("The answer is $1,234.50.", r"\boxed{-\frac{3}{4}}", "#### 50%", "so 6 x 12 = 72")]
    [Fraction(2469, 2), Fraction(-3, 4), 50, 72]
    >>> final_number("The answer is 5 or 6.") is None
    True
    """
    text = _after_thinking(text)
    marked = _marked(text, tag)
    if marked is not None:
        span, certain = marked
        number = number_in(span)
        if certain or number is not None or NUMBER.search(plain(span)):
            return number
    return _last_number(text)


def whole_number(span: str) -> int | None:
    """The integer that an answer consists of: digits, sign, separators and currency, and no words.

    >>> whole_number("$1,234"), whole_number("-5."), whole_number("72 clips"), whole_number("7.5")
    (1234, -5, None, None)
    """
    value = lone_number(span)
    return int(value) if value is not None and value == int(value) else None


def same_answer(text: str, gold: str, tag: str = "answer") -> bool:
    """Whether a completion's answer is the gold one: equal numbers, or equal words where the gold is no number.

    >>> same_answer("The answer is 72.0 clips.", "... #### 72"), same_answer("<answer>Paris.</answer>", "paris")
    (True, True)
    """
    number = gold_number(gold)
    if number is not None:
        return final_number(text, tag) == number
    marked = marked_answer(text, tag)
    return _words(text if marked is None else marked) == _words(gold_answer(gold))


def gold_answer(gold: object) -> str:
    r"""The answer in a dataset's own column: behind `####`, in the last `\boxed{}`, or all of it.

    >>> gold_answer("48/2 = 24 clips\n#### 1,072"), gold_answer(72)
    ('1,072', '72')
    """
    gold = str(gold)
    if "####" in gold:
        return gold.rpartition("####")[2].strip()
    return _last_boxed(gold) or gold.strip()


@lru_cache(maxsize=4096)  # a group of completions shares its gold answer
def gold_number(gold: object) -> Number | None:
    """The number in a gold answer: alone, or before its unit. A unit is up to three words that begin with a small
    letter; a word with a capital makes the answer a name.

    >>> [gold_number(gold) for gold in ("1,072", "#### 9 (apples)", "36 square inches", "7 Eleven", "Paris")]
    [1072, 9, 36, None, None]
    """
    answer = gold_answer(gold)
    number = lone_number(answer)
    if number is None and (unit := _WITH_UNIT.fullmatch(plain(answer).strip())):
        number = lone_number(unit[1])
    return number


def _after_thinking(text: str) -> str:
    return text.rpartition("</think>")[2].partition("<think>")[0]


def _marked(text: str, tag: str) -> tuple[str, bool] | None:
    """The marked words, and whether they are the answer for certain: a statement without a number may be prose."""
    _, opened, inner = text.rpartition(f"<{tag}>")
    text = inner.partition(f"</{tag}>")[0].strip() if opened else text
    for span in (_last_boxed(text), _last_hashes(text)):
        if span:
            return span, True
    if statement := _last_statement(text):
        return statement, bool(opened)
    return (text, True) if opened else _last_bold(text)


def _places(text: str, mark: str) -> Iterator[int]:
    """Where a mark stands, from the end."""
    place = len(text)
    for _ in range(_LAST_OF_A_KIND):
        place = text.rfind(mark, 0, place)
        if place < 0:
            return
        yield place


def _last_boxed(text: str) -> str | None:
    for place in _places(text, "\\boxed"):
        rest = text[place + 6 : place + 506].lstrip()
        span = _balanced(rest) if rest.startswith("{") else rest.partition(" ")[0]  # \boxed 5
        if span:
            return span
    return None


def _balanced(text: str) -> str | None:
    """The text between the brace that opens `text` and the brace that closes it."""
    depth = 0
    for brace in _BRACE.finditer(text):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return text[1 : brace.start()].strip()
    return None


def _last_hashes(text: str) -> str | None:
    for place in _places(text, "####"):
        line = text[place + 4 : place + 204].lstrip("# ").partition("\n")[0]
        if _NUMBER_FIRST.match(line) and not _LIST_ITEM.match(line):  # "#### Step 2" and "#### 2. Add" are headings
            return line.strip()
    return None


def _last_statement(text: str) -> str | None:
    lower = text.lower()
    if len(lower) != len(text):  # a few letters change length in lower case, and positions would shift
        lower = text
    wordless = None
    for place in _places(lower, "answer"):
        match = _STATEMENT.match(text, place)
        if match is None or _NOT_GIVEN.search(text, max(0, place - 40), place):
            continue
        start = _OPENING.match(text, match.end()).end()
        line = text[start : start + 200].partition("\n")[0]
        span = _SENTENCE.split(line, maxsplit=1)[0].strip()
        if any(char.isdigit() or char in VULGAR for char in span):
            return span
        wordless = wordless or span or None
    return wordless


def _last_bold(text: str) -> tuple[str, bool] | None:
    if "**" not in text:
        return None
    spans = [m for m in _BOLD.findall(text) if _NUMBER_FIRST.match(m) and not _LIST_ITEM.match(m)]
    return (spans[-1], False) if spans else None


def _last_number(text: str) -> Number | None:
    tail = text[-_TAIL:]
    if len(text) > _TAIL:
        tail = tail.partition(" ")[2]  # do not start within a number
    for part in (tail, text):
        written = plain(part)
        for match in reversed(list(NUMBER.finditer(written))):
            before, after = written[: match.start()], written[match.end() : match.end() + 2]
            numbered = after[:1] in (".", ")") and after[1:].isspace() and not before.rpartition("\n")[2].strip()
            if not numbered and not before[-5:].lower().startswith("step") and not denied(written, match):
                return value_of(match)
        if len(text) <= _TAIL:
            break
    return None


def _words(text: str) -> str:
    return " ".join(plain(text).lower().split()).strip(" .!?$\"'")
