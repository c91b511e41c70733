"""Local files as rows: JSON, JSONL, CSV, Parquet and text, plain or gzipped. Imports nothing heavy but for Parquet."""

import csv
import gzip
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from glob import glob, has_magic
from itertools import count
from pathlib import Path

from rlhf_recipes.errors import UserError

Located = tuple[str, dict]
"""Where a row stands, as a person would look it up («line 8», «index 7»), and the row."""


def reader(file: Path) -> Callable[..., Iterator[Located]] | None:
    """The reader for a file, by its suffix; None where there is none."""
    return READERS.get(suffix(file))


def suffix(file: Path) -> str:
    """A file's suffix in lower case, the one before .gz."""
    return Path(file.stem if file.suffix == ".gz" else file).suffix.lower()


@dataclass(frozen=True)
class Folder:
    """What a folder of a hub repository holds.

    Args:
        splits: the files of each split by its name (`datasets` has these names); one split "" where no name tells.
        left_out: the names of files that hold no rows.
    """

    splits: dict[str, list[Path]]
    left_out: list[str]

    @property
    def held_out(self) -> str | None:
        """The split beside train that is held out: validation before test; None where there is no train."""
        return next((name for name in ("validation", "test") if name in self.splits and "train" in self.splits), None)


def folder(place: Path) -> Folder:
    """A folder's data files by split. README, LICENSE and, beside other data files, Markdown hold no rows."""
    visible = (f for f in place.rglob("*") if not re.search(r"(^|/)[._]", f.relative_to(place).as_posix()))
    every = sorted(f for f in visible if f.is_file())
    readable = [file for file in every if reader(file) and not _CARD.fullmatch(file.name)]
    tables = [file for file in readable if suffix(file) != ".md"]
    splits: dict[str, list[Path]] = {}
    for file in tables or readable:
        splits.setdefault(_split_of(file.relative_to(place)), []).append(file)
    if "train" not in splits:  # without a train split, a file named test does not turn the others into training files
        splits = {"": tables or readable}
    left_out = [file.name for file in every if reader(file) and file not in (tables or readable)]
    if "train" in splits:
        left_out += [file.name for file in splits.pop("", [])]
    return Folder(splits, left_out)


def _split_of(relative: Path) -> str:
    """train, validation, test or "", by the file's name or else its folders' names.

    >>> [_split_of(Path(name)) for name in ("data/train-00000-of-00001.parquet", "dev/a.json", "contest.csv")]
    ['train', 'validation', '']
    """
    for part in reversed(relative.parts):
        for name, words in _SPLITS.items():
            if re.search(rf"(?<![a-z])({words})(?![a-z])", part.lower()):
                return name
    return ""


def find(path: str, where: str, split: str | None = None) -> list[Path]:
    """The files that a path, a folder or a glob means, sorted; of a folder with splits, train where none is asked for.

    Raises:
        UserError: nothing is there, nothing can be read, or nothing is in it.
    """
    place = Path(path).expanduser()
    if has_magic(path) and not place.exists():
        files = [Path(file) for file in sorted(glob(str(place), recursive=True)) if Path(file).is_file()]
        if not files:
            raise UserError(f"{where}={path}: no file matches")
    elif place.is_dir():
        splits = folder(place).splits
        files = splits[""] if "" in splits else splits.get(split or "train")
        if files is None:
            raise UserError(f"{where.rpartition('.')[0]}.split={split}: {path} has the splits {', '.join(splits)}")
        if not files:
            there = ", ".join(sorted(file.name for file in place.iterdir())[:4]) or "nothing"
            raise UserError(f"{where}={path}: the folder holds {there}; expected {', '.join(READERS)} files")
    elif place.is_file():
        files = [place]
    else:
        raise UserError(f"{where}={path}: no such file or folder; expected {', '.join(READERS)} or a folder of them")
    for file in files:
        if not reader(file):
            raise UserError(f"{where}={file}: no reader for «{file.suffix}»; expected {', '.join(READERS)}")
    files = [file for file in files if file.stat().st_size]
    if not files:
        raise UserError(f"{where}={path}: the file is empty; expected rows")
    return files


def read(file: Path, separator: str | None = "\n\n") -> Iterator[Located]:
    """The rows of one file, each with its place.

    Args:
        separator: what stands between the documents of a text file; None makes the file one document.

    Raises:
        UserError: broken, with the file and, where there are lines, the line.
    """
    read_rows = reader(file)
    try:
        yield from read_rows(file, separator) if read_rows is _text else read_rows(file)
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    except (OSError, EOFError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from error


def indexed(rows: Iterable[dict], indices: Iterable[int] | None = None) -> Iterator[Located]:
    """Rows of a table with their indices, which count from 0 as `datasets` and pandas do."""
    for index, row in zip(count() if indices is None else indices, rows, strict=False):
        yield f"index {index}", row


def _jsonl(file: Path) -> Iterator[Located]:
    with _open(file) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{file}, line {number}: not JSON ({error.msg} at column {error.colno}); expected one object a line"
                ) from error
            yield f"line {number}", _object(row, f"{file}, line {number}")


def _json(file: Path) -> Iterator[Located]:
    with _open(file) as opened:
        text = opened.read()
    if text.lstrip().startswith("{") and _is_lines(text):
        yield from _jsonl(file)
        return
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file}, line {error.lineno}: not JSON ({error.msg} at column {error.colno}); expected a list of objects"
        ) from error
    if isinstance(rows, dict):
        rows = _wrapped(rows, file)
    if not isinstance(rows, list):
        raise UserError(f"{file}: expected a list of objects, found {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        yield f"item {number}", _object(row, f"{file}, item {number}")


def _wrapped(content: dict, file: Path) -> list:
    """The rows of an object: the one list of objects in {"data": [...]} or {"train": [...]}, or the object as a row."""
    lists = [value for value in content.values() if isinstance(value, list) and all(isinstance(v, dict) for v in value)]
    turns = any(turn.keys() & {"role", "from"} for several in lists for turn in several)
    if turns or not lists or "instruction" in content:
        return [content]
    if len(lists) > 1:
        raise UserError(f"{file}: expected a list of objects, one object, or an object that holds one list of them")
    return lists[0]


def _csv(file: Path) -> Iterator[Located]:
    """Rows under the header's names. A stray quote in a field stays in it, where the field's end is clear."""
    csv.field_size_limit(2**31 - 1)
    separator, record = "\t" if suffix(file) == ".tsv" else ",", []
    with _open(file, newline="") as opened:
        lines = csv.reader((record.append(line) or line for line in opened), delimiter=separator)
        header, first = None, 1
        try:
            for row in lines:
                if header is None:
                    header = row
                elif row:
                    row = _stray_quotes(row, record, separator)
                    if len(row) != len(header):
                        quote = " (a quote opens a field there and closes lines later)" if len(record) > 1 else ""
                        raise UserError(
                            f"{file}, line {first}: not as many fields as the header's {len(header)}{quote}"
                        )
                    yield f"line {first}", dict(zip(header, row, strict=True))
                record.clear()
                first = lines.line_num + 1
        except csv.Error as error:
            raise UserError(f"{file}, line {first}: not CSV ({error})") from error


def _stray_quotes(row: list[str], record: list[str], separator: str) -> list[str]:
    """The fields of a line; as they stand where `"Yes" she said.` begins with a quote that is not the field's."""
    if len(record) > 1 or '"' not in record[0]:
        return row
    try:
        return next(csv.reader(record, delimiter=separator, strict=True))
    except csv.Error:
        plain = record[0].rstrip("\r\n").split(separator)
        return plain if len(plain) == len(row) else row


def _parquet(file: Path) -> Iterator[Located]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        batches = pq.ParquetFile(file).iter_batches(batch_size=1000)
        yield from indexed(row for batch in batches for row in batch.to_pylist())
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: not a Parquet file ({str(error).splitlines()[0]})") from error


def _text(file: Path, separator: str | None) -> Iterator[Located]:
    with _open(file) as opened:
        content = opened.read()
    parts = [part for part in (content.split(separator) if separator else [content]) if part.strip()]
    for number, part in enumerate(parts, 1):
        yield f"text {number}", {"text": part.strip("\n")}


def _open(file: Path, **keywords):
    opener = gzip.open if file.suffix == ".gz" else open
    return opener(file, "rt", encoding="utf-8-sig", **keywords)


def _is_lines(text: str) -> bool:
    """A .json file that is JSONL after all: its first line is an object and more follows."""
    first, _, rest = text.lstrip().partition("\n")
    try:
        return isinstance(json.loads(first), dict) and bool(rest.strip())
    except json.JSONDecodeError:
        return False


def _object(row: object, place: str) -> dict:
    if not isinstance(row, dict):
        raise UserError(f'{place}: found {type(row).__name__}, expected an object such as {{"prompt": …}}')
    return row


_CARD = re.compile(r"(readme|license|licence|notice|changelog)(\..*)?", re.IGNORECASE)
_SPLITS = {"train": "train|training", "validation": "validation|valid|val|dev", "test": "test|testing|eval|evaluation"}
READERS = {
    **{".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet},
    **{".txt": _text, ".text": _text, ".md": _text},
}
