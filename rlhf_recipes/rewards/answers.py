r"""The final answer in what a model wrote, and the number in it.

Where the writer says which words are the answer, those are taken, the last of their kind, in this order: `<answer>`
tags, `\boxed{}`, `#### 72`, "the answer is 72", a number in bold. Without any of these the last number counts.
Every search is linear in the text: completions are hostile input too.
"""

import re
from fractions import Fraction
from functools import lru_cache

Number = int | Fraction

_CURRENCY = "$€£¥₹"
_VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5"}
_VULGAR |= {"⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
_MIXED = re.compile(rf"(?<=\d)(?=[{''.join(_VULGAR)}])")  # 2½
_TYPOGRAPHY = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u00a0": "\u202f", "\u2009": "\u202f", "*": "", "`": "", "_": "", "\u2044": "/"}
    | _VULGAR
)
_SCALE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MAX_DIGITS = 60  # a longer "number" is noise, and arithmetic on it would be slow

_NUMBER = re.compile(
    rf"""
    (?<![\w.)\]])(?<!\d:)                                  # "48-24" has no minus sign, "-$5" has
    (?:\+|(?P<minus>-))?(?:[{_CURRENCY}]\s?)?(?P<inner_minus>-)?
    (?:
        (?P<whole>\d{{1,9}})[\s-](?P<top>\d{{1,9}})/(?P<bottom>\d{{1,9}})           # 1 1/2
      | (?:(?P<comma>(?<![({{\[])  # 12,50 and 1.234,5; not the pairs (12,50) and 1,2, nor the first of 12,50,80
          (?:\d{{1,3}}(?:[.\u202f']\d{{3}})+,\d{{1,2}}|\d{{1,9}},\d\d)(?!\d|,\d))
        |(?P<dotted>\d{{1,3}}(?:\.\d{{3}}){{2,}}(?!\d|[.,]\d))    # 1.234.567
        |(?P<value>\d{{1,3}}(?:[,\u202f']\d{{3}})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|\.\d+))  # 1,234.50
        (?:[eE](?P<exponent>[+-]?\d{{1,2}})(?!\w)
          |\s?(?:\\times|\\cdot|[\u00d7x*])\s?10\s?\^\s?\{{?(?P<power>-?\d{{1,2}})\}}?
          |\s?/\s?(?P<divisor>\d+(?:\.\d+)?))?
        (?:\s(?P<scale>thousand|million|billion|trillion)\b)?
    )
    (?!\.?\d|:\d|(?:st|nd|rd|th)\b|\s?(?:\^|√|π|\\sqrt|\\pi)|[abcinpqrtuvwxyz]\b)  # not 5th, 10:30, 2^8, 2√3 or 2x
    """,
    re.VERBOSE,
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{\s*(-?[\d.,]+)\s*\}\s*\{\s*([\d.,]+)\s*\}|(\d)(\d))")
_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mbox)\s*\{([^{}]*)\}")
_LATEX_SPACE = re.compile(r"\\(?:[,!;: ()\[\]]|left|right|displaystyle|quad)")
_STATEMENT = re.compile(
    r"answer[*_]{0,4}+(?:\s{1,9}+(?:to|for|of|in)\b[^.\n:=]{0,80}?)?[*_]{0,4}+\s{0,9}+"
    r"(?:(?:is|are|equals|would be|will be|should be|comes to|:|=)(?![a-z])|\n)(?!\s*not\b)",
    re.IGNORECASE,
)
_OPENING = re.compile(r"(?:[\s:*_]|\\\[|\\\(|\$\$)*")
_NUMBER_FIRST = re.compile(
    rf"[\s*_`({{\[{_CURRENCY}\\]*[-\u2212\u2013]?\s?\\?[{_CURRENCY}]?\s?"
    rf"(?:\.?\d|\\[dtc]?frac|[{''.join(_VULGAR)}])"
)
_LIST_ITEM = re.compile(r"[\s*_]*\d+[.)]\s+[A-Za-z]")
_BOLD = re.compile(r"\*\*([^*\n]{1,60})\*\*")
_ALTERNATIVES = re.compile(r"[\s$%\\]*(?:,|;|\bor\b|\band\b|\|)[\s$\\]*(?:or\b|and\b)?\s*")
_RESTATED = re.compile(r"\b(?:i\.\s?e\.?|that is)[,:]?\s*")
_SENTENCE = re.compile(r"(?<!i\.e)[.!?](?:\s|$)")
_FORMULA = re.compile(r"\\sqrt|√|π|\\pi\b|[\d)}]\s?\^")  # in front of a number, it is only part of the answer
_TAIL = 160  # characters searched for the last number before all of the text is
_LAST_OF_A_KIND = 8  # how many markers of one kind are tried, from the end


def marked_answer(text: str, tag: str = "answer") -> str | None:
    r"""The words the writer marks as the answer; None where nothing is marked.

    Args:
        text: a completion. Thinking (`<think>`) is left out, and a thought that never ends holds no answer.
        tag: the name of the XML tag that may hold the answer.

    >>> marked_answer(r"So \boxed{5}? No: \boxed{\frac{1}{2}}.")
    '\\frac{1}{2}'
    >>> marked_answer("<answer>\n72\n</answer>"), marked_answer("48 + 24 = 72")
    ('72', None)
    """
    found = _marked(_after_thinking(text), tag)
    return None if found is None else found[0]


def final_number(text: str, tag: str = "answer") -> Number | None:
    r"""The number a completion answers with; None where there is none, or where several are offered as the answer.

    >>> [final_number(t) for t in ("The answer is $1,234.50.", r"\boxed{-\frac{3}{4}}", "#### 50%", "so 6 x 12 = 72")]
    [Fraction(2469, 2), Fraction(-3, 4), 50, 72]
    >>> final_number("The answer is 5 or 6.") is None
    True
    """
    text = _after_thinking(text)
    found = _marked(text, tag)
    if found is not None:
        span, certain = found
        numbers = list(_NUMBER.finditer(_plain(span)))
        if numbers or certain:
            return number_in(span)
    return _last_number(text)


def number_in(span: str) -> Number | None:
    r"""The number in a short answer: behind its last equals sign if there is one, else the first.

    Args:
        span: an answer, perhaps with currency, percent sign, units or LaTeX around the number. `50%` reads as 50.

    >>> number_in("x = 1\\,234 \\text{ cm}"), number_in("48 + 24 = 72"), number_in("2\\sqrt{3}")
    (1234, 72, None)
    """
    span = _plain(span)
    for sign in ("=", "≈", "\\approx"):
        _, found, right = span.rpartition(sign)
        if found and _NUMBER.search(right):
            span = right
    numbers = list(_NUMBER.finditer(span))
    if not numbers:
        return None
    first = _value(numbers[0])
    if len(numbers) > 1 and _ALTERNATIVES.fullmatch(span, numbers[0].end(), numbers[1].start()):
        return first if first == _value(numbers[1]) else None
    if "i." in span or "that is" in span:
        first = _restated(span, numbers, first)
    return None if _FORMULA.search(span, 0, numbers[0].start()) else first


def _restated(span: str, numbers: list[re.Match[str]], first: Number | None) -> Number | None:
    """The number once more, with its sign: "7 below zero, i.e. -7". Another one, "7 hours, i.e. 420", is a remark."""
    starts = {number.start(): number for number in numbers}
    for restating in _RESTATED.finditer(span, numbers[0].end()):
        value = _value(starts[restating.end()]) if restating.end() in starts else None
        if None not in (first, value) and abs(first) == abs(value):
            return value
    return first


def whole_number(span: str) -> int | None:
    """The integer that an answer consists of: digits, sign, separators and currency, and no words.

    >>> whole_number("$1,234"), whole_number("-5."), whole_number("72 clips"), whole_number("7.5")
    (1234, -5, None, None)
    """
    match = _NUMBER.fullmatch(_plain(span).strip(" \n\t.$%\u202f"))
    value = None if match is None else _value(match)
    return int(value) if value is not None and value == int(value) else None


def same_answer(text: str, gold: str, tag: str = "answer") -> bool:
    """Whether a completion's answer is the gold one: equal numbers, or equal words where the gold is no number.

    >>> same_answer("The answer is 72.0 clips.", "... #### 72"), same_answer("<answer>Paris.</answer>", "paris")
    (True, True)
    """
    number, words = _gold(gold)
    if number is not None:
        return final_number(text, tag) == number
    said = marked_answer(text, tag)
    return _words(text if said is None else said) == words


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
def _gold(gold: object) -> tuple[Number | None, str]:
    answer = gold_answer(gold)
    match = _NUMBER.fullmatch(_plain(answer).strip(" .$%"))
    return (None if match is None else _value(match)), _words(answer)


def _after_thinking(text: str) -> str:
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    return text.partition("<think>")[0] if "<think>" in text else text


def _marked(text: str, tag: str) -> tuple[str, bool] | None:
    """The marked words, and whether the mark is certain (a statement without a number may be mere prose)."""
    start = text.rfind(f"<{tag}>")
    inner = None
    if start >= 0:
        inner = text[start + len(tag) + 2 :].partition(f"</{tag}>")[0].strip()
        text = inner
    for span in (_last_boxed(text), _last_hashes(text)):
        if span:
            return span, True
    if statement := _last_statement(text):
        return statement, inner is not None
    if inner is not None:
        return inner, True
    return _last_bold(text)


def _last_boxed(text: str) -> str | None:
    end = len(text)
    for _ in range(_LAST_OF_A_KIND):
        end = text.rfind("\\boxed", 0, end)
        if end < 0:
            return None
        rest = text[end + 6 : end + 506].lstrip()
        span = _balanced(rest) if rest.startswith("{") else rest.partition(" ")[0]  # \boxed 5
        if span:
            return span
    return None


def _balanced(text: str) -> str | None:
    """What stands between the brace that opens `text` and its own closing one."""
    depth = 0
    for i, char in enumerate(text):
        if char == "{":
            depth += 1
        elif char == "}":
            depth -= 1
            if depth == 0:
                return text[1:i].strip()
    return None


def _last_hashes(text: str) -> str | None:
    end = len(text)
    for _ in range(_LAST_OF_A_KIND):
        end = text.rfind("####", 0, end)
        if end < 0:
            return None
        line = text[end + 4 : end + 204].lstrip("# ").partition("\n")[0]
        if _NUMBER_FIRST.match(line) and not _LIST_ITEM.match(line):  # "#### Step 2" and "#### 2. Add" are headings
            return line.strip()
    return None


def _last_statement(text: str) -> str | None:
    lower = text.lower()
    if len(lower) != len(text):  # a few letters change length in lower case, and places would shift
        lower = text
    end, wordless = len(text), None
    for _ in range(_LAST_OF_A_KIND):
        end = lower.rfind("answer", 0, end)
        if end < 0:
            break
        match = _STATEMENT.match(text, end)
        if match is None:
            continue
        start = _OPENING.match(text, match.end()).end()
        line = text[start : start + 200].partition("\n")[0]
        span = _SENTENCE.split(line, maxsplit=1)[0].strip()
        if any(char.isdigit() or char in _VULGAR for char in span):
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
        plain = _plain(part)
        for match in reversed(list(_NUMBER.finditer(plain))):
            before, after = plain[: match.start()], plain[match.end() : match.end() + 2]
            numbered = after[:1] in (".", ")") and after[1:].isspace() and not before.rpartition("\n")[2].strip()
            if not numbered and not before[-5:].lower().startswith("step"):
                return _value(match)
        if len(text) <= _TAIL:
            break
    return None


def _plain(span: str) -> str:
    """LaTeX and typography taken off, digits and signs kept."""
    span = span.replace("{,}", ",")
    if "\\" in span:
        span = _WORDS.sub(r" \1", span.replace("\\$", "$").replace("\\%", "%"))
        span = _FRACTION.sub(_slash, span)
        span = re.sub(r"(?<=\d)\\[,!; ](?=\d{3})", ",", span)
        span = _LATEX_SPACE.sub("", span)
    if span.isascii():
        return span.translate(_TYPOGRAPHY) if "*" in span or "`" in span or "_" in span else span
    return _MIXED.sub(" ", span).translate(_TYPOGRAPHY)


def _slash(match: re.Match[str]) -> str:
    top, bottom = match.group(1) or match.group(3), match.group(2) or match.group(4)
    mixed = match.start() > 0 and match.string[match.start() - 1].isdigit()
    return f"{' ' if mixed else ''}{top}/{bottom}"


def _value(match: re.Match[str]) -> Number | None:
    if match.end() - match.start() > _MAX_DIGITS:
        return None
    minus = (match["minus"] is None) != (match["inner_minus"] is None)
    if match["whole"]:
        if int(match["bottom"]) == 0:
            return None
        value = int(match["whole"]) + Fraction(int(match["top"]), int(match["bottom"]))
    else:
        if match["comma"]:
            digits = re.sub(r"[.\u202f']", "", match["comma"]).replace(",", ".")
        elif match["dotted"]:
            digits = match["dotted"].replace(".", "")
        else:
            digits = match["value"].replace(",", "").replace("\u202f", "").replace("'", "")
        value = Fraction(digits) if "." in digits else int(digits)
        exponent = match["exponent"] or match["power"]
        if exponent:
            value *= Fraction(10) ** int(exponent)
        if match["divisor"]:
            divisor = Fraction(match["divisor"])
            if divisor == 0:
                return None
            value = Fraction(value) / divisor
        value *= _SCALE.get(match["scale"], 1)
    return -value if minus else value


def _words(text: str) -> str:
    return " ".join(_plain(text).lower().split()).strip(" .!?$\"'")
