"""`load`: a domain's rows of one kind, as the trainers take them, with every row accounted for."""

from dataclasses import dataclass
from typing import Any

from rlhf_recipes.data import sources, splitting, templates
from rlhf_recipes.data.checking import check
from rlhf_recipes.data.domain import Domain, Source, domain
from rlhf_recipes.data.lengths import Limits
from rlhf_recipes.data.reading import Reading
from rlhf_recipes.errors import UserError


@dataclass
class Split:
    """Rows to train on and rows held out, with what became of every row that was read.

    Args:
        train, eval: `datasets.Dataset`; `eval` has no rows where data.eval_fraction=0.
        counts: read (rows in the sources), rows (made of them, where a format makes several of one), train, eval,
            dropped {reason: rows}, cut (rows longer than max_length), duplicates; rows = train + eval + all dropped.
        kind: corpus, demos, preferences, prompts or ranked.
        source: the config's key that the rows came from, data.preferences for demos made of preferences.
    """

    train: Any
    eval: Any
    counts: dict[str, Any]
    kind: str
    source: str

    def describe(self) -> str:
        """One line: «preferences: 2312 read, 2190 to train + 118 held out; 4 dropped (4 empty answer)»."""
        c = self.counts
        made = f", {c['rows']} made of them" if c["rows"] != c["read"] else ""
        origin = "" if self.source == f"data.{self.kind}" else f" (from {self.source})"
        line = f"{self.kind}{origin}: {c['read']} read{made}, {c['train']} to train + {c['eval']} held out"
        if c["dropped"]:
            reasons = ", ".join(f"{n} {reason}" for reason, n in c["dropped"].items())
            line += f"; {sum(c['dropped'].values())} dropped ({reasons})"
        if c["cut"]:
            line += f"; {c['cut']} cut at {c['max_length']} tokens"
        if c["duplicates"]:
            line += f"; {c['duplicates']} the same as another, kept"
        return line


def load(
    data: Any,
    kind: str,
    *,
    tokenizer=None,
    max_length: int | None = None,
    max_prompt_length: int | None = None,
    seed: int = 0,
    stage: str | None = None,
) -> Split:
    """Read, map, template, measure and split a domain's rows of one kind.

    Args:
        data: the `data` node, OmegaConf or dict.
        kind: corpus, demos, preferences, prompts or ranked.
        tokenizer: the model's; without it nothing is measured.
        max_length: tokens of prompt and answer; longer demos and documents are counted (TRL cuts them), longer
            preferences dropped.
        max_prompt_length: tokens; rows with a longer prompt are dropped and counted. None: data.max_prompt_length.
        seed: of the embedded generator and of a mixture's choice; the split does not depend on it.
        stage: named in messages.

    Raises:
        UserError: whatever `check` finds, broken rows further down, or no row left to train on.
    """
    check(data, kind, stage)
    node = domain(data)
    templates.check(node.template, tokenizer)
    source = node.choose(kind, stage)
    limits = Limits(max_length, node.max_prompt_length if max_prompt_length is None else max_prompt_length)
    read = Reading(kind, node.template, node.system, tokenizer, limits, seed)
    for number, part in enumerate(source.parts()):
        read.collect(part, number)
    train, held = _split(read, source, node, seed)
    counts = {name: read.counts[name] for name in ("read", "rows", "cut", "duplicates")}
    counts |= {"train": len(train), "eval": len(held), "max_length": max_length}
    counts["dropped"] = {reason: n for reason, n in read.dropped.most_common() if n}
    return Split(read.rows.dataset(train), read.rows.dataset(held), counts, kind, source.where)


def _split(read: Reading, source: Source, node: Domain, seed: int) -> tuple[list[int], list[int]]:
    """Positions of the rows to train on and of those held out; what falls out on the way is counted."""
    train = _mixed(read, source.parts(), seed)
    if apart := sources.held_out(source):
        first = len(read.keys)
        for part in apart:
            read.collect(part, -1)
        held = list(range(first, len(read.keys)))
        left = splitting.apart(train, held, read.keys, read.prompts)
        read.dropped["held out by the evaluation source"] += len(train) - len(left)
        train = left
    else:
        train, held, twice = splitting.divide(train, read.keys, read.prompts, node.eval_fraction)
        read.dropped["held out, with a prompt that is trained too"] += twice
    used = splitting.cap(held, read.keys, node.max_eval)
    read.dropped[f"held out beyond max_eval={node.max_eval}"] += len(held) - len(used)
    if not train:
        reasons = ", ".join(f"{n} {reason}" for reason, n in read.dropped.most_common() if n) or "all are held out"
        raise UserError(
            f"{source.label}: none of {read.counts['rows']} rows is left to train on ({reasons}); "
            f"expected at least one usable row of {read.kind}"
        )
    if not used and node.eval_fraction and not apart:
        raise UserError(
            f"{source.label}: none of {len(train)} rows falls into the {node.eval_fraction:.0%} held out; "
            f"raise data.eval_fraction, or give {source.where}.eval_path=<file>"
        )
    return train, used


def _mixed(read: Reading, parts: list[Source], seed: int) -> list[int]:
    """Positions of the rows that a mixture takes, all of them where no weights are given."""
    weights = [part.weight for part in parts]
    if all(weight is None for weight in weights):
        return list(range(len(read.keys)))
    if any(weight is None or weight <= 0 for weight in weights):
        raise UserError(f"{parts[0].where}: give every source of a mixture a weight above 0, or none of them")
    taken = splitting.mix(read.parts, read.keys, weights, seed)
    read.dropped["left out for the mixture's weights"] += len(read.keys) - len(taken)
    return taken
