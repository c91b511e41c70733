r"""Numbers as models write them: signs, separators, currency, units, fractions, powers of ten, LaTeX around them.

A short answer is split at its equals signs, and each side is read alone. A side gives its first number, unless the
writer leaves doubt: an operator, a range or a second candidate follows, or a formula comes before.
Every pattern is bounded or possessive, so that time is linear in the text, since completions may be hostile.
"""

import re
from fractions import Fraction
from itertools import pairwise

Number = int | Fraction

CURRENCY = "$€£¥₹"
VULGAR = {"½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5", "⅗": "3/5", "⅘": "4/5"}
VULGAR |= {"⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8"}
_MIXED = re.compile(rf"(?<=\d)(?=[{''.join(VULGAR)}])")  # 2½
_TYPOGRAPHY = str.maketrans(
    {"\u2212": "-", "\u2013": "-", "\u00a0": "\u202f", "\u2009": "\u202f", "~": "\u202f", "`": "", "\u2044": "/"}
    | VULGAR
)
_SCALE = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MAX_DIGITS = 60  # a longer "number" is noise, and arithmetic on it would be slow

NUMBER = re.compile(
    rf"""
    (?=[\d.+{CURRENCY}-])(?<![\w.)\]])(?<!\d:)            # "48-24" has no minus sign, "-$5" has
    (?:\+|(?P<minus>-))?(?:[{CURRENCY}]\s?)?(?P<inner_minus>-)?
    (?:
        (?P<whole>\d{{1,9}})[\s-](?P<top>\d{{1,9}})/(?P<bottom>\d{{1,9}})           # 1 1/2
      | (?:(?P<comma>(?<![({{\[])  # 12,50 and 1.234,5; not the pairs (12,50) and 1,2, nor the first of 12,50,80
          (?:\d{{1,3}}(?:[.\u202f']\d{{3}}){{1,20}},\d{{1,2}}|\d{{1,9}},\d\d)(?!\d|,\d))
        |(?P<dotted>\d{{1,3}}(?:\.\d{{3}}){{2,20}}(?!\d|[.,]\d))    # 1.234.567
        |(?P<value>\d{{1,2}}(?:,\d\d){{1,9}},\d{{3}}(?:\.\d+)?(?!\d)     # 1,00,000
          |\d{{1,3}}(?:[,_\u202f']\d{{3}}){{1,20}}(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|\.\d+))  # 1,234.50
        (?:[eE](?P<exponent>[+-]?\d{{1,2}})(?!\w)
          |\s?(?:\\times|\\cdot|[\u00d7x*])\s?10\s?\^\s?\{{?(?P<power>-?\d{{1,2}})\}}?
          |\s?/\s?(?P<divisor>-?\d+(?:\.\d+)?))?
        (?:\s(?P<scale>thousand|million|billion|trillion)\b)?
    )
    (?!\.?\d|:\d|_\d|(?:st|nd|rd|th)\b|\s?(?:\^|√|π|\\sqrt|\\pi)|[abinpqrtuvwxyz]\b)  # not 5th, 10:30, 2^8, 2√3, 2x
    """,
    re.VERBOSE,
)

# LaTeX and Markdown
_FRACTION = re.compile(r"\\[dtc]?frac\s*+(?:\{\s*+(-?[\d.,]+)\s*+\}\s*+\{\s*+(-?)([\d.,]+)\s*+\}|(\d)(\d))")
_WORDS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|textit|mbox|underline)\s*+\{([^{}]*)\}")
_DEGREES = re.compile(r"\^?\{?\\(?:circ|degree)\b\}?")
_LATEX_SPACE = re.compile(r"\\(?:[,;: ()\[\]]|(?:displaystyle|quad|textdollar|pounds|euro|bf|rm)(?![A-Za-z]))")
_LATEX_NOTHING = re.compile(r"\\(?:!|(?:left|right)(?![A-Za-z]))")
_EMPHASIS = re.compile(r"(?<![\w)*])[*_]++(?=\S)|(?<=[^\s*_])[*_]++(?![\w(])")  # **72**, but not 7*2, 7 * 2 or 7_2
_TAG = re.compile(r"</?[a-z]{1,10}>")
_GROUPED = re.compile(r"(?<![\w.,/])(?<!\d )\d{1,3}(?: {1,3}\d{3}){1,6}(?! *[\d/]|-)")  # 1 234, once it is the answer

# an answer in words and signs
_CIRCUMSTANCE = "in|after|over|during|within|for|per|at|on|by|from|with|every|each|until|before|than|when|if"
_REASON = re.compile(r"\b(?:because|since|where|given)\b", re.IGNORECASE)
_CLAUSE = re.compile(r"\b(?:because|since|where|given|which|as|when|if)\b", re.IGNORECASE)
_NO_UNIT = rf"{_CIRCUMSTANCE}|out|is|are|was|because|since|which|that|where|given|as|so|then|but|not|or|and|to|of"
_EQUALS = re.compile(r"(?<![<>!])=++>?|≈|\bequals\b|\\approx\b|→|⇒|\\[Rr]ightarrow\b")
_REMARK = re.compile(r"(?<=[\w%°.,$])(?:\s\s{0,3}\(|\((?=[A-Za-z]{2}))(?!\s?or\b)")
_BRACKET = re.compile(r"[()]")
_MINUS = re.compile(rf"(?:(-)|\b(?:minus|negative))[\s({{{CURRENCY}]{{0,5}}$", re.IGNORECASE)
_FORMULA = re.compile(
    r"\\[a-zA-Z]|[√π∞±|≤≥≠]|\b(?:sqrt|log|ln|sin|cos|tan|exp|abs|factorial)\b|[\d)}]\s?\^|\w\($"
    r"|[-+*/\u00d7÷·^<>=][\s({]{0,5}$"
)
_UNFINISHED = re.compile(  # 5!, 5\sqrt{2}, 0.(3), 5 + x, 5/x, (5, ∞)
    r"[)\]}]{0,3}\s{0,3}(?:[!^]|\.?\s?\\[a-zA-Z]|\.?\((?:[-\d]|[a-z]\b)|[-+*\u00d7÷·±]\s{0,3}(?:[({\\√π]|[b-z]\b)"
    r"|/\s{0,3}(?:[(\\]|[nxyz]\b)|,\s{0,3}[-+]?(?:\\infty|∞))"
)
_SUM = re.compile(r"(?:[-+*/\u00d7÷·]|\\[a-z]{1,9}|\b(?:x|times|plus|minus|by))[\s$(\[{]{0,5}$", re.IGNORECASE)
_UNITS = rf"[)\]}}\s%°/{CURRENCY}]*+(?:(?!(?:{_NO_UNIT})\b)[^\W\d_]{{1,20}}+[.%]?\s*+){{0,2}}"
_ALTERNATIVE = re.compile(  # "5 apples or 6", "5 to 10"
    rf"{_UNITS}(?:(?:[,;|&(]|(?:or|and|to|through)\b)[\s$(\[{{]*+){{1,3}}", re.IGNORECASE
)
_SIDE_BY_SIDE = re.compile(rf"{_UNITS}(?:of\s)?[\s$(\[{{]*+", re.IGNORECASE)  # "1 2", "5 feet 6", "6 boxes of 12"
_ASIDE = re.compile(
    rf"(?:\^\{{?|\b(?:{_CIRCUMSTANCE})\s(?:(?:the|all|these|those|first|last|next)\s)?)$", re.IGNORECASE
)
_DENIED = re.compile(r"(?:\bnot|n['\u2019]t)\s(?:\w{1,9}\s)?$", re.IGNORECASE)
_UNKNOWN = re.compile(r"\d[nxyz]\b(?!\s?\d)|(?<![a-z\d])[nxyz]\s?[-+*/^]|[-+*/]\s?[nxyz]\b", re.IGNORECASE)
_ANOTHER = re.compile(r"\s?\w{0,20}\s?(?:[,;]|\band\b)\s?(?:and\s)?[A-Za-z](?:_\w)?\s*+")
_REMARKED = re.compile(rf"{_UNITS}(?:(?:{_CIRCUMSTANCE}|which|that|as|using)\b|[.;,\n])", re.IGNORECASE)
_NEXT_STEP = re.compile(r"\s?\w{0,20}[,;.]?\s(?:and\s)?(?:so|then|thus|hence|therefore|finally|next)\b", re.IGNORECASE)
_RESTATED = re.compile(r"\b(?:i\.\s?e\.?|that is)[,:]?\s{0,3}")


def number_in(span: str) -> Number | None:
    r"""The number that a short answer gives; None if it has none, leaves a sum undone, or offers several.

    Args:
        span: an answer, perhaps with currency, percent sign, units or LaTeX around the number. `50%` reads as 50.

    >>> number_in("x = 1\\,234 \\text{ cm}"), number_in("48 + 24 = 72"), number_in("72 = 8*9")
    (1234, 72, 72)
    >>> number_in("48 + 24"), number_in("5 or 6"), number_in("2\\sqrt{3}")
    (None, None, None)
    """
    text = plain(span)
    alone = _alone(text)
    if alone is not None:
        return alone
    text = _grouped(text)
    first = NUMBER.search(text)
    if first is None:
        return None
    sides = _EQUALS.split(_without_remarks(text, first.end()))
    answer = None
    for place, side in enumerate(sides):
        value, rest, sentence = _read(side, place > 0)
        if value is not None and not (place and _UNKNOWN.search(sides[place - 1])):  # "2x = 10" is not solved yet
            answer = value
        if answer is None or place + 1 == len(sides):
            continue
        if _ANOTHER.fullmatch(rest):  # x = 5, y = 6
            return None
        if _ends(rest, sentence, place > 0):
            break
    return answer


def lone_number(span: str) -> Number | None:
    """The number that an answer consists of: digits, sign, separators, currency, per cent or degrees, and no words.

    >>> lone_number("$1,234"), lone_number("- 5."), lone_number("72 clips")
    (1234, -5, None)
    """
    return _alone(plain(span))


def plain(span: str) -> str:
    """The text without LaTeX, Markdown and typography; digits and signs stay."""
    span = span.replace("{,}", ",")
    if "\\" in span:
        span = _WORDS.sub(r" \1", span.replace("\\$", "$").replace("\\%", "%"))
        span = _DEGREES.sub("°", _FRACTION.sub(_slash, span))
        span = re.sub(r"(?<=\d)\\[,!; ](?=\d{3})", ",", span)
        span = _LATEX_NOTHING.sub("", _LATEX_SPACE.sub(" ", span))
    if "*" in span or "_" in span:
        span = _EMPHASIS.sub("", span)
    if "<" in span:
        span = _TAG.sub("", span)
    if not span.isascii():
        span = _MIXED.sub(" ", span)
    return span if span.isascii() and "`" not in span and "~" not in span else span.translate(_TYPOGRAPHY)


def value_of(match: re.Match[str]) -> Number | None:
    """The value of a match of NUMBER; None for a division by zero, and for more digits than a person writes."""
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
            digits = re.sub(r"[,_\u202f']", "", match["value"])
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


def _slash(match: re.Match[str]) -> str:
    top, bottom = match[1] or match[4], match[3] or match[5]
    if match[2]:  # \frac{3}{-4}
        top = top[1:] if top.startswith("-") else f"-{top}"
    mixed = match.start() > 0 and match.string[match.start() - 1].isdigit()
    return f"{' ' if mixed else ''}{top}/{bottom}"


def _alone(text: str) -> Number | None:
    text = text.lstrip(" \n\t$\u202f").rstrip(" \n\t.$%°\u202f")
    if text.startswith("- "):
        text = "-" + text[2:].lstrip()
    match = NUMBER.fullmatch(_grouped(text)) if len(text) <= _MAX_DIGITS else None
    return None if match is None else value_of(match)


def _grouped(text: str) -> str:
    return _GROUPED.sub(lambda match: re.sub(" +", "\u202f", match[0]), text) if " " in text else text


def _without_remarks(text: str, end: int) -> str:
    """The text without words in parentheses after `end`; `2(3)` and `2 * (3)` stay."""
    kept = text[:end]
    while opening := _REMARK.search(text, end):
        kept += text[end : opening.start()]
        depth, end = 1, len(text)
        for bracket in _BRACKET.finditer(text, opening.end()):
            depth += 1 if bracket[0] == "(" else -1
            if depth == 0:
                end = bracket.end()
                break
    return kept + text[end:]


def _read(side: str, result: bool) -> tuple[Number | None, str, bool]:
    """The number of one side, or None if there is doubt; the words after it; whether the side is a sentence.

    Args:
        result: whether the side comes after an equals sign.
    """
    numbers = [number for number in NUMBER.finditer(side) if not denied(side, number)]
    sentence = bool(numbers) and _is_sentence(side[: numbers[0].start()])
    if sentence and len(numbers) > 1:  # "In 2 months she sold 72, which is 3 times 24"
        numbers = [n for n in numbers if not _ASIDE.search(side, max(0, n.start() - 20), n.start())]
        clause = _CLAUSE.search(side, numbers[0].end()) if numbers else None
        if clause:
            numbers = [number for number in numbers if number.start() < clause.start()]
    if not numbers:
        return None, "", sentence
    rest = side[numbers[0].end() :]
    value = _signed(side, numbers[0])
    if value is None or _UNFINISHED.match(rest):
        return None, rest, sentence
    if "i." in rest or "that is" in rest:
        restated = _restated(side, numbers, value)
        if restated is not None:
            return restated, rest, sentence
    for one, other in pairwise(numbers):
        gap = side[one.end() : other.start()]
        if _SUM.search(gap, max(0, len(gap) - 20)):
            return None, rest, sentence
        if not sentence and not _is_candidate(gap, result):
            break
        if value_of(other) != value:
            return None, rest, sentence
    return value, rest, sentence


def denied(text: str, number: re.Match[str]) -> bool:
    """Whether the writer says that a number is not the answer: "not 5"."""
    return bool(_DENIED.search(text, max(0, number.start() - 20), number.start()))


def _is_sentence(lead: str) -> bool:
    """Whether words lead up to a number, as in "She sold 72": then any other number is a second candidate."""
    return any(map(str.isalpha, lead)) and not lead.rstrip(" $(").endswith(":")


def _signed(side: str, number: re.Match[str]) -> Number | None:
    """A number with a minus sign that stands apart, `- 5` or `-(5)`; None if a formula comes before it."""
    value, lead = value_of(number), side[: number.start()]
    minus = _MINUS.search(lead)
    if minus:
        lead = lead[: minus.start()]
        before = lead.strip(" ({[$")
        if minus[1] and before and not before.endswith(":"):  # x - 5
            return None
        value = None if value is None else -value
    return None if _FORMULA.search(lead) else value


def _is_candidate(gap: str, result: bool) -> bool:
    """Whether a second number behind `gap` competes with the first; a result's units may hold one, "56 6-inch pens"."""
    if len(gap) > 60:
        return False
    return bool(_ALTERNATIVE.fullmatch(gap) or (not result and _SIDE_BY_SIDE.fullmatch(gap)))


def _ends(rest: str, sentence: bool, result: bool) -> bool:
    """Whether the next equals sign belongs to a remark on a complete answer: "72 because x = 3"."""
    if result and _NEXT_STEP.match(rest):  # "48 / 2 = 24, so 48 + 24 = 72"
        return False
    return bool(_REASON.search(rest) or (not sentence and _REMARKED.match(rest)))


def _restated(side: str, numbers: list[re.Match[str]], value: Number) -> Number | None:
    """The same number again, with its sign: "7 below zero, i.e. -7". In "7 hours, i.e. 420" it is a remark."""
    starts = {number.start(): number for number in numbers}
    for restating in _RESTATED.finditer(side, numbers[0].end()):
        again = value_of(starts[restating.end()]) if restating.end() in starts else None
        if again is not None and abs(again) == abs(value):
            return again
    return None
