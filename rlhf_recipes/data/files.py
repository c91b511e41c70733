"""Local files as rows: JSON, JSONL, CSV, Parquet and text, plain or gzipped. Imports nothing heavy but for Parquet."""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from glob import glob, has_magic
from pathlib import Path

from rlhf_recipes.errors import UserError


def reader(file: Path) -> Callable[[Path], Iterator[dict]] | None:
    """The reader for a file, by its suffix; None where there is none."""
    return READERS.get(suffix(file))


def suffix(file: Path) -> str:
    """A file's suffix in lower case, the one before .gz."""
    return Path(file.stem if file.suffix == ".gz" else file).suffix.lower()


def find(path: str, where: str) -> list[Path]:
    """The files that a path, a folder or a glob means, sorted.

    Raises:
        UserError: nothing is there, nothing can be read, or nothing is in it.
    """
    place = Path(path).expanduser()
    if has_magic(path) and not place.exists():
        files = [Path(file) for file in sorted(glob(str(place), recursive=True)) if Path(file).is_file()]
        if not files:
            raise UserError(f"{where}={path}: no file matches")
    elif place.is_dir():
        every = sorted(f for f in place.rglob("*") if f.is_file() and not _hidden(f.relative_to(place)))
        files = [file for file in every if reader(file)]
        if not files:
            there = ", ".join(file.name for file in every[:4]) or "nothing"
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


def read(file: Path, separator: str | None = "\n\n") -> Iterator[dict]:
    """The rows of one file.

    Args:
        file: with one of READERS' suffixes, perhaps followed by .gz.
        separator: text files only: what stands between documents; None makes the file one document.

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


def _jsonl(file: Path) -> Iterator[dict]:
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
            yield _object(row, f"{file}, line {number}")


def _json(file: Path) -> Iterator[dict]:
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
    if isinstance(rows, dict):  # {"data": [...]}, {"train": [...]}
        lists = [value for value in rows.values() if isinstance(value, list)]
        if len(lists) != 1:
            raise UserError(f"{file}: expected a list of objects, or an object that holds one list of them")
        rows = lists[0]
    if not isinstance(rows, list):
        raise UserError(f"{file}: expected a list of objects, found {type(rows).__name__}")
    for number, row in enumerate(rows, 1):
        yield _object(row, f"{file}, item {number}")


def _csv(file: Path) -> Iterator[dict]:
    csv.field_size_limit(2**31 - 1)
    with _open(file, newline="") as lines:
        reader = csv.DictReader(lines, delimiter="\t" if suffix(file) == ".tsv" else ",")
        try:
            for row in reader:
                if None in row or any(value is None for value in row.values()):
                    raise UserError(
                        f"{file}, line {reader.line_num}: not as many fields as the header's {len(reader.fieldnames)}"
                    )
                yield row
        except csv.Error as error:
            raise UserError(f"{file}, line {reader.line_num}: not CSV ({error})") from error


def _parquet(file: Path) -> Iterator[dict]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1000):
            yield from batch.to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: not a Parquet file ({str(error).splitlines()[0]})") from error


def _text(file: Path, separator: str | None) -> Iterator[dict]:
    with _open(file) as opened:
        content = opened.read()
    for part in content.split(separator) if separator else [content]:
        if part.strip():
            yield {"text": part.strip("\n")}


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


def _hidden(relative: Path) -> bool:
    return any(part.startswith((".", "_")) for part in relative.parts)


READERS = {
    **{".jsonl": _jsonl, ".ndjson": _jsonl, ".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet},
    **{".txt": _text, ".text": _text, ".md": _text},
}
