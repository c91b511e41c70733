"""Rows for tables that come without any, made so that a right and a wrong query return different rows.

This is test-suite accuracy (Zhong et al. 2020, arXiv:2010.02840) in its simplest form:

- Columns that the gold query compares hold its literals, near misses of them and other values.
- Joined columns share few values, and each has some that the others lack, for NOT IN and LEFT JOIN. Foreign keys hold.
- All other values are numbers, so that sums and maxima of every column differ.
- Some rows occur twice, for DISTINCT.
- Only a column that the gold query tests for NULL has NULLs: elsewhere COUNT(*) equals COUNT(a), and NOT IN is
  NOT EXISTS.
"""

import random
import re
from collections.abc import Iterator
from itertools import islice

from sqlglot import exp

from rlhf_recipes.rewards.sql_text import Schema, parsed
from rlhf_recipes.rewards.sqlite_sandbox import Database

_NUMERIC = re.compile(r"int|real|floa|doub|num|dec|bool", re.IGNORECASE)
_JOINED = 12  # values that joined columns share
_OWN = 4  # values that each of them has alone
_EXACT = 4  # first rows, which meet a condition in every column that has one
_COMPARED = {exp.EQ: "=", exp.NEQ: "!=", exp.GT: ">", exp.GTE: ">=", exp.LT: "<", exp.LTE: "<=", exp.Like: "like"}
_MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}

Value = int | float | str | None
Literal = tuple[Value, str]  # and how the column is compared with it


def made_up(schema: Schema, gold: str, seed: int, rows: int = 40, ignore_case: bool = False) -> Database:
    """A database for one gold query; the same arguments always give the same one.

    Args:
        schema: the tables to fill.
        gold: the query whose literals and joins the rows are made for.
        rows: of each table that the query names; the others get a quarter.
        ignore_case: compare text without regard to case, as WikiSQL's lower-cased golds need.

    >>> from rlhf_recipes.rewards.sql_text import schema_of
    >>> database = made_up(schema_of("CREATE TABLE t (a TEXT, b INT)"), "SELECT b FROM t WHERE a = 'x'", seed=0)
    >>> [row[0] for row in database.tables[0][2]][:3]
    ['x', 'x', 'x']
    """
    draw = random.Random(f"{seed} {gold}")
    names = {name.lower() for columns in schema.tables.values() for name, _ in columns}
    tree = parsed(gold) or exp.Select()
    literals, joined = _read(tree, names, schema.references)
    named = {table.name.lower() for table in tree.find_all(exp.Table)}
    groups: dict[str, list[tuple[str, str]]] = {}  # a group's columns: joined ones, and those of one name
    for table, columns in schema.tables.items():
        for name, _ in columns:
            groups.setdefault(joined.get(name.lower(), name.lower()), []).append((table, name))
    referring = {(table, name) for table, name, _ in schema.references}
    pools: dict[tuple[str, str], tuple[list[Value], list[Value]]] = {}  # shared values, own ones
    for members in groups.values():
        shared = draw.sample(range(1, 1000), _JOINED if len(members) > 1 else rows)
        others = iter(draw.sample(range(1000, 2000), _OWN * len(members)))
        for member in members:
            own = [] if len(members) == 1 or member in referring else list(islice(others, _OWN))
            pools[member] = shared, own

    tables = []
    for table, columns in schema.tables.items():
        made: list[list[Value]] = []
        for i in range(rows if table.lower() in named else rows // 4):
            if i > _EXACT and draw.random() < 0.2:
                made.append(list(draw.choice(made)))
                continue
            row = []
            for name, kind in columns:
                compared = literals.get(joined.get(name.lower(), name.lower()), [])
                row.append(_typed(_value(compared, *pools[table, name], i, kind, draw), kind))
            made.append(row)
        collate = " COLLATE NOCASE" if ignore_case else ""
        tables.append((table, [(name, kind + collate) for name, kind in columns], made))
    return Database(tables=tuple(tables))


def _value(
    literals: list[Literal], shared: list[Value], own: list[Value], row: int, kind: str, draw: random.Random
) -> Value:
    """A value that meets one of the gold query's conditions (always in the first rows), a near miss, or another."""
    chance, exact = draw.random(), row < _EXACT
    pool = shared if exact else shared + own
    if not literals or (chance > 0.8 and not exact):
        return draw.choice(pool)
    literal, comparison = draw.choice(literals)
    if literal is None:
        return None if (comparison == "is" if exact else chance < 0.5) else draw.choice(pool)
    if exact:
        return _meeting(literal, comparison, row, step=1 if "int" in kind.lower() else 0.5)
    if chance < 0.5:
        return literal
    if isinstance(literal, str):
        word = str(draw.choice(pool))
        return draw.choice([literal + " " + word, literal[:-1], word])
    return literal + draw.choice([-1, 1, 10, -literal / 2 if literal % 2 == 0 else -2])


def _meeting(literal: Value, comparison: str, row: int, step: float) -> Value:
    """A value for which `value comparison literal` holds, whether compared as text or as numbers."""
    if isinstance(literal, str):
        return literal + "0" if comparison in (">", "!=") else literal[:-1] if comparison == "<" else literal
    if comparison in (">", "!="):
        return literal + step
    if comparison == "<":
        return 0 if row % 2 and literal > 0 else literal - step  # as text, "9.5" is not below "10", but "0" is
    return literal


def _typed(value: Value, kind: str) -> Value:
    if not _NUMERIC.search(kind):
        return None if value is None else str(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read(
    gold: exp.Expr, names: set[str], references: list[tuple[str, str, str]]
) -> tuple[dict[str, list[Literal]], dict[str, str]]:
    """The literals that the gold query compares columns with, by column group, and the group of each joined column.

    Two columns are joined by a foreign key, by `a = b`, by `a IN (SELECT b`, or as the first ones of two SELECTs with
    UNION, INTERSECT or EXCEPT between them.
    """
    groups: dict[str, str] = {}

    def join(a: str | None, b: str | None) -> None:
        if a and b:
            old, new = groups.get(b, b), groups.get(a, a)
            groups.update({a: new, b: new} | {name: new for name, group in groups.items() if group == old})

    for _, a, b in references:
        join(a.lower(), b.lower())
    compared: list[tuple[str, Literal]] = []
    for node in gold.walk():
        if isinstance(node, exp.SetOperation):
            join(_column(node.left, names), _column(node.right, names))
        for left, comparison, right in _comparisons(node):
            for side, other, how in ((left, right, comparison), (right, left, _MIRRORED.get(comparison, comparison))):
                column, literal = _column(side, names), _literal(other, how, names)
                if column and literal:
                    compared.append((column, literal))
            if comparison == "=":
                join(_column(left, names), _column(right, names))
    literals: dict[str, list[Literal]] = {}
    for name, literal in compared:
        if literal[0] is not None or name not in groups:  # a NULL in a joined column is the outer join's work
            literals.setdefault(groups.get(name, name), []).append(literal)
    return literals, groups


def _comparisons(node: exp.Expr) -> Iterator[tuple[exp.Expr, str, exp.Expr]]:
    """The two sides and the comparison of each condition that a node of the tree states."""
    if type(node) in _COMPARED:
        yield node.this, _COMPARED[type(node)], node.expression
    elif isinstance(node, exp.Is):
        yield node.this, "not" if isinstance(node.parent, exp.Not) else "is", node.expression
    elif isinstance(node, exp.Between):
        yield node.this, ">=", node.args["low"]
        yield node.this, "<=", node.args["high"]
    elif isinstance(node, exp.In):
        for choice in node.expressions or [node.args.get("query")]:
            if choice is not None:
                yield node.this, "=", choice


def _column(node: exp.Expr, names: set[str]) -> str | None:
    """The first column that a side of a comparison or a query's output names."""
    if isinstance(node, exp.Query):
        node = node.unnest()
        node = node.selects[0] if isinstance(node, exp.Query) and node.selects else node
    columns = (column.name.lower() for column in node.find_all(exp.Column))
    return next((name for name in columns if name in names), None)


def _literal(node: exp.Expr, comparison: str, names: set[str]) -> Literal | None:
    """A number, a text or NULL with its comparison; of a LIKE pattern, a text that it matches."""
    if isinstance(node, exp.Null):
        return None, comparison
    if isinstance(node, exp.Neg) and isinstance(node.this, exp.Literal) and node.this.is_number:
        return -node.this.to_py(), comparison
    quoted = isinstance(node, exp.Column) and node.this.args.get("quoted") and node.name.lower() not in names
    if isinstance(node, exp.Literal) and node.is_number:
        value = float(node.name)
        return int(value) if value.is_integer() and node.name.isdigit() else value, comparison
    if quoted or isinstance(node, exp.Literal):  # SQLite reads "x" as a text where no column has that name
        return node.name.replace("%", "17").replace("_", "1") if comparison == "like" else node.name, comparison
    return None
