"""The kinds of rows, what a row mapper may return, and which kinds can be made of it.

A mapper's return annotation is its promise: `def alpaca(...) -> Demo` gives demos, prompts and corpus.
"""

from dataclasses import dataclass
from typing import NotRequired, TypedDict


@dataclass(frozen=True)
class Kind:
    """What the rest of the package must know of a kind of rows.

    Args:
        answers: the columns of its answers.
        made_from: kinds that hold this one too; the first that a domain gives serves where the domain does not list it.
        simple: the format to offer a file whose columns fit none.
        preset: a domain that gives this kind.
        embedded: the format of the embedded world's rows, or a mapper as `package.module:function`; None is `simple`.
        judged: columns of what somebody thought of the answers.
        extra: whether the source's other columns go along, for rewards to read.
    """

    answers: tuple[str, ...]
    made_from: tuple[str, ...]
    simple: str
    preset: str
    embedded: str | None = None
    judged: tuple[str, ...] = ()
    extra: bool = False


_ANSWERED = ("demos", "preferences", "ranked")
KINDS = {
    "corpus": Kind(answers=("completion",), made_from=_ANSWERED, simple="text", preset="tinystories"),
    "demos": Kind(
        answers=("completion",),
        made_from=("preferences", "ranked"),
        simple="prompt_completion",
        preset="alpaca",
    ),
    "preferences": Kind(
        answers=("chosen", "rejected"),
        made_from=("ranked",),
        embedded="preference",
        simple="question_pair",
        preset="hh_rlhf",
        judged=("margin",),
        extra=True,
    ),
    "prompts": Kind(
        answers=(),
        made_from=_ANSWERED,
        embedded="rlhf_recipes.data.embedded:question",
        simple="prompt",
        preset="gsm8k",
        extra=True,
    ),
    "ranked": Kind(
        answers=("completions",),
        made_from=("preferences",),
        simple="ranked",
        preset="oasst1",
        judged=("ranks",),
    ),
    "unpaired": Kind(  # TRL's unpaired preference: one answer, and whether it is desirable
        answers=("completion",),
        made_from=("preferences", "ranked"),
        simple="unpaired",
        preset="ultrafeedback",
        judged=("label",),
    ),
}

Messages = list[dict]
"""Turns as {"role": "system" | "user" | "assistant", "content": str}; a user's turn may carry Alpaca's "input"."""


class Drop(Exception):
    """This row cannot be used; the message is the reason it is counted under."""


class Text(TypedDict):
    text: str


class Prompt(TypedDict):
    prompt: str | Messages
    system: NotRequired[str]
    tools: NotRequired[str]  # JSON: the tools that the chat template shows
    key: NotRequired[str]  # what the split into train and held-out rows hashes, where that is not the prompt


class Demo(Prompt):
    completion: str | Messages


class Pair(Prompt):
    chosen: str | Messages
    rejected: str | Messages
    margin: NotRequired[float]


class Unpaired(Demo):
    label: bool  # whether the completion is desirable


class Ranking(Prompt):
    completions: list[str]
    ranks: list[float]  # one for each completion, lower is better; equal ranks make no pair


GIVES = {
    Text: ("corpus",),
    Prompt: ("prompts",),
    Demo: ("demos", "prompts", "corpus"),
    Pair: ("preferences", "unpaired", "demos", "prompts", "corpus"),
    Ranking: ("ranked", "preferences", "unpaired", "demos", "prompts", "corpus"),
    Unpaired: ("unpaired",),  # not demos, or a file of demos with a column `label` would lose rows
}


def as_kind(row: dict, kind: str) -> list[dict]:
    """A mapped row as the rows of one kind: a ranking of K answers makes up to K (K - 1) / 2 preferences, a pair two
    unpaired rows.

    Raises:
        Drop: the row holds nothing of that kind.

    >>> ranking = {"prompt": "2 + 2?", "completions": ["5", "4", "four"], "ranks": [2, 1, 1]}
    >>> [(r["chosen"], r["rejected"]) for r in as_kind(ranking, "preferences")]
    [('4', '5'), ('four', '5')]
    >>> as_kind(ranking, "demos")[0]["completion"]
    '4'
    >>> [(r["completion"], r["label"]) for r in as_kind({"prompt": "?", "chosen": "a", "rejected": "b"}, "unpaired")]
    [('a', True), ('b', False)]
    """
    if kind == "unpaired" and "label" not in row:
        return [one for pair in as_kind(row, "preferences") for one in _unpaired(pair)]
    if "completions" in row:
        return _from_ranking(row, kind)
    if kind == "unpaired":
        return [row]
    if (kind == "prompts" and "prompt" in row) or (kind == "preferences" and "chosen" in row):
        return [row]
    if kind in ("demos", "corpus"):
        if "chosen" in row:  # InstructGPT's labellers would have written the answer that they prefer
            return [_without(row, "chosen", "rejected") | {"completion": row["chosen"]}]
        if "completion" in row or (kind == "corpus" and "text" in row):
            return [row]
    raise Drop("no answer by the assistant" if kind == "demos" and "prompt" in row else f"holds no {kind}")


def _from_ranking(row: dict, kind: str) -> list[dict]:
    best_first = sorted(zip(row["ranks"], row["completions"], strict=True), key=lambda answer: answer[0])
    rest = _without(row, "completions", "ranks")
    if not best_first:
        raise Drop("no answer")
    if kind == "prompts":
        return [rest]
    if kind in ("demos", "corpus"):
        return [rest | {"completion": best_first[0][1]}]
    pairs = [(a, b) for i, (rank, a) in enumerate(best_first) for later, b in best_first[i + 1 :] if rank < later]
    if not pairs:
        raise Drop("no two answers ranked apart")
    if kind == "ranked":
        ranks, completions = zip(*best_first, strict=True)
        return [rest | {"completions": list(completions), "ranks": list(ranks)}]
    return [rest | {"chosen": chosen, "rejected": rejected} for chosen, rejected in pairs]


def _unpaired(pair: dict) -> list[dict]:
    if pair["chosen"] == pair["rejected"]:
        raise Drop("chosen = rejected")
    rest = _without(pair, "chosen", "rejected", "margin")
    return [rest | {"completion": pair[name], "label": name == "chosen"} for name in ("chosen", "rejected")]


def _without(row: dict, *names: str) -> dict:
    return {name: value for name, value in row.items() if name not in names}
