"""Rows for tables that come without any, made so that a right and a wrong query return different rows.

This is test-suite accuracy (Zhong et al. 2020, arXiv:2010.02840) in its simplest form:

- Primary keys and other unique columns repeat no value. Foreign keys take theirs from the table that they refer to:
  some of its rows have many children, and some have none, for NOT IN and LEFT JOIN.
- Columns that the gold query compares hold its literals, near misses of them and other values.
- Columns that it joins without a foreign key share few values, and each has some that the others lack.
- Columns that it groups by have few values, some more often than others.
- All other values are numbers, so that sums and maxima of columns differ.
- Some rows occur twice, apart from their keys, for DISTINCT.
- Only a column that the gold query tests for NULL has NULLs: elsewhere COUNT(*) equals COUNT(a), and NOT IN is
  NOT EXISTS.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from sqlglot import exp

from rlhf_recipes.rewards.sql_text import Table, parsed
from rlhf_recipes.rewards.sqlite_sandbox import Database

_NUMERIC = re.compile(r"int|real|floa|doub|num|dec|bool", re.IGNORECASE)
_JOINED = 12  # values that joined columns share
_OWN = 4  # values that each of them has alone
_GROUPED = 8  # values of a column that the gold query groups by
_EXACT = 4  # first rows, which meet a condition in every column that has one and refer to each other
_PARENTS = 0.6  # share of a table's rows that others refer to
_COMPARED = {exp.EQ: "=", exp.NEQ: "!=", exp.GT: ">", exp.GTE: ">=", exp.LT: "<", exp.LTE: "<=", exp.Like: "like"}
_MIRRORED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}

Value = int | float | str | None
Columns = dict[str, list[Value]]
Literal = tuple[Value, str]  # and how the column is compared with it


def made_up(tables: dict[str, Table], gold: str, seed: int, rows: int = 40, ignore_case: bool = False) -> Database:
    """A database for one gold query; the same arguments always give the same one.

    Args:
        tables: the tables to fill.
        gold: the query whose literals and joins the rows are made for.
        rows: at most, of each table that the query names or that such a table refers to; the others get a quarter.
        ignore_case: compare text without regard to case, as WikiSQL's lower-cased golds need.

    >>> from rlhf_recipes.rewards.sql_text import schema_of
    >>> database = made_up(schema_of("CREATE TABLE t (a TEXT, b INT)"), "SELECT b FROM t WHERE a = 'x'", seed=0)
    >>> sum(row[0] == "x" for row in database.tables[0][2]) >= 4
    True
    """
    draw = random.Random(f"{seed} {gold}")
    pools = _pools(tables, _read(gold, tables), rows, draw)
    full = {table.name.lower() for table in (parsed(gold) or exp.Select()).find_all(exp.Table)}
    full |= {
        place.lower() for name, table in tables.items() if name.lower() in full for _, place, _ in table.references
    }
    counts = {name: rows if name.lower() in full else rows // 4 for name in tables}
    filled: dict[str, Columns] = {}
    keys: dict[str, Columns] = {}  # those of tables that are not filled yet
    for name, table in tables.items():
        referring = {column for own, _, _ in table.references for column in own}
        own_keys = sorted(_unique(table) - referring)
        keys[name] = {key: pools[name, key].unique(counts[name], table.columns[key], draw) for key in own_keys}

    def fill(name: str, children: tuple[str, ...] = ()) -> None:
        """A table after those that it refers to; where references go in a circle, their keys have to do."""
        for _, place, _ in tables[name].references:
            if place not in filled and place not in (name, *children):
                fill(place, (name, *children))
        if name not in filled:
            filled[name] = _filled(name, tables[name], counts[name], keys | filled, pools, draw)

    made = []
    for name, table in tables.items():
        fill(name)
        lines = list(map(list, zip(*filled[name].values(), strict=True)))
        draw.shuffle(lines)
        collate = " COLLATE NOCASE" if ignore_case else ""
        made.append((name, [(column, kind + collate) for column, kind in table.columns.items()], lines))
    return Database(tables=tuple(made))


def _filled(
    name: str,
    table: Table,
    count: int,
    known: dict[str, Columns],
    pools: dict[tuple[str, str], "_Pool"],
    draw: random.Random,
) -> Columns:
    """The columns of one table: `count` rows, without those whose key an earlier row has, and fewer where the table
    refers to each row of another one once.

    Args:
        known: columns of the tables: all where the table is filled, else its keys.
    """
    columns, unique = dict(known[name]), _unique(table)
    places: list[str] = []
    for own, place, theirs in table.references:
        source = columns if place == name else known[place]
        if source.keys() >= set(theirs) and not columns.keys() & set(own):
            picked = _picked(len(source[theirs[0]]), count, bool(unique & set(own)), places.count(place), draw)
            places.append(place)
            for column, their in zip(own, theirs, strict=True):
                columns[column] = [_typed(source[their][i], table.columns[column]) for i in picked]
    for column, kind in table.columns.items():
        pool = pools[name, column]
        if column not in columns and column in unique:
            columns[column] = pool.unique(count, kind, draw)
        elif column not in columns:
            columns[column] = [pool.value(i, kind, draw) for i in range(count)]
    for i in range(_EXACT, min(map(len, columns.values()))):
        if draw.random() < 0.2:
            earlier = draw.randrange(i)
            for column in columns.keys() - unique:
                columns[column][i] = columns[column][earlier]
    lines = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=False)]
    for key in table.keys:
        first: dict[tuple[Value, ...], dict[str, Value]] = {}
        for line in lines:
            first.setdefault(tuple(line[column] for column in key), line)
        lines = list(first.values())
    return {column: [line[column] for line in lines] for column in table.columns}


def _unique(table: Table) -> set[str]:
    return {key[0] for key in table.keys if len(key) == 1}


def _picked(parents: int, count: int, once: bool, turn: int, draw: random.Random) -> list[int]:
    """The row of the parent table that each row refers to; with `once` no row twice.

    Args:
        turn: moves the first rows, so that two references to one table differ in a row.
    """
    first = [(i + turn) % min(parents, _EXACT) for i in range(min(parents, _EXACT))]
    order = draw.sample(range(parents), parents)
    some = max(1, int(parents * _PARENTS))
    if once:
        return first + [i for i in order if i not in first][: max(0, some - len(first))]
    favour = draw.choice([0.0, 0.4])  # of the first rows, which meet the query's conditions
    return first + [
        draw.choice(first) if draw.random() < favour else order[int(some * draw.random() ** 2)]
        for _ in range(count - len(first))
    ]


@dataclass
class _Gold:
    """What a gold query says of columns, by the group that each belongs to: joined columns, and those of one name."""

    literals: dict[str, list[Literal]] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)  # of a joined column, by its name
    grouped: set[str] = field(default_factory=set)  # names of columns in GROUP BY


@dataclass
class _Pool:
    """What the values of one column are drawn from."""

    literals: list[Literal]
    shared: list[int]  # with the other columns of its group
    own: list[int]

    def value(self, row: int, kind: str, draw: random.Random) -> Value:
        """A value that meets one of the gold query's conditions (in the first rows), a near miss, or another."""
        return _typed(self._value(row, kind, draw), kind)

    def unique(self, count: int, kind: str, draw: random.Random) -> list[Value]:
        """Values of a key, none twice whatever the case of a text."""
        drawn = [self.value(i, kind, draw) for i in range(4 * count)]
        drawn += [_typed(number, kind) for number in draw.sample(range(2000, 3000), count)]
        return list({str(value).lower(): value for value in drawn if value is not None}.values())[:count]

    def _value(self, row: int, kind: str, draw: random.Random) -> Value:
        chance, exact = draw.random(), row < _EXACT
        pool = self.shared if exact else self.shared + self.own
        if not self.literals or (chance > 0.8 and not exact):
            return draw.choice(pool)
        literal, comparison = draw.choice(self.literals)
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


def _pools(tables: dict[str, Table], gold: _Gold, rows: int, draw: random.Random) -> dict[tuple[str, str], _Pool]:
    groups: dict[str, list[tuple[str, str]]] = {}
    for name, table in tables.items():
        for column in table.columns:
            groups.setdefault(gold.groups.get(column.lower(), column.lower()), []).append((name, column))
    pools = {}
    for group, members in groups.items():
        shared = draw.sample(range(1, 1000), _JOINED if len(members) > 1 else rows)
        if gold.grouped & {column.lower() for _, column in members}:  # groups of unlike size, for HAVING
            shared = [value for size, value in enumerate(shared[:_GROUPED], 1) for _ in range(size)]
        others = draw.sample(range(1000, 2000), _OWN * len(members))
        for i, member in enumerate(members):
            own = others[_OWN * i : _OWN * (i + 1)] if len(members) > 1 else []
            pools[member] = _Pool(gold.literals.get(group, []), shared, own)
    return pools


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


def _read(sql: str, tables: dict[str, Table]) -> _Gold:
    """The columns that a gold query compares, joins and groups by.

    Two columns are joined by a foreign key, by `a = b`, by `a IN (SELECT b`, or as the first ones of two SELECTs with
    UNION, INTERSECT or EXCEPT between them.
    """
    gold, tree = _Gold(), parsed(sql) or exp.Select()
    names = {column.lower() for table in tables.values() for column in table.columns}

    def join(a: str | None, b: str | None) -> None:
        if a and b:
            old, new = gold.groups.get(b, b), gold.groups.get(a, a)
            gold.groups |= {a: new, b: new} | {name: new for name, group in gold.groups.items() if group == old}

    for table in tables.values():
        for own, _, theirs in table.references:
            for pair in zip(own, theirs, strict=True):
                join(*map(str.lower, pair))
    compared: list[tuple[str, Literal]] = []
    for node in tree.walk():
        if isinstance(node, exp.SetOperation):
            join(_column(node.left, names), _column(node.right, names))
        elif isinstance(node, exp.Group):
            gold.grouped |= {column.name.lower() for column in node.find_all(exp.Column)}
        for left, comparison, right in _comparisons(node):
            for side, other, how in ((left, right, comparison), (right, left, _MIRRORED.get(comparison, comparison))):
                column, literal = _column(side, names), _literal(other, how, names)
                if column and literal:
                    compared.append((column, literal))
            if comparison == "=":
                join(_column(left, names), _column(right, names))
    for name, literal in compared:
        if literal[0] is not None or name not in gold.groups:  # a NULL in a joined column is the outer join's work
            gold.literals.setdefault(gold.groups.get(name, name), []).append(literal)
    return gold


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
        for choice in node.expressions or filter(None, [node.args.get("query")]):
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
    if node.is_number:
        value = node.to_py()
        return value if isinstance(value, int) else float(value), comparison
    quoted = isinstance(node, exp.Column) and node.this.args.get("quoted") and node.name.lower() not in names
    if quoted or isinstance(node, exp.Literal):  # SQLite reads "x" as a text where no column has that name
        return node.name.replace("%", "17").replace("_", "1") if comparison == "like" else node.name, comparison
    return None
