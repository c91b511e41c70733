"""The `data` node: which kinds a domain gives, and from which source each comes."""

from dataclasses import dataclass
from typing import Any

from rlhf_recipes.data.formats.rows import KINDS
from rlhf_recipes.data.mapping import offers
from rlhf_recipes.data.sources import Source, check_keys, source
from rlhf_recipes.errors import UserError


@dataclass(frozen=True)
class Domain:
    """A domain with its defaults filled in."""

    name: str = "data"
    template: str = "plain"  # chat, alpaca, plain or hh: templates.py
    system: str | None = None  # a system prompt before every row's first turn
    eval_fraction: float = 0.05  # share of prompts held out, by a hash of the prompt
    max_prompt_length: int | None = None  # tokens; rows with a longer prompt are dropped and counted
    max_eval: int | None = 1000  # held-out rows used at most; the rest stays out of training all the same
    gold: Any = None  # pkg.module:function or {path, kwargs}: the true score of an answer, where the domain knows it
    exact: Any = None  # the same: 1 for a right answer, 0 for a wrong one, None where it cannot be checked
    corpus: Any = None
    demos: Any = None
    preferences: Any = None
    prompts: Any = None
    ranked: Any = None
    unpaired: Any = None

    def choose(self, kind: str, stage: str | None = None) -> Source:
        """The source that a kind is read from: its own, or one that holds it too.

        Raises:
            UserError: the domain has nothing of that kind.
        """
        if kind not in KINDS:
            raise UserError(f"no kind of data {kind!r}; known: {', '.join(KINDS)}")
        if own := self._source(kind):
            return own
        if made_from := self._made_from(kind):
            return made_from
        has = [other for other in KINDS if self._source(other) or self._made_from(other)]
        needs = f"stage={stage} needs {kind}" if stage else f"{kind} are needed"
        preset = KINDS[kind].preset
        ways = f"Give data.{kind}.path=<file>"
        if self.name != preset and self.name not in ("local", "text"):
            ways = f"Try data={preset}, or data.{kind}.path=<file>"
        gives = " and ".join(filter(None, [", ".join(has[:-1]), *has[-1:]])) or "nothing yet"
        raise UserError(f"data={self.name} gives {gives}; {needs}. {ways}")

    def _source(self, kind: str) -> Source | None:
        given = source(getattr(self, kind), f"data.{kind}")
        return given if given.given else None

    def _made_from(self, kind: str) -> Source | None:
        others = filter(None, map(self._source, KINDS[kind].made_from))
        return next((other for other in others if all(kind in offers(part) for part in other.parts())), None)


def domain(data: Any) -> Domain:
    """The `data` node (OmegaConf or a dict) with defaults filled in.

    Raises:
        UserError: an unknown key, with did-you-mean; a value out of range.
    """
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(data, resolve=True) if OmegaConf.is_config(data) else data
    if not isinstance(node, dict):
        raise UserError(f"data={node!r}: expected a domain, e.g. data=embedded")
    check_keys(node, Domain, "data")
    result = Domain(**node)
    if not 0 <= result.eval_fraction < 1:
        raise UserError(f"data.eval_fraction={result.eval_fraction}: expected a share from 0 up to, not including, 1")
    if result.max_eval is not None and result.max_eval < 1:
        raise UserError(f"data.max_eval={result.max_eval}: expected a count of rows, 1 or more, or null")
    return result
