"""Runs hostile queries in a process of its own. The parent kills it if a query gets past the limits below.

Started by `sqlite_sandbox.py` with the standard library alone. Reads one JSON job a line, writes one JSON line a query:

    {"path": file or null, "tables": [[name, [[column, type], ...], [row, ...]], ...], "queries": [...],
     "explain": false, "seconds": 1.0, "steps": 10**7, "rows": 1000, "bytes": 10**6}
    {"rows": [[...], ...]}  or  {"error": "..."}
"""

import json
import sqlite3
import sys
import time
from pathlib import Path

try:
    import resource
except ImportError:  # Windows
    resource = None

MEMORY = 256 << 20  # bytes of this process's data
HEAP = MEMORY // 2  # bytes of it for SQLite; the rest is for Python and for one row as Python objects
OPS_A_CALL = 1000  # virtual machine steps between two checks of the clock
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
LIMITS = {  # of a connection; each prevents one way to make a single step slow or large
    sqlite3.SQLITE_LIMIT_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 10_100,
    sqlite3.SQLITE_LIMIT_COLUMN: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 50,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 100_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 50,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}


class TooMuch(Exception):
    """A result is longer than the job allows."""


def allow(action: int, first: str | None, second: str | None, *_: object) -> int:
    """SQLite's authorizer: reading and computing, nothing else."""
    if action == sqlite3.SQLITE_FUNCTION:
        return (
            sqlite3.SQLITE_DENY if (second or "").lower() in ("load_extension", "fts3_tokenizer") else sqlite3.SQLITE_OK
        )
    return sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY


def open_database(job: dict) -> sqlite3.Connection:
    """A read-only connection: to a file, or to tables made in memory."""
    if job["path"]:
        address = Path(job["path"]).resolve().as_uri() + "?mode=ro&immutable=1"
        connection = sqlite3.connect(address, uri=True, isolation_level=None)
    else:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        for name, columns, rows in job["tables"]:
            quoted = [f"{_quote(column)} {kind}" for column, kind in columns]
            connection.execute(f"CREATE TABLE {_quote(name)} ({', '.join(quoted)})")
            marks = ", ".join("?" * len(columns))
            connection.executemany(f"INSERT INTO {_quote(name)} VALUES ({marks})", rows)
    connection.execute("PRAGMA query_only = 1")
    connection.execute("PRAGMA trusted_schema = 0")
    connection.execute("PRAGMA temp_store = 2")  # sorting and temporary tables in memory, never on the disk
    connection.execute(f"PRAGMA hard_heap_limit = {HEAP}")
    for limit, value in LIMITS.items():
        connection.setlimit(limit, value)
    connection.set_authorizer(allow)
    return connection


def answer(connection: sqlite3.Connection, query: str, job: dict) -> dict:
    """The rows of one query, or why there are none."""
    deadline = time.monotonic() + job["seconds"]
    steps = size = 0

    def text(raw: bytes) -> str:
        """Count a cell's bytes, then decode it: as Python strings a row may take four times its bytes."""
        nonlocal size
        size += len(raw)
        if size > job["bytes"]:
            raise TooMuch
        return raw.decode("utf-8", "replace")

    def tick() -> bool:
        nonlocal steps
        steps += OPS_A_CALL
        return steps > job["steps"] or time.monotonic() > deadline

    connection.text_factory = text
    connection.set_progress_handler(tick, OPS_A_CALL)
    try:
        cursor = connection.execute(f"EXPLAIN {query}" if job["explain"] else query)
        if cursor.description is None:
            return {"error": "not a query"}
        if job["explain"]:
            return {"rows": []}
        rows = []
        for row in cursor:
            size += sum(len(cell) if isinstance(cell, bytes) else 8 for cell in row if not isinstance(cell, str))
            if len(rows) >= job["rows"] or size > job["bytes"]:
                raise TooMuch
            rows.append([{"blob": cell.hex()} if isinstance(cell, bytes) else cell for cell in row])
        return {"rows": rows}
    except TooMuch:
        return {"error": "too much output"}
    except (sqlite3.Error, sqlite3.Warning, MemoryError, ValueError, OverflowError) as error:
        return {"error": "out of time or steps" if "interrupted" in str(error) else f"{type(error).__name__}: {error}"}
    finally:
        connection.set_progress_handler(None, 0)


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def limit_memory() -> None:
    """Let the kernel refuse more data than MEMORY. macOS cannot; there only the other limits hold."""
    if resource is None:
        return
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        limit = MEMORY if hard == resource.RLIM_INFINITY else min(MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    except (ValueError, OSError) as error:
        print(f"SQL queries run without a limit on the process's memory: {error}", file=sys.stderr)


def main() -> None:
    limit_memory()
    for line in sys.stdin:
        job = json.loads(line)
        try:
            connection = open_database(job)
        except sqlite3.Error as error:
            for _ in job["queries"]:
                print(json.dumps({"error": f"cannot open the database: {error}"}), flush=True)
            continue
        for query in job["queries"]:
            print(json.dumps(answer(connection, query, job)), flush=True)
        connection.close()


if __name__ == "__main__":
    main()
