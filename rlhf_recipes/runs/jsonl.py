"""Rows in a file, one JSON object a line, that a kill at any moment leaves readable."""

import json
import os
from pathlib import Path


def read_jsonl(path: Path) -> list[dict]:
    """Rows of a file that may end in a torn line (the run was killed while writing it), in the middle of a character.

    Lines end at a line feed only: an answer may hold any other character that Unicode calls a line's end.
    """
    rows = []
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
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
