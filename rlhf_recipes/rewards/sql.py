"""Rewards for text to SQL: does the query return the gold query's rows, is it the same query, does it compile?

Predictions run in a sandbox (see sqlite_sandbox). A query that tries to write, to attach a file or to run for ever
scores 0.
"""

from collections import Counter
from collections.abc import Mapping
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

from rlhf_recipes.errors import RowError, UserError
from rlhf_recipes.rewards.messages import Text, column_of, text_of
from rlhf_recipes.rewards.sql_tables import made_up
from rlhf_recipes.rewards.sql_text import order_of, query_in, same_query, schema_of
from rlhf_recipes.rewards.sqlite_sandbox import SANDBOX, Database, Limits, Row

_SEEDS = 16  # fillings that are tried for a gold query before it counts as one that tells nothing

Block = tuple[int, Counter]  # a number of rows, and the rows they may be: they tie, so their order is free
Tests = tuple[tuple[Database, list[Block]], ...]  # databases, and the gold query's rows in each


def execution(
    prompts: list[Text],
    completions: list[Text],
    *,
    column: str = "sql",
    database: str = "",
    context_column: str = "context",
    fillings: int = 3,
    ignore_case: bool = False,
    skip_empty: bool = True,
    tag: str = "answer",
    seconds: float = 1.0,
    max_rows: int = 10_000,
    reward: float = 1.0,
    **columns: Any,
) -> list[float | None]:
    """Execution accuracy: the predicted query returns the gold query's rows, in order if the gold query orders them.

    Args:
        column: the dataset column with the gold query.
        database: an SQLite file with rows; `{db_id}` in it stands for the dataset column of that name. Empty: tables
            are made from the CREATE TABLE statements of `context_column` and filled with seeded rows.
        context_column: read only where `database` is empty.
        fillings: how many differently filled databases a prediction must get right (only where `database` is empty).
        ignore_case: in such databases, compare text without regard to case.
        skip_empty: give None where the gold query returns no rows, since any query without rows would equal it.
        tag: the XML tag that may hold the query.
        seconds, max_rows: limits of one query.
        reward: for the same rows. Numbers are equal if 9 digits agree. Columns must have the gold query's order; rows
            that tie in its ORDER BY may come in any order.

    Returns:
        `reward` or 0.0 a row; None where the gold query is None, fails, or tells nothing.

    Raises:
        UserError: the database file or the context is missing, or `fillings` is below 1.

    >>> rows = {"sql": ["SELECT a FROM t WHERE b > 2"] * 3, "context": ["CREATE TABLE t (a TEXT, b INT)"] * 3}
    >>> queries = ["SELECT a FROM t WHERE 2 < b", "SELECT a FROM t WHERE b > 3", "DROP TABLE t"]
    >>> execution(["?"] * 3, queries, **rows)
    [1.0, 0.0, 0.0]
    """
    if fillings < 1:
        raise UserError(f"kwargs.fillings is {fillings}; at least one database must be made.")
    limits = Limits(seconds=seconds, rows=max_rows)
    patient = Limits(seconds=5 * seconds, rows=max_rows)  # its result is cached, so a slow moment would last
    golds = column_of(columns, column)
    queries = [query_in(text_of(completion), tag) for completion in completions]
    scores: list[float | None] = [None] * len(completions)
    groups: dict[tuple[str, str], list[int]] = {}  # rows that share database and gold query
    for i, gold in enumerate(golds):
        if gold is not None:
            place = _path(database, columns, i) if database else str(column_of(columns, context_column)[i])
            groups.setdefault((place, _bare(gold)), []).append(i)
    for (place, gold), members in groups.items():
        if database:
            tests = _test_on_file(place, gold, patient, skip_empty)
        else:
            tests = _tests_on_fillings(place, gold, patient, fillings, ignore_case)
        if not tests:
            continue
        right = sorted({query for i in members if (query := queries[i])})
        for base, expected in tests:  # the queries that are right in all of them stay
            results = SANDBOX.run(base, right, limits)
            rows = [result.rows for result in results]
            right = [q for q, r in zip(right, rows, strict=True) if r is not None and same_rows(r, expected)]
        for i in members:
            scores[i] = reward * (queries[i] in right)
    return scores


def exact_match(
    prompts: list[Text],
    completions: list[Text],
    *,
    column: str = "sql",
    tag: str = "answer",
    reward: float = 1.0,
    **columns: Any,
) -> list[float | None]:
    """The predicted query is the gold one. Case of names and keywords, white space and comments do not matter.

    Args:
        column, tag: as for `execution`.
        reward: for the same query.

    >>> exact_match(["?"] * 2, ["select A from t", "select b from t"], sql=["SELECT a FROM t;"] * 2)
    [1.0, 0.0]
    """
    return [
        None if gold is None else reward * same_query(query_in(text_of(completion), tag) or "", _bare(gold))
        for completion, gold in zip(completions, column_of(columns, column), strict=True)
    ]


def parses(
    prompts: list[Text],
    completions: list[Text],
    *,
    database: str = "",
    context_column: str = "context",
    tag: str = "answer",
    reward: float = 1.0,
    **columns: Any,
) -> list[float]:
    """The completion holds one query that compiles against the tables and only reads. The query is not run.

    Args:
        database, context_column, tag: as for `execution`.
        reward: for a query that compiles.

    >>> parses(["?"] * 2, ["SELECT a FROM t", "SELECT c FROM t"], context=["CREATE TABLE t (a TEXT)"] * 2)
    [1.0, 0.0]
    """

    def compiles(query: str | None, i: int) -> bool:
        if database:
            base = Database(path=_path(database, columns, i))
        else:
            base = made_up(schema_of(str(column_of(columns, context_column)[i])), "", seed=0, rows=0)
        return query is not None and SANDBOX.run(base, [query], Limits(), explain=True)[0].error is None

    return [reward * compiles(query_in(text_of(c), tag), i) for i, c in enumerate(completions)]


def same_rows(rows: list[Row], blocks: list[Block]) -> bool:
    """Whether the rows are those of the blocks, block by block.

    >>> either = Counter([(1, "a"), (2, "b")])
    >>> same_rows([(2.0, "b"), (1, "a")], [(2, either)]), same_rows([(1, "a"), (1, "a")], [(2, either)])
    (True, False)
    """
    if len(rows) != sum(size for size, _ in blocks):
        return False
    left = iter(map(_rounded, rows))
    return all(Counter(islice(left, size)) <= allowed for size, allowed in blocks)


def _bare(gold: object) -> str:
    return str(gold).strip().rstrip("; \n")


def _rounded(row: Row) -> Row:
    return tuple(float(f"{cell:.9g}") if isinstance(cell, float) else cell for cell in row)


def _blocks(base: Database, gold: str, rows: list[Row], limits: Limits) -> list[Block]:
    """The gold query's rows: one block if it has no ORDER BY, else one block for each set of rows that tie.

    The sort keys are not needed to find the ties. The query runs twice, with its ties ordered by the output columns
    upwards and downwards: at the end of each tie both runs have returned the same rows. A LIMIT may pick any rows of
    a tie that it cuts.
    """
    order = order_of(gold)
    if order is None or not rows:
        return [(len(rows), Counter(map(_rounded, rows)))]
    query, skipped = order
    each = range(1, len(rows[0]) + 1)
    runs = [query + "\n" + "".join(f", {i} COLLATE BINARY {way}" for i in each) for way in ("ASC", "DESC")]
    up, down = (list(map(_rounded, result.rows or [])) for result in SANDBOX.run(base, runs, limits))
    blocks, start, uneven = [], 0, Counter()
    for end, pair in enumerate(zip(up, down, strict=False), 1):
        for row, change in zip(pair, (1, -1), strict=True):
            uneven[row] += change
            if not uneven[row]:
                del uneven[row]
        if not uneven:
            size = min(end, skipped + len(rows)) - max(start, skipped)
            if size > 0:
                blocks.append((size, Counter(up[start:end])))
            start = end
    strict = [(1, Counter([_rounded(row)])) for row in rows]  # if the two runs failed or do not agree
    return blocks if same_rows(rows, blocks) else strict


@lru_cache(maxsize=1024)  # a group of completions shares its gold query
def _test_on_file(path: str, gold: str, limits: Limits, skip_empty: bool) -> Tests:
    base = Database(path=path)
    rows = SANDBOX.run(base, [gold], limits)[0].rows
    return () if rows is None or (skip_empty and not rows) else ((base, _blocks(base, gold, rows, limits)),)


@lru_cache(maxsize=1024)
def _tests_on_fillings(context: str, gold: str, limits: Limits, fillings: int, ignore_case: bool) -> Tests:
    tables = schema_of(context)
    if not tables:
        raise RowError(
            f"no CREATE TABLE statement in the context {context[:60]!r}. Give an SQLite file as kwargs.database, "
            "or the column with the statements as kwargs.context_column."
        )
    tests: list[tuple[Database, list[Block]]] = []
    for seed in range(_SEEDS):
        base = made_up(tables, gold, seed, ignore_case=ignore_case)
        result = SANDBOX.run(base, [gold], limits)[0]
        if result.rows and any(cell not in (None, 0) for row in result.rows for cell in row):
            tests.append((base, _blocks(base, gold, result.rows, limits)))
        if result.rows is None or len(tests) == fillings:
            break
    return tuple(tests)


def _path(database: str, columns: Mapping[str, Any], i: int) -> str:
    """The file for row `i`: `database` with its `{column}` placeholders filled in."""
    try:
        path = database.format_map({k: v[i] for k, v in columns.items() if isinstance(v, list) and i < len(v)})
    except KeyError as error:
        raise UserError(f"kwargs.database is {database!r}, but the rows have no column {error}.") from error
    if not Path(path).is_file():
        kind = UserError if path == database else RowError
        raise kind(f"no SQLite file {path} (kwargs.database is {database!r}).")
    return str(Path(path).resolve())
