"""How long the rows are: memory follows the longest row of a batch, not the longest that is allowed."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

from omegaconf import DictConfig

from rlhf_recipes.data.domain import domain
from rlhf_recipes.data.examples import Limits, count, longest
from rlhf_recipes.data.loading import Reader
from rlhf_recipes.engine.prompts import prompt_ids
from rlhf_recipes.rewards.messages import dialogue_of, text_of

SAMPLE = 256  # rows read for the brief form
MANY = 5000  # rows measured where all are loaded anyway
TALK = 4096  # tokens of a talk that are counted: a context of 128 thousand is seldom filled at the terminal


@dataclass(frozen=True)
class Rows:
    """Lengths in tokens.

    Args:
        prompt: of the longest prompt.
        whole: of the longest prompt with its longest answer, or document; EOS included.
        seen: rows looked at.
    """

    prompt: int
    whole: int
    seen: int


def measure(rows: list[dict], kind: str, tokenizer) -> Rows:
    """The longest of some rows of a kind, as data.load gives them."""
    if kind == "corpus":
        return Rows(0, max(longest(rows, kind, tokenizer), default=0), len(rows))
    prompt = max(map(len, prompt_ids([row["prompt"] for row in rows], tokenizer)), default=0)
    wholes = [] if kind == "prompts" else longest(rows, kind, tokenizer)
    return Rows(prompt, max(wholes, default=prompt), len(rows))


def sample(data: DictConfig, kind: str, tokenizer, seed: int = 0) -> Rows:
    """The longest of the first SAMPLE rows, read without the rest.

    Raises:
        UserError: what data.load would raise over them.
    """
    node = domain(data)
    read = Reader(kind, node.template, node.system, tokenizer, Limits(), seed)
    for number, part in enumerate(node.choose(kind).parts()):
        read.collect(replace(part, limit=min(part.limit or SAMPLE, SAMPLE)), number)
    return measure(list(read.dataset(range(len(read.keys)))), kind, tokenizer)


def of_file(file: Path, tokenizer, most: int = MANY) -> Rows:
    """The longest of the first answers of a `score.file`, as text through the reward model's tokenizer."""
    with file.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line, _ in zip(lines, range(most), strict=False) if line.strip()]
    texts = [dialogue_of(row["prompt"]) + text_of(row["completion"]) for row in rows]
    whole = max(count(texts, tokenizer), default=0)
    return Rows(whole, whole, len(rows))


def of_talk(asked: str | None, tokenizer, answer: int, context: int | None) -> Rows:
    """One question with its answer where `prompt=` asks it; else as much of a talk as is counted."""
    room = min(n for n in (context, TALK) if n)
    if asked is None:
        return Rows(max(0, room - answer), room, 0)
    prompt = min(len(tokenizer(asked)["input_ids"]), room)
    return Rows(prompt, min(prompt + answer, context or prompt + answer), 1)
