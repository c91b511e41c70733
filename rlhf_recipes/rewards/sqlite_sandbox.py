"""Runs untrusted queries on SQLite within a time limit.

The queries run in a child process (`sqlite_worker.py`), on a read-only connection with an authorizer that allows only
reading, and with limits on time, steps, rows, bytes and memory. If a query gets past all of these, its process is
killed and a new one is started.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path

_WORKER = Path(__file__).with_name("sqlite_worker.py")
_GRACE = 1.0  # seconds beyond the limit before the process is killed

Row = tuple
Table = tuple[str, list[tuple[str, str]], list[list]]  # name, (column, type), rows


@dataclass(frozen=True)
class Limits:
    """Limits of one query: `steps` of SQLite's virtual machine, `bytes` of the result."""

    seconds: float = 1.0
    steps: int = 10_000_000
    rows: int = 10_000
    bytes: int = 1_000_000


@dataclass(frozen=True)
class Database:
    """An SQLite file, or tables that the worker creates in memory for each job."""

    path: str | None = None
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Result:
    """A query's rows, or its error."""

    rows: list[Row] | None = None
    error: str | None = None


class Sandbox:
    """A worker process, started with the first job and again after it was killed. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0  # a forked child must not talk through its parent's pipes

    def run(self, database: Database, queries: list[str], limits: Limits, explain: bool = False) -> list[Result]:
        """Each query's result, in order.

        Args:
            explain: only compile the queries; a valid one has no rows.
        """
        with self._lock:
            results: list[Result] = []
            while len(results) < len(queries):
                results += self._some(database, queries[len(results) :], limits, explain)
            return results

    def close(self) -> None:
        """End the worker; the next job starts another."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
        self._process = None

    def _some(self, database: Database, queries: list[str], limits: Limits, explain: bool) -> list[Result]:
        """Results until the worker dies; the query that it died of gets an error."""
        process = self._started()
        job = {"path": database.path, "tables": database.tables, "queries": queries, "explain": explain}
        results: list[Result] = []
        try:
            process.stdin.write(json.dumps(job | asdict(limits)) + "\n")
            process.stdin.flush()
            for _ in queries:
                timer = threading.Timer(limits.seconds + _GRACE, process.kill)
                timer.start()
                line = process.stdout.readline()
                timer.cancel()
                if not line:
                    break
                answer = json.loads(line)
                rows = answer.get("rows")
                results.append(Result(None if rows is None else [_row(row) for row in rows], answer.get("error")))
        except BrokenPipeError:
            pass
        if len(results) < len(queries):
            self.close()
            results.append(Result(error="killed: out of time or memory"))
        return results

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is None or self._owner != os.getpid() or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
            )
            self._owner = os.getpid()
        return self._process


def _row(cells: list) -> Row:
    return tuple(bytes.fromhex(cell["blob"]) if isinstance(cell, dict) else cell for cell in cells)


SANDBOX = Sandbox()
atexit.register(SANDBOX.close)
