"""`stage=score`: try rewards on a file of answers before an hour of training is spent on them."""

import json
import math
import os
import statistics
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rlhf_recipes.errors import RowError, UserError
from rlhf_recipes.rewards.combine import RewardFunctions, rows_of

_BATCH = 16  # rows scored together: a judge works on them at once, and a slow one is still found


def score_file(rewards: RewardFunctions | None, file: str | Path, out: str | Path) -> dict[str, Any]:
    """Score the rows of a JSONL file, one output row each, and sum up.

    A function that fails on a row is noted there and does not stop the others. One that fails for a reason of its own
    (no such column, no endpoint) is not asked again, and its reason is noted on all the rows that are left.

    Args:
        rewards: what computes the scores.
        file: rows {"prompt", "completion", and whatever columns the rewards read}.
        out: where the scores go, {"line", "prompt", "completion", "score", "reward/<name>"... and, if any,
            "errors": {name: why}}; written whole or not at all. `score` is null where a function failed.

    Returns:
        {"rows", "seconds", "score": stats, "functions": {name: stats + weight, gate, failures, first_failure,
        stopped (why the function was not asked to the end, or None), seconds_per_row, slowest}}. Stats are mean, std,
        min, max and count of the rows with a score, None where there is none; slowest is {"lines": [first, last],
        "seconds_per_row"} of the slowest batch.

    Raises:
        UserError: there are no rewards, the file is missing, `out` is the same one, or a line is no row.
    """
    if rewards is None or not rewards.parts:
        raise UserError("there is nothing to score with: choose a reward, for example reward=gsm8k.")
    start = time.perf_counter()
    rows, lines = _rows(Path(file))
    if Path(out).exists() and Path(out).samefile(file):
        raise UserError(f"the scores would replace the answers in {file}; give another file as score.out=<file>.")
    functions = {name: _Tally(name, len(rows)) for name in rewards.parts}
    names = dict.fromkeys(name for row in rows for name in row if name not in ("prompt", "completion"))
    for first in range(0, len(rows), _BATCH):
        prompts, completions, columns = _batch(rows[first : first + _BATCH], names)
        for tally in functions.values():
            tally.score(rewards, first, prompts, completions, columns, lines)

    by_name = {name: tally.scores for name, tally in functions.items()}
    totals: list[float | None] = list(rewards.combine(by_name, len(rows)))
    written = []
    for i, row in enumerate(rows):
        errors = {name: tally.errors[i] for name, tally in functions.items() if i in tally.errors}
        totals[i] = None if errors else totals[i]
        scores = {f"reward/{name}": column[i] for name, column in by_name.items()}
        written.append(
            {"line": lines[i], "prompt": row["prompt"], "completion": row["completion"], "score": totals[i], **scores}
            | ({"errors": errors} if errors else {})
        )
    _write(Path(out), written)
    return {
        "rows": len(rows),
        "seconds": time.perf_counter() - start,
        "score": _stats(totals),
        "functions": {
            name: {"weight": rewards.parts[name].weight, "gate": rewards.parts[name].gate, **tally.summary()}
            for name, tally in functions.items()
        },
    }


class _Tally:
    """One function's scores, failures and time."""

    def __init__(self, name: str, rows: int):
        self.name = name
        self.scores: list[float | None] = [None] * rows
        self.errors: dict[int, str] = {}
        self.stopped: str | None = None
        self.seconds = 0.0
        self.slowest: dict[str, Any] = {"lines": [], "seconds_per_row": 0.0}

    def score(
        self, rewards: RewardFunctions, first: int, prompts: list, completions: list, columns: dict, lines: list
    ) -> None:
        rows = len(completions)
        start = time.perf_counter()
        self._try(rewards, first, prompts, completions, columns)
        seconds = time.perf_counter() - start
        self.seconds += seconds
        if seconds / rows > self.slowest["seconds_per_row"]:
            self.slowest = {"lines": [lines[first], lines[first + rows - 1]], "seconds_per_row": seconds / rows}

    def _try(self, rewards: RewardFunctions, first: int, prompts: list, completions: list, columns: dict) -> None:
        rows = len(completions)
        if self.stopped is None:
            try:
                self.scores[first : first + rows] = rewards.score_by(self.name, prompts, completions, columns)
                return
            except RowError as error:
                if rows == 1:
                    self.errors[first] = str(error)
                    return
                for i in range(rows):  # find which rows fail, keep the others
                    only = rows_of(columns, i, i + 1, rows)
                    self._try(rewards, first + i, prompts[i : i + 1], completions[i : i + 1], only)
                return
            except UserError as error:
                self.stopped = str(error)
        self.errors |= dict.fromkeys(range(first, first + rows), self.stopped)

    def summary(self) -> dict[str, Any]:
        return {
            **_stats(self.scores),
            "failures": len(self.errors),
            "first_failure": next(iter(self.errors.values()), None),
            "stopped": self.stopped,
            "seconds_per_row": self.seconds / len(self.scores),
            "slowest": self.slowest,
        }


def show(summary: Mapping[str, Any]) -> None:
    """The summary of `score_file` as a table on the screen; below it the slowest function, and what failed."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    functions = summary["functions"]
    table = Table(
        title=f"{summary['rows']} rows in {summary['seconds']:.1f} s",
        box=SIMPLE_HEAD,
        collapse_padding=True,
        pad_edge=False,
    )
    table.add_column("reward", overflow="fold", min_width=14)
    for heading in ("weight", "mean", "std", "min", "max", "scored", "failed", "ms/row"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, stats in functions.items():
        milliseconds = f"{1000 * stats['seconds_per_row']:.2f}"
        table.add_row(name, f"{stats['weight']:g}", *_cells(stats), str(stats["failures"]), milliseconds)
    table.add_section()
    table.add_row("score", "", *_cells(summary["score"]), "", "")
    console = Console()
    console.print(table)
    name, stats = max(functions.items(), key=lambda item: item[1]["seconds_per_row"])
    lines = "-".join(map(str, stats["slowest"]["lines"]))
    slowest = 1000 * stats["slowest"]["seconds_per_row"]
    console.print(f"slowest: {name}, up to {slowest:.2f} ms a row (lines {lines})", markup=False, highlight=False)
    for stats in functions.values():
        if stats["failures"]:
            console.print(
                f"{stats['failures']} rows failed, first: {stats['first_failure']}", markup=False, style="red"
            )


def check(summary: Mapping[str, Any]) -> None:
    """Whether a training with these rewards could have scored its rows.

    Args:
        summary: of `score_file`.

    Raises:
        UserError: a function that counts (a metric of weight 0 does not) stopped, or failed on every row.
    """
    for name, stats in summary["functions"].items():
        counts = stats["weight"] or stats["gate"]
        if counts and (stats["stopped"] or stats["failures"] == summary["rows"]):
            share = f"{stats['failures']} of {summary['rows']} rows"
            raise UserError(f"no score by '{name}' for {share}: {stats['stopped'] or stats['first_failure']}")


def _cells(stats: Mapping[str, Any]) -> list[str]:
    numbers = ["-" if stats[key] is None else f"{stats[key]:.3f}" for key in ("mean", "std", "min", "max")]
    return [*numbers, str(stats["count"])]


def _stats(scores: list[float | None]) -> dict[str, float | int | None]:
    known = [score for score in scores if score is not None]
    if not known:
        return {"mean": None, "std": None, "min": None, "max": None, "count": 0}
    mean = math.fsum(known) / len(known)
    return {
        "mean": mean,
        "std": statistics.pstdev(known, mean),
        "min": min(known),
        "max": max(known),
        "count": len(known),
    }


def _rows(file: Path) -> tuple[list[dict[str, Any]], list[int]]:
    """The rows, and the line each stands in."""
    if not file.is_file():
        raise UserError(f"no file {file} to score. Give JSONL rows with prompt and completion as score.file=<file>.")
    rows, lines = [], []
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file} line {number} is no JSON ({error}); expected one row a line.") from error
        missing = [key for key in ("prompt", "completion") if not isinstance(row, dict) or key not in row]
        if missing:
            raise UserError(f"{file} line {number} has no {missing[0]}; a row to score needs prompt and completion.")
        for key in ("prompt", "completion"):
            if not _is_text(row[key]):
                raise UserError(f"{file} line {number}: {key} is neither a text nor a list of messages with a role.")
        rows.append(row)
        lines.append(number)
    if not rows:
        raise UserError(f"{file} is empty; expected JSONL rows with prompt and completion.")
    return rows, lines


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or (
        isinstance(value, list) and all(isinstance(m, dict) and "role" in m for m in value)
    )


def _batch(rows: list[dict[str, Any]], names: Iterable[str]) -> tuple[list, list, dict[str, list]]:
    columns = {name: [row.get(name) for row in rows] for name in names}  # a row without the column has None there
    return [row["prompt"] for row in rows], [row["completion"] for row in rows], columns


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    os.replace(partial, out)
