"""Rewards for how a text is written: length, repetition, script, language, required and forbidden words, JSON."""

import json
import re
import unicodedata
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from rlhf_recipes.errors import RowError, UserError
from rlhf_recipes.rewards.load import extra
from rlhf_recipes.rewards.messages import Text, column_of, text_of

_SCRIPTS = "latin, cyrillic, greek, arabic, hebrew, devanagari, thai, hangul, hiragana, katakana, cjk"
_SURE = 0.3  # probability among py3langid's 140 languages; "Ok!" has 0.03, ten words of prose more than 0.9
_UNITS = ("words", "characters", "tokens")
# kana, Han and their marks: Chinese and Japanese put no spaces between words (Korean does)
_UNSPACED = re.compile(
    "[\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff]"
)
_WORD = re.compile(rf"{_UNSPACED.pattern}|(?:(?!{_UNSPACED.pattern})\S)+")
_FENCE = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)


def length(
    prompts: list[Text], completions: list[Text], *, unit: str = "words", per: float = 100.0, **columns: Any
) -> list[float]:
    """The length in hundreds: a metric at weight 0, a penalty on length at a negative weight.

    Args:
        unit: words, characters, or tokens (of `completion_ids`).
        per: the length that scores 1.0.

    >>> length(["?"], ["one two three"], per=1)
    [3.0]
    """
    return [count / per for count in _lengths(completions, unit, columns)]


def length_target(
    prompts: list[Text], completions: list[Text], *, target: float, width: float, unit: str = "words", **columns: Any
) -> list[float]:
    """1 at the target length, falling evenly to 0 at `width` away from it on either side.

    Args:
        target, width: in units.
        unit: words, characters or tokens.

    >>> length_target(["?"] * 3, ["a b c d", "a b", ""], target=4, width=4)
    [1.0, 0.5, 0.0]
    """
    if width <= 0:
        raise UserError(f"kwargs.width is {width}; it must be above 0.")
    return [max(0.0, 1.0 - abs(count - target) / width) for count in _lengths(completions, unit, columns)]


def repetition(prompts: list[Text], completions: list[Text], *, n: int = 3, **columns: Any) -> list[float]:
    """Minus the share of n-grams of words that occurred in the text before: 0 for none, towards -1 for a loop.

    Args:
        n: words in a gram; a character of Chinese or Japanese is a word. A text shorter than n words scores 0.

    Source: the penalty of "Demystifying Long Chain-of-Thought", arXiv:2502.03373, appendix C.2, for a whole text.

    >>> repetition(["?"] * 2, ["the cat sat on the mat", "ha ha ha ha ha ha"], n=2)
    [0.0, -0.8]
    """
    scores = []
    for completion in completions:
        words = words_of(text_of(completion).lower())
        grams = list(zip(*(words[i:] for i in range(n)), strict=False))
        scores.append((len(set(grams)) - len(grams)) / len(grams) if grams else 0.0)
    return scores


def script(prompts: list[Text], completions: list[Text], *, script: str, **columns: Any) -> list[float | None]:
    """The share of letters in one script (`_SCRIPTS`); None for a text without letters.

    >>> script(["?"] * 2, ["Straße", "да da"], script="latin")
    [1.0, 0.5]
    """
    if script not in _SCRIPTS.split(", "):
        raise UserError(f"kwargs.script is {script!r}; choose one of {_SCRIPTS}.")
    letters = [list(filter(None, map(_script_of, filter(str.isalpha, text_of(c))))) for c in completions]
    return [scripts.count(script) / len(scripts) if scripts else None for scripts in letters]


def language(prompts: list[Text], completions: list[Text], *, language: str, **columns: Any) -> list[float | None]:
    """Is the text in one language? By py3langid, whose model comes with the package.

    A mixed text counts as its most frequent language.

    Args:
        language: an ISO 639-1 code, as en, de or zh.

    Returns:
        1.0 or 0.0 a row; None where the text gives too little evidence ("Ok!", a formula).

    Raises:
        UserError: an unknown language, or py3langid is not installed.

    >>> language(["?"] * 2, ["The cat is on the mat.", "Die Katze ist auf dem Dach."], language="en")
    [1.0, 0.0]
    """
    identifier = _identifier()
    if language not in identifier.labels:
        raise UserError(
            f"kwargs.language is {language!r}; choose one of en, de, fr, zh, … (ISO 639-1) that py3langid tells."
        )
    guesses = [identifier.classify(text_of(completion)) for completion in completions]
    return [float(guess == language) if probability >= _SURE else None for guess, probability in guesses]


@lru_cache(maxsize=1)
def _identifier():
    langid = extra("py3langid.langid")
    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


def keywords(
    prompts: list[Text],
    completions: list[Text],
    *,
    required: str | tuple[str, ...] | list[str] = (),
    forbidden: str | tuple[str, ...] | list[str] = (),
    column: str = "",
    ignore_case: bool = True,
    **columns: Any,
) -> list[float | None]:
    """The share of required words that the text has; 0 if it has a forbidden one.

    Args:
        required: whole words or phrases, or a single one. Without any, a text without a forbidden word scores 1.0.
        forbidden: words or phrases; one of them is enough for 0.
        column: a dataset column with more required words for its row: one word, a list, or None (the reward does not
            apply).
        ignore_case: whether Paris is paris.

    >>> keywords(["?"] * 2, ["Paris, France", "Paris, Texas"], required=["paris", "france"], forbidden=["texas"])
    [1.0, 0.0]
    """
    own = column_of(columns, column) if column else [()] * len(completions)
    flags = re.IGNORECASE if ignore_case else 0

    def mark(text: str, wanted: list[str]) -> float:
        if any(_has(text, word, flags) for word in _listed(forbidden)):
            return 0.0
        return sum(_has(text, word, flags) for word in wanted) / len(wanted) if wanted else 1.0

    return [
        None if more is None else mark(text_of(completion), [*_listed(required), *_listed(more)])
        for completion, more in zip(completions, own, strict=True)
    ]


def pattern(
    prompts: list[Text],
    completions: list[Text],
    *,
    regex: str,
    whole: bool = False,
    reward: float = 1.0,
    **columns: Any,
) -> list[float]:
    r"""Does a regular expression match? Keep the pattern simple: a slow one is slow on every completion.

    Args:
        regex: Python's syntax; `.` matches line breaks too.
        whole: match all of the text, not a part of it.

    Raises:
        UserError: the expression does not compile.

    >>> pattern(["?"] * 2, ["#### 72", "72"], regex=r"^#### \d+$")
    [1.0, 0.0]
    """
    try:
        compiled = re.compile(regex, re.DOTALL)
    except re.error as error:
        raise UserError(f"kwargs.regex {regex!r} is not a regular expression: {error}.") from error
    match = compiled.fullmatch if whole else compiled.search
    return [reward * (match(text_of(completion)) is not None) for completion in completions]


def json_schema(
    prompts: list[Text],
    completions: list[Text],
    *,
    schema: Any = True,
    column: str = "",
    valid: float = 1.0,
    parses: float = 0.5,
    **columns: Any,
) -> list[float | None]:
    """Is the completion JSON (alone or in its last fence), and does it follow a schema?

    Args:
        schema: a JSON schema, as a dictionary or as JSON text; `true` accepts any JSON. Needs the package jsonschema.
        column: a dataset column with a schema for each row instead (None: the reward does not apply).
        valid: the score of JSON that follows the schema.
        parses: the score of JSON that does not.

    Raises:
        RowError: a row's schema is not a JSON schema.
        UserError: the schema for all rows is not a JSON schema, or jsonschema is not installed.

    >>> json_schema(["?"] * 2, ['{"a": 1}', '{"a": '])
    [1.0, 0.0]
    """
    schemas = column_of(columns, column) if column else [schema] * len(completions)
    try:
        return [
            None if wanted is None else _mark(text_of(completion), wanted, valid, parses)
            for completion, wanted in zip(completions, schemas, strict=True)
        ]
    except RowError as error:
        raise error if column else UserError(str(error)) from error


def _lengths(completions: list[Text], unit: str, columns: dict[str, Any]) -> list[int]:
    if unit not in _UNITS:
        raise UserError(f"kwargs.unit is {unit!r}; choose one of {', '.join(_UNITS)}.")
    if unit == "tokens":
        if "completion_ids" not in columns:
            raise UserError(
                "kwargs.unit=tokens needs completion_ids; for stage=score give model=local model.path=<folder>"
            )
        return [len(ids) for ids in columns["completion_ids"]]
    texts = map(text_of, completions)
    return [len(words_of(text)) if unit == "words" else len(text) for text in texts]


def words_of(text: str) -> list[str]:
    """The words between white space; scripts that put none between words count a word for each character.

    >>> words_of("I like 苹果!"), words_of("好好")
    (['I', 'like', '苹', '果', '!'], ['好', '好'])
    """
    return _WORD.findall(text)


@lru_cache(maxsize=4096)
def _script_of(char: str) -> str:
    return unicodedata.name(char, "").partition(" ")[0].lower()


def _listed(words: str | Sequence[str]) -> Sequence[str]:
    return [words] if isinstance(words, str) else words


def _has(text: str, word: str, flags: int) -> bool:
    # a word ends where no word character follows; between two characters without spaces an end may be anywhere
    before = "" if _UNSPACED.match(word) else rf"(?:(?<!\w)|(?<={_UNSPACED.pattern}))"
    after = "" if _UNSPACED.match(word[-1:]) else rf"(?:(?!\w)|(?={_UNSPACED.pattern}))"
    return re.search(before + re.escape(word) + after, text, flags) is not None


def _mark(text: str, schema: Any, valid: float, parses: float) -> float:
    is_valid = _validator(schema if isinstance(schema, str) else json.dumps(schema))
    text = text.rpartition("</think>")[2]
    fences = _FENCE.findall(text)
    try:
        document = json.loads(fences[-1] if fences else text, parse_constant=_reject)
        return valid if is_valid(document) else parses
    except (ValueError, RecursionError):  # hostile nesting overflows the parser's stack
        return 0.0


def _reject(constant: str) -> float:
    raise ValueError(f"{constant} is not JSON")


@lru_cache(maxsize=256)
def _validator(schema: str) -> Callable[[Any], bool]:
    """Whether a document follows the schema.

    Raises:
        RowError: it is not a JSON schema.
    """
    try:
        wanted = json.loads(schema)
    except ValueError as error:
        raise RowError(f"the JSON schema {schema[:60]!r} is not JSON: {error}.") from error
    if wanted is True:
        return lambda document: True
    jsonschema, unresolvable = extra("jsonschema"), extra("referencing.exceptions").Unresolvable
    kind = jsonschema.validators.validator_for(wanted, default=jsonschema.Draft202012Validator)
    try:
        kind.check_schema(wanted)
    except jsonschema.SchemaError as error:
        raise RowError(f"not a valid JSON schema: {error.message}") from error

    def is_valid(document: Any) -> bool:
        try:
            return kind(wanted).is_valid(document)
        except unresolvable as error:
            raise RowError(f"the JSON schema has a $ref to {error.ref!r}, which it does not define.") from error

    return is_valid
