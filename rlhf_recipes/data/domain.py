"""The `data` node: which kinds a domain gives, and from which source each comes."""

from dataclasses import dataclass, field, fields, replace
from typing import Any

from rlhf_recipes.data import mapping
from rlhf_recipes.data.formats.rows import KINDS
from rlhf_recipes.errors import UserError, suggest

# A kind that a domain does not list is made from another that holds it too, the first of these that serves.
MADE_FROM = {
    "corpus": ("demos", "preferences", "ranked"),
    "demos": ("preferences", "ranked"),
    "preferences": ("ranked",),
    "prompts": ("demos", "preferences", "ranked"),
    "ranked": ("preferences",),
}
TRY = {"corpus": "tinystories", "demos": "alpaca", "preferences": "hh_rlhf", "prompts": "gsm8k", "ranked": "oasst1"}
NONE = (None, "", "???")  # a path not given; ??? is Hydra's for a value that must be


@dataclass(frozen=True)
class Source:
    """Where rows come from and how they are read: the keys below `data.<kind>`."""

    where: str = ""  # not a setting: where in the config it stands, e.g. data.demos
    key: str = "path"  # not a setting: which key named the path, `path` or `eval_path`
    path: str | None = None  # a file, a folder, a glob, a saved `datasets` folder, a hub id, or `embedded`
    config: str | None = None  # hub: the set's configuration
    revision: str | None = None  # hub: branch, tag or commit
    data_files: Any = None  # hub: files of the repository
    split: str | None = None  # hub or saved folder; None is train
    format: str = "auto"  # a function of data/formats, or ./file.py:function
    columns: dict[str, str] = field(default_factory=dict)  # {the format's column: the file's column}
    options: dict[str, Any] = field(default_factory=dict)  # the format's keyword-only parameters
    group: str | None = None  # rows that share this column's value go to the format as one
    separator: str | None = "\n\n"  # text files: what stands between documents; None: a file is a document
    limit: int | None = None  # rows to read at most
    weight: float | None = None  # share of a mixture, relative to its neighbours'
    eval_path: str | None = None  # held-out rows from a source of their own
    eval_split: str | None = None
    sources: Any = None  # a mixture: a list of sources; `path` wins over it

    @property
    def given(self) -> bool:
        return self.path not in NONE or bool(self.sources)

    def parts(self) -> list["Source"]:
        """The sources to read: this one, or the mixture's."""
        if self.path not in NONE:
            return [self]
        return [source(part, f"{self.where}.sources[{i}]") for i, part in enumerate(self.sources)]

    def held_out(self) -> list["Source"]:
        """The sources of held-out rows that are named; the train source's other settings hold for them too."""
        if self.eval_path:
            return [replace(self, path=self.eval_path, split=self.eval_split, sources=None, key="eval_path")]
        if self.path in NONE:
            return [held for part in self.parts() for held in part.held_out()]
        return [replace(self, split=self.eval_split)] if self.eval_split else []

    @property
    def label(self) -> str:
        """The setting that named this source, as typed: data.demos.path=my.jsonl."""
        return f"{self.where}.{self.key}={self.path}"


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
    exact: Any = None  # the same: 1 for a right answer, 0 for a wrong one, None where none can tell
    corpus: Any = None
    demos: Any = None
    preferences: Any = None
    prompts: Any = None
    ranked: Any = None

    def choose(self, kind: str, stage: str | None = None) -> Source:
        """The source that a kind is read from: its own, or one that holds it too.

        Raises:
            UserError: the domain has nothing of that kind.
        """
        if kind not in KINDS:
            raise UserError(f"no kind of data {kind!r}; known: {', '.join(KINDS)}")
        own = source(getattr(self, kind), f"data.{kind}")
        if own.given:
            return own
        for other in MADE_FROM[kind]:
            declared = source(getattr(self, other), f"data.{other}")
            if declared.given and all(kind in mapping.offers(part) for part in declared.parts()):
                return declared
        raise UserError(self._lacks(kind, stage))

    def _lacks(self, kind: str, stage: str | None) -> str:
        has = [k for k in KINDS if source(getattr(self, k), "").given]
        has += [k for k in KINDS if k not in has and self._makes(k)]
        gives = f"data={self.name} gives {_listed([k for k in KINDS[:4] if k in has]) or 'nothing yet'}"
        needs = f"stage={stage} needs {kind}" if stage else f"{kind} are needed"
        if self.name == TRY[kind] or self.name in ("local", "text"):
            return f"{gives}; {needs}. Give data.{kind}.path=<file>"
        return f"{gives}; {needs}. Try data={TRY[kind]}, or data.{kind}.path=<file>"

    def _makes(self, kind: str) -> bool:
        others = [source(getattr(self, other), "") for other in MADE_FROM[kind]]
        return any(o.given and all(kind in mapping.offers(part) for part in o.parts()) for o in others)


def domain(data: Any) -> Domain:
    """The `data` node (OmegaConf or a dict) with defaults filled in.

    Raises:
        UserError: an unknown key, with did-you-mean; a value out of range.
    """
    node = _plain(data)
    _known(node, Domain, "data")
    result = Domain(**node)
    if not 0 <= result.eval_fraction < 1:
        raise UserError(f"data.eval_fraction={result.eval_fraction}: expected a share from 0 up to, not including, 1")
    if result.max_eval is not None and result.max_eval < 1:
        raise UserError(f"data.max_eval={result.max_eval}: expected a count of rows, 1 or more, or null")
    return result


def source(node: Any, where: str) -> Source:
    """One kind's node, or one part of a mixture.

    Raises:
        UserError: an unknown key, with did-you-mean.
    """
    if not node:
        return Source(where=where)
    if isinstance(node, str):  # data.demos=my.jsonl, for short
        return Source(where=where, path=node)
    if not isinstance(node, dict):
        raise UserError(f"{where}={node!r}: expected a source, e.g. {where}.path=<file>")
    _known(node, Source, where)
    given = {key: value for key, value in node.items() if value is not None or key == "separator"}
    return Source(where=where, **given)


def _known(node: dict, schema: type, where: str) -> None:
    names = [f.name for f in fields(schema) if f.name not in ("where", "key")]
    for key in node:
        if key not in names:
            raise UserError(f"no setting {where}.{key}{suggest(str(key), names, where + '.')}")


def _plain(data: Any) -> dict:
    from omegaconf import OmegaConf

    node = OmegaConf.to_container(data, resolve=True) if OmegaConf.is_config(data) else data
    if not isinstance(node, dict):
        raise UserError(f"data={node!r}: expected a domain, e.g. data=embedded")
    return node


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1] if words else ""
