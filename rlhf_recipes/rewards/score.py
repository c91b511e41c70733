"""`stage=score`: try rewards on a file of answers before spending an hour of training on them."""

import json
import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf_recipes.errors import RowError, UserError
from rlhf_recipes.rewards.combine import RewardFunctions, rows_of
from rlhf_recipes.rewards.messages import text_of
from rlhf_recipes.runs.jsonl import rewrite_jsonl

_BATCH = 16  # rows scored together: a judge works on them in parallel, and the slowest batch is still a small place


def score_file(
    rewards: RewardFunctions | None,
    file: str | Path,
    out: str | Path,
    token_ids: Callable[[str], list[int]] | None = None,
) -> dict[str, Any]:
    """Score the rows of a JSONL file, write one output row for each, and sum up.

    A function that fails on a row is noted there and does not stop the others. One that fails for a reason that no row
    causes (no such column, no endpoint) is not called again, and the reason is noted on all remaining rows.

    Args:
        rewards: what computes the scores.
        file: rows {"prompt", "completion", and whatever columns the rewards read}.
        out: where the scores go, {"line", "prompt", "completion", "score", "reward/<name>"..., what functions gave
            `log_extra`, and, if any, "errors": {name: why}}; written in one step. `score` is null where a function
            failed and where no function that counts has a score.
        token_ids: makes `completion_ids` of a completion's text, where the rows have none.

    Returns:
        {"rows", "seconds", "score": stats, "logged": {name: mean of what functions gave `log_metric`},
        "functions": {name: stats + weight, gate, failures, first_failure,
        stopped (why the function was not called to the end, or None), seconds_per_row, slowest}}. Stats are mean, std,
        min, max and count of the rows with a score, None where there is none; slowest is {"lines": [first, last],
        "seconds_per_row"} of the slowest batch.

    Raises:
        UserError: there are no rewards, the file is missing, `out` is the same file, or a line is not a row.
    """
    if rewards is None or not rewards.parts:
        raise UserError("there is nothing to score with: choose a reward, for example reward=gsm8k.")
    start = time.perf_counter()
    rows = _rows(Path(file))
    lines = list(rows)
    if Path(out).exists() and Path(out).samefile(file):
        raise UserError(f"the scores would replace the answers in {file}; give another file as score.out=<file>.")
    if token_ids is not None:
        for row in rows.values():
            row.setdefault("completion_ids", token_ids(text_of(row["completion"])))
    records = {name: _Record(rewards, name, [None] * len(rows)) for name in rewards.parts}
    names = dict.fromkeys(name for row in rows.values() for name in row)
    columns = {name: [row.get(name) for row in rows.values()] for name in names}  # None where a row lacks the column
    for first in range(0, len(rows), _BATCH):
        batch = rows_of(columns, first, first + _BATCH, len(rows))
        for record in records.values():
            record.score(first, batch, lines[first : first + _BATCH])

    by_name = {name: record.scores for name, record in records.items()}
    totals: list[float | None] = list(rewards.combine(by_name, len(rows)))
    written = []
    for i, (line, row) in enumerate(rows.items()):
        errors = {name: record.errors[i] for name, record in records.items() if i in record.errors}
        totals[i] = None if errors else totals[i]
        own = {"line": line, "prompt": row["prompt"], "completion": row["completion"], "score": totals[i]}
        own |= {f"reward/{name}": scores[i] for name, scores in by_name.items()}
        for record in records.values():
            own |= {column: values[i] for column, values in record.extra.items() if i in values and column not in own}
        written.append(own | ({"errors": errors} if errors else {}))
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    rewrite_jsonl(Path(out), written)
    seconds = time.perf_counter() - start
    functions = {name: record.summary() for name, record in records.items()}
    logged = {name: statistics.fmean(v.values()) for r in records.values() for name, v in r.metrics.items()}
    summary = {"rows": len(rows), "seconds": seconds, "score": _stats(totals), "logged": logged}
    return summary | {"functions": functions}


@dataclass
class _Record:
    """One function's scores, failures and time."""

    rewards: RewardFunctions
    name: str
    scores: list[float | None]
    errors: dict[int, str] = field(default_factory=dict)
    metrics: dict[str, dict[int, float]] = field(default_factory=lambda: defaultdict(dict))  # by the batch's first row
    extra: dict[str, dict[int, Any]] = field(default_factory=lambda: defaultdict(dict))  # by row
    stopped: str | None = None
    seconds: float = 0.0
    slowest: dict[str, Any] = field(default_factory=lambda: {"lines": [], "seconds_per_row": 0.0})

    def score(self, first: int, columns: Mapping[str, list], lines: list[int]) -> None:
        """Score the rows from `first` on; `lines` says where they stand in the file."""
        start = time.perf_counter()
        self._try(first, columns, len(lines))
        seconds = time.perf_counter() - start
        self.seconds += seconds
        if seconds / len(lines) > self.slowest["seconds_per_row"]:
            self.slowest = {"lines": [lines[0], lines[-1]], "seconds_per_row": seconds / len(lines)}

    def _try(self, first: int, columns: Mapping[str, list], rows: int) -> None:
        if self.stopped is None:
            own = dict(columns)
            own["log_metric"] = lambda name, value: self.metrics[name].update({first: float(value)})
            own["log_extra"] = lambda column, values: self.extra[column].update(enumerate(values, first))
            try:
                scores = self.rewards.score_by(self.name, own.pop("prompt"), own.pop("completion"), own)
                self.scores[first : first + rows] = scores
                return
            except RowError as error:
                if rows == 1:
                    self.errors[first] = str(error)
                else:  # one by one: the rows that do not fail keep their scores
                    for i in range(rows):
                        self._try(first + i, rows_of(columns, i, i + 1, rows), 1)
                return
            except UserError as error:
                self.stopped = str(error)
        self.errors |= dict.fromkeys(range(first, first + rows), self.stopped)

    def summary(self) -> dict[str, Any]:
        part = self.rewards.parts[self.name]
        return {
            "weight": part.weight,
            "gate": part.gate,
            **_stats(self.scores),
            "failures": len(self.errors),
            "first_failure": next(iter(self.errors.values()), None),
            "stopped": self.stopped,
            "seconds_per_row": self.seconds / len(self.scores),
            "slowest": self.slowest,
        }


def show(summary: Mapping[str, Any]) -> None:
    """Print the summary of `score_file` as a table, then the slowest function and the failures."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    functions = summary["functions"]
    title = f"{summary['rows']} rows in {summary['seconds']:.1f} s"
    table = Table(title=title, box=SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("reward", overflow="fold", min_width=14)
    for heading in ("weight", "mean", "std", "min", "max", "scored", "failed", "ms/row"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, stats in functions.items():
        milliseconds = f"{1000 * stats['seconds_per_row']:.2f}"
        table.add_row(name, f"{stats['weight']:g}", *_cells(stats), str(stats["failures"]), milliseconds)
    for name, mean in summary["logged"].items():
        table.add_row(name, "", f"{mean:.3f}")
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
            message = f"{stats['failures']} rows failed, first: {stats['first_failure']}"
            console.print(message, markup=False, style="red")


def check(summary: Mapping[str, Any]) -> None:
    """Whether a training with these rewards could have scored the rows.

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
    spread = statistics.pstdev(known, mean)
    return {"mean": mean, "std": spread, "min": min(known), "max": max(known), "count": len(known)}


def _rows(file: Path) -> dict[int, dict[str, Any]]:
    """The rows by the number of the line that each stands in."""
    if not file.is_file():
        raise UserError(f"no file {file} to score. Give JSONL rows with prompt and completion as score.file=<file>.")
    rows = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{file} line {number} is not JSON ({error}); expected one row a line.") from error
        for key in ("prompt", "completion"):
            if not isinstance(row, dict) or key not in row:
                raise UserError(f"{file} line {number} has no {key}; a row to score needs prompt and completion.")
            messages = isinstance(row[key], list) and all(isinstance(m, dict) and "role" in m for m in row[key])
            if not messages and not isinstance(row[key], str):
                raise UserError(f"{file} line {number}: {key} is neither a text nor a list of messages with a role.")
        rows[number] = row
    if not rows:
        raise UserError(f"{file} is empty; expected JSONL rows with prompt and completion.")
    return rows
