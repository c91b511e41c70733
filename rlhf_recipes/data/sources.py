"""A source's rows, wherever they lie: the generator, local files, a saved `datasets` folder, the hub."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rlhf_recipes.data import files, hub_datasets
from rlhf_recipes.errors import UserError

PEEK = 5


@dataclass(frozen=True)
class Peek:
    columns: list[str]
    rows: list[dict]


def place(source) -> str:
    """Where a source's rows lie: "embedded", "saved" (by `save_to_disk`), "files" or "hub".

    Raises:
        UserError: the path is a local one and nothing is there.
    """
    if source.path == "embedded":
        return "embedded"
    local = Path(source.path).expanduser()
    if local.is_dir() and ((local / "dataset_dict.json").is_file() or (local / "state.json").is_file()):
        return "saved"
    if local.exists() or not _may_be_hub_id(source.path):
        return "files"
    return "hub"


def held_out(source) -> list:
    """The sources of held-out rows that a source names. A split means nothing to plain files, so a preset's
    `eval_split` is passed over where the user has put a file of his own in its place."""
    return [held for held in source.held_out() if held.key == "eval_path" or place(held) in ("hub", "saved")]


def peek(source) -> Peek | None:
    """Columns and the first rows, without torch or `datasets`; None for what only reading would tell (hub, embedded).

    Raises:
        UserError: missing, empty or broken in its first rows.
    """
    match place(source):
        case "files":
            found = files.find(source.path, f"{source.where}.{source.key}")
            if files.kind(found[0]) == "json" and found[0].stat().st_size > 2**25:
                return None  # a list of 32 MB and more: reading it all would take seconds
            rows = list(islice(_grouped(files.read(found[0], source.separator), source.group), PEEK))
            if not rows:
                raise UserError(f"{source.where}.{source.key}={found[0]}: no rows in it; expected at least one")
            return Peek(columns(rows, source.group), rows)
        case "saved":
            return _peek_saved(source)
    return None


def read(source, kind: str, seed: int = 0) -> Iterator[dict]:
    """All rows of a source, `limit` of them at most, those of one `group` together as {"rows": […]}.

    Args:
        source: a domain.Source.
        kind: which rows the embedded generator is asked for.
        seed: the embedded generator's.

    Raises:
        UserError: as `peek`, and wherever a file is broken further down.
    """
    match place(source):
        case "embedded":
            from rlhf_recipes.data import embedded

            rows = embedded.rows(kind, seed=seed, n=source.limit)
        case "files":
            found = files.find(source.path, f"{source.where}.{source.key}")
            rows = (row for file in found for row in files.read(file, source.separator))
        case "saved":
            rows = hub_datasets.saved(source)
        case "hub":
            rows = hub_datasets.rows(source)
    return islice(_grouped(rows, source.group), source.limit)


def columns(rows: list[dict], group: str | None = None) -> list[str]:
    """Names of the columns of some rows; of grouped rows, those of their members."""
    inner = [member for row in rows for member in row["rows"]] if group else rows
    return list(dict.fromkeys(name for row in inner for name in row))


def _grouped(rows: Iterator[dict], column: str | None) -> Iterator[dict]:
    """Rows with one value in a column, wherever they stand, as one row {column: value, "rows": [...]}."""
    if not column:
        yield from rows
        return
    groups: dict = {}
    for row in rows:
        groups.setdefault(row.get(column), []).append(row)
    for value, members in groups.items():
        yield {column: value, "rows": members}


def _peek_saved(source) -> Peek:
    """Columns of a `save_to_disk` folder from its own dataset_info.json; no rows are read."""
    folder = Path(source.path).expanduser()
    if (folder / "dataset_dict.json").is_file():
        splits = json.loads((folder / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        folder = folder / hub_datasets.split_of(source, splits)
    info = json.loads((folder / "dataset_info.json").read_text(encoding="utf-8"))
    return Peek(list(info.get("features") or {}), [])


def _may_be_hub_id(path: str) -> bool:
    """`owner/name` or `name`, and nothing that looks like a file of one's own."""
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", path) or path.startswith((".", "~")):
        return False
    return files.kind(Path(path)) is None and not ("/" in path and Path(path).parent.is_dir())
