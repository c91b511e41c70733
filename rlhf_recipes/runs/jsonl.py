"""JSON in a file, one object or one a line, that a kill at any moment leaves readable."""

import json
import os
import tempfile
from pathlib import Path


def write_json(path: Path, content: object) -> None:
    """Write a file in one step: a reader sees the old content or the new, never half of it."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        json.dump(content, file, indent=2, ensure_ascii=False, allow_nan=True)
        file.flush()
        os.fsync(file.fileno())
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def read_json(path: Path) -> dict | None:
    """A JSON file's content, None where it is absent or torn."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def read_jsonl(path: Path) -> list[dict]:
    """The rows of a file. A line that the run was killed in the middle of, maybe inside a character, is passed over.

    Lines end at a line feed only: an answer may hold any other character that Unicode calls a line's end.
    """
    rows = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        rows += [row] if isinstance(row, dict) else []
    return rows


def rewrite_jsonl(path: Path, rows: list[dict]) -> None:
    """Replace a file's rows in one step."""
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(part, path)


def forget_after(path: Path, step: int) -> None:
    """Keep the rows up to a training step: those after it are what a resumed run will write again."""
    if path.exists():
        rewrite_jsonl(path, [row for row in read_jsonl(path) if row["step"] <= step])
