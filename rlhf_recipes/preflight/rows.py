"""How long the rows are: memory follows the longest row of a batch, not the longest that is allowed."""

from dataclasses import dataclass, replace

from omegaconf import DictConfig

from rlhf_recipes.data.domain import domain
from rlhf_recipes.data.lengths import ANSWERS, Limits, count
from rlhf_recipes.data.reading import Reading

SAMPLE = 256  # rows read for the brief form
MANY = 5000  # rows measured where all are loaded anyway


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
        longest = max(count([row["text"] for row in rows], tokenizer, ends=True), default=0)
        return Rows(0, longest, len(rows))
    prompt = max(count([row["prompt"] for row in rows], tokenizer, asks=True), default=0)
    answers = [row["prompt"] + row[name] for row in rows for name in ANSWERS.get(kind, ())]
    return Rows(prompt, max(count(answers, tokenizer, ends=True), default=prompt), len(rows))


def sample(data: DictConfig, kind: str, tokenizer, seed: int = 0) -> Rows:
    """The longest of the first SAMPLE rows, read without the rest.

    Raises:
        UserError: what data.load would raise over them.
    """
    node = domain(data)
    read = Reading(kind, node.template, node.system, tokenizer, Limits(), seed)
    for number, part in enumerate(node.choose(kind).parts()):
        read.collect(replace(part, limit=min(part.limit or SAMPLE, SAMPLE)), number)
    return measure(list(read.rows.dataset(range(len(read.keys)))), kind, tokenizer)
