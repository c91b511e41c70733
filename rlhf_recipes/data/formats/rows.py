"""What a row mapper may return, and which kinds of data can be made from it.

A mapper's return annotation is its promise: `def alpaca(...) -> Demo` gives demos, prompts and corpus.
"""

from typing import NotRequired, TypedDict

KINDS = ("corpus", "demos", "preferences", "prompts", "ranked")

Messages = list[dict]
"""Turns as {"role": "system" | "user" | "assistant", "content": str}; a user's turn may carry Alpaca's "input"."""


class Drop(Exception):
    """This row cannot be used; the message is the reason it is counted under."""


class Text(TypedDict):
    text: str


class Prompt(TypedDict):
    prompt: str | Messages
    key: NotRequired[str]  # what the train / held-out split hashes, where that is not the prompt


class Demo(Prompt):
    completion: str | Messages


class Pair(Prompt):
    chosen: str | Messages
    rejected: str | Messages
    margin: NotRequired[float]


class Ranking(Prompt):
    completions: list[str]
    ranks: list[float]  # one for each completion, lower is better; equal ranks make no pair


GIVES = {
    Text: ("corpus",),
    Prompt: ("prompts",),
    Demo: ("demos", "prompts", "corpus"),
    Pair: ("preferences", "demos", "prompts", "corpus"),
    Ranking: ("ranked", "preferences", "demos", "prompts", "corpus"),
}


def as_kind(row: dict, kind: str) -> list[dict]:
    """A mapped row as the rows of one kind: a ranking of K answers makes up to K (K - 1) / 2 preferences.

    Args:
        row: what a mapper returned.
        kind: one of KINDS.

    Raises:
        Drop: the row holds nothing of that kind.

    >>> ranking = {"prompt": "2 + 2?", "completions": ["5", "4", "four"], "ranks": [2, 1, 1]}
    >>> [(r["chosen"], r["rejected"]) for r in as_kind(ranking, "preferences")]
    [('4', '5'), ('four', '5')]
    >>> as_kind(ranking, "demos")[0]["completion"]
    '4'
    """
    if "completions" in row:
        return _from_ranking(row, kind)
    if kind == "prompts" and "prompt" in row:
        return [row]
    if kind == "preferences" and "chosen" in row:
        return [row]
    if kind in ("demos", "corpus"):
        if "chosen" in row:  # InstructGPT's labellers would have written the answer that they prefer
            return [_without(row, "chosen", "rejected") | {"completion": row["chosen"]}]
        if "completion" in row or (kind == "corpus" and "text" in row):
            return [row]
    raise Drop(f"holds no {kind}")


def _from_ranking(row: dict, kind: str) -> list[dict]:
    order = sorted(range(len(row["completions"])), key=lambda i: row["ranks"][i])
    best_first = [row["completions"][i] for i in order]
    ranks = [row["ranks"][i] for i in order]
    rest = _without(row, "completions", "ranks")
    if not best_first:
        raise Drop("no answer")
    if kind == "prompts":
        return [rest]
    if kind in ("demos", "corpus"):
        return [rest | {"completion": best_first[0]}]
    pairs = [(i, j) for i in range(len(ranks)) for j in range(i + 1, len(ranks)) if ranks[i] < ranks[j]]
    if not pairs:
        raise Drop("no two answers ranked apart")
    if kind == "ranked":
        return [rest | {"completions": best_first, "ranks": ranks}]
    return [rest | {"chosen": best_first[i], "rejected": best_first[j]} for i, j in pairs]


def _without(row: dict, *names: str) -> dict:
    return {name: value for name, value in row.items() if name not in names}
