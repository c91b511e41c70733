"""Where rows come from: the keys below `data.<kind>`, and the rows there: generated, local files, saved, the hub."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf_recipes.data import files, hub_datasets
from rlhf_recipes.data.files import Located
from rlhf_recipes.errors import UserError, suggest

NONE = (None, "", "???")  # a path not given; ??? is Hydra's for a value that must be
PEEK = 20  # rows that decide what `format: auto` is


@dataclass(frozen=True)
class Source:
    """Where rows come from and how they are read: the keys below `data.<kind>`."""

    where: str = ""  # not a setting: where in the config it stands, e.g. data.demos
    key: str = "path"  # not a setting: which key named the path, `path` or `eval_path`
    path: str | None = None  # a file, a folder, a glob, a saved `datasets` folder, a hub id, or `embedded`
    config: str | None = None  # hub: the set's configuration
    revision: str | None = None  # hub: branch, tag or commit
    data_files: Any = None  # hub: files of the repository
    split: str | None = None  # hub, saved folder, or a folder of train and test files; None is train
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

    @property
    def kind(self) -> str:
        """The kind of rows that the domain lists it under: demos for data.demos.sources[0]."""
        return self.where.split(".")[1]

    @property
    def label(self) -> str:
        """The setting that named this source, as typed: data.demos.path=my.jsonl."""
        return f"{self.where}.{self.key}={self.path}"

    @property
    def place(self) -> str:
        """Where the rows lie: "embedded", "saved" (by `save_to_disk`), "files" or "hub"."""
        if self.path == "embedded":
            return "embedded"
        local = Path(self.path).expanduser()
        if local.is_dir() and ((local / "dataset_dict.json").is_file() or (local / "state.json").is_file()):
            return "saved"
        hub_id = re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", self.path) and files.reader(local) is None
        mistyped = "/" in self.path and local.parent.is_dir()
        return "files" if local.exists() or not hub_id or mistyped else "hub"

    def parts(self) -> list["Source"]:
        """The sources to read: this one, or the mixture's."""
        if self.path not in NONE:
            return [self]
        return [source(part, f"{self.where}.sources[{i}]") for i, part in enumerate(self.sources)]

    def eval_sources(self) -> list["Source"]:
        """The sources of held-out rows that are named; the other settings hold for them too.

        A folder of train and test files has its test files held out. A split means nothing to other files, so a
        preset's `eval_split` is ignored where the user has put another file in its place.
        """
        if self.eval_path:
            return [replace(self, path=self.eval_path, split=self.eval_split, sources=None, key="eval_path")]
        if self.path in NONE:
            return [each for part in self.parts() for each in part.eval_sources()]
        held_out = self.eval_split if self.place in ("hub", "saved") else None
        if (folder := self.folder) and "train" in folder.splits:
            held_out = self.eval_split or folder.held_out
        return [replace(self, split=held_out)] if held_out and held_out != self.split else []

    @property
    def folder(self) -> files.Folder | None:
        """What a local folder of files holds; None where the source is no such folder."""
        place = Path(str(self.path)).expanduser()
        return files.folder(place) if self.path not in NONE and place.is_dir() and self.place == "files" else None

    def note(self) -> str | None:
        """How a folder is read: «set: train-00000.parquet trained, test-00000.parquet held out, README.md left out»."""
        if (folder := self.folder) is None:
            return None
        use = {source.split: "held out" for source in self.eval_sources()} | {self.split or "train": "trained"}
        parts = [f"{name} {use.get(name, 'left out')}" for name in folder.splits if name]
        parts += [f"{', '.join(folder.left_out)} left out"] if folder.left_out else []
        return f"{self.label}: {'; '.join(parts)}" if parts else None


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
    check_keys(node, Source, where)
    return Source(where=where, **{k: value for k, value in node.items() if value is not None or k == "separator"})


def check_keys(node: dict, schema: type, where: str) -> None:
    """Raise UserError, with did-you-mean, on a key that is not a setting of the schema."""
    names = [f.name for f in fields(schema) if f.name not in ("where", "key")]
    for key in node:
        if key not in names:
            raise UserError(f"no setting {where}.{key}{suggest(str(key), names, where + '.')}")


def peek(source: Source) -> tuple[list[str], list[dict]] | None:
    """Columns and the first rows, without torch or `datasets`; None where only reading would tell (hub, embedded).

    Raises:
        UserError: missing, empty or broken in its first rows.
    """
    if source.place == "saved":
        return hub_datasets.saved_columns(source), []
    if source.place != "files":
        return None
    file = files.find(source.path, f"{source.where}.{source.key}", source.split)[0]
    if files.suffix(file) == ".json" and file.stat().st_size > 2**25:
        return None  # a list of 32 MB and more: reading it all would take seconds
    rows = [row for _, row in islice(_cleaned(files.read(file, source.separator), source.group), PEEK)]
    if not rows:
        raise UserError(f"{source.where}.{source.key}={file}: no rows in it; expected at least one")
    return columns(rows, source.group), rows


def read(source: Source, seed: int = 0) -> Iterator[Located]:
    """All rows of a source with their places, `limit` of them at most, those of one `group` together as {"rows": […]}.

    Raises:
        UserError: as `peek`, and wherever a file is broken further down.
    """
    match source.place:
        case "embedded":
            from rlhf_recipes.data import embedded

            rows = files.indexed(embedded.rows(source.kind, seed=seed, n=source.limit))
        case "files":
            every = files.find(source.path, f"{source.where}.{source.key}", source.split)
            rows = (
                (f"{file.name} {place}" if len(every) > 1 else place, row)
                for file in every
                for place, row in files.read(file, source.separator)
            )
        case place:
            rows = (hub_datasets.saved if place == "saved" else hub_datasets.rows)(source)
    return islice(_cleaned(rows, source.group), source.limit)


def columns(rows: list[dict], group: str | None = None) -> list[str]:
    """Names of the columns of some rows; of grouped rows, those of their members."""
    inner = [member for row in rows for member in row["rows"]] if group else rows
    return list(dict.fromkeys(name for row in inner for name in row))


def _cleaned(rows: Iterable[Located], group: str | None) -> Iterator[Located]:
    """The rows with NaN, as pandas writes an empty cell, as None.

    Rows with one value in the column `group`, wherever they stand, become one row {group: value, "rows": [...]} at the
    place of the first.
    """
    groups: dict[Any, tuple[str, list[dict]]] = {}
    for place, raw in rows:
        row = {name: None if isinstance(value, float) and value != value else value for name, value in raw.items()}
        if group:
            groups.setdefault(row.get(group), (place, []))[1].append(row)
        else:
            yield place, row
    yield from ((place, {group: value, "rows": members}) for value, (place, members) in groups.items())
