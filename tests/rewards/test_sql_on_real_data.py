"""Text to SQL on real data: WikiSQL and geography, whose database says which changed queries are right."""

import json
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

pytest.importorskip("sqlglot", reason="an extra: pip install 'rlhf-recipes[rewards]'")

import sqlglot
from sqlglot import exp

from rlhf_recipes.rewards import sql

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def folder():
    root = os.environ.get("RLHF_RECIPES_REAL_DATA")
    if not root:
        pytest.skip("RLHF_RECIPES_REAL_DATA is not set")
    return Path(root) / "data/text2sql"


def lines_of(file):
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


LITERAL = re.compile(r"'((?:[^']|'')*)'|(?<![\w.])(\d+(?:\.\d+)?)(?![\w.])")


def test_geography(folder):
    file = str(folder / "geography.sqlite")
    golds = [row["sql"] for row in lines_of(folder / "geography.jsonl")]
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)

    def rows(query):
        return sorted(map(repr, connection.execute(query).fetchall()))

    told = sql.execution(golds, golds, database=file, sql=golds)
    assert [score == 1.0 for score in told] == [bool(rows(gold)) for gold in golds]
    assert told.count(1.0) == 844

    changed, of = [], []
    for gold in golds:
        for match in LITERAL.finditer(gold) if rows(gold) else ():
            value = "'ohio'" if match[1] is not None else str(float(match[2]) + 1)
            if value != match[0]:
                changed.append(gold[: match.start()] + value + gold[match.end() :])
                of.append(gold)
    scores = sql.execution(changed, changed, database=file, sql=of)
    truly_same = [rows(query) == rows(gold) for query, gold in zip(changed, of, strict=True)]
    assert len(changed) > 700
    assert [score == 1.0 for score in scores] == truly_same
    assert sum(truly_same) < len(changed) / 4
    connection.close()


def test_wikisql_contexts_tell_literals_apart(folder):
    rows = lines_of(folder / "wikisql_dev.jsonl")[:150]
    golds, contexts = [row["sql"] for row in rows], [row["context"] for row in rows]
    assert set(sql.execution(golds, golds, sql=golds, context=contexts)) == {1.0}
    changed = [
        LITERAL.sub(lambda m: "'zz top'" if m[1] is not None else str(float(m[2]) + 1.5), gold, 1) for gold in golds
    ]
    scores = sql.execution(changed, changed, sql=golds, context=contexts)
    assert sum(scores) <= 0.03 * len(scores)


# keys that hold in geography's database; its CREATE TABLE statements name none
KEYS = {
    "STATE": "PRIMARY KEY (STATE_NAME)",
    "BORDER_INFO": "PRIMARY KEY (STATE_NAME, BORDER), FOREIGN KEY (BORDER) REFERENCES STATE(STATE_NAME)",
    "HIGHLOW": "PRIMARY KEY (STATE_NAME)",
    "MOUNTAIN": "PRIMARY KEY (MOUNTAIN_NAME)",
    "RIVER": "FOREIGN KEY (TRAVERSE) REFERENCES STATE(STATE_NAME)",
}
PARENT = {"CITY": "STATE_NAME", "HIGHLOW": "STATE_NAME", "LAKE": "STATE_NAME", "MOUNTAIN": "STATE_NAME"}
PARENT |= {"BORDER_INFO": "STATE_NAME", "RIVER": "TRAVERSE"}


def with_keys(context):
    for table, column in PARENT.items():
        if table != "RIVER":
            KEYS[table] = ", ".join(filter(None, [KEYS.get(table), f"FOREIGN KEY ({column}) REFERENCES STATE"]))
    for table, keys in KEYS.items():
        context = re.sub(rf"(CREATE TABLE {table} \(.*)\);", rf"\1, {keys});", context)
    return context


def equivalents(tree: exp.Select) -> Iterator[exp.Expr]:
    """Queries that return the same rows because of a key or a foreign key, and two that do so anyway."""
    table, name = tree.args["from_"].this, ""
    if isinstance(table, exp.Table) and not tree.args.get("joins"):
        name = table.name.upper()
    plain = not (tree.args.get("group") or tree.args.get("distinct") or any(s.find(exp.AggFunc) for s in tree.selects))
    if name in PARENT:
        joined = tree.copy().join("STATE AS parent", on=f"{table.alias_or_name}.{PARENT[name]} = parent.STATE_NAME")
        yield joined
        if where := joined.copy().args.get("where"):
            for column in where.find_all(exp.Column):
                if column.table == table.alias_or_name and column.name.upper() == PARENT[name]:
                    column.replace(exp.column("STATE_NAME", "parent"))
            yield where.parent
    if name in ("STATE", "HIGHLOW", "MOUNTAIN") and plain:
        key = "MOUNTAIN_NAME" if name == "MOUNTAIN" else "STATE_NAME"
        yield tree.copy().group_by(f"{table.alias_or_name}.{key}")
        if name == "STATE":
            yield tree.copy().join(
                "HIGHLOW AS h", on=f"{table.alias_or_name}.STATE_NAME = h.STATE_NAME", join_type="left"
            )
        if any(column.name.upper() == key for column in tree.selects):
            yield tree.copy().distinct()
    for kind in (exp.And, exp.Count):
        changed = tree.copy()
        for node in list(changed.find_all(kind)):
            if kind is exp.And:
                node.replace(exp.And(this=node.expression.copy(), expression=node.this.copy()))
            elif not changed.find(exp.Join):
                node.set("this", exp.Star())
        yield changed


def mistakes(tree: exp.Expr) -> Iterator[exp.Expr]:
    """Queries with one literal, operator, column, aggregate or condition changed."""
    for place, node in enumerate(tree.walk()):
        changes = []
        if isinstance(node, exp.Literal) and not isinstance(node.parent, exp.Limit | exp.Count):
            text = exp.Literal.string("texas" if node.name == "ohio" else "ohio")
            changes = [text if node.is_string else exp.Literal.number(2 * float(node.name) + 1)]
        elif isinstance(node, exp.EQ | exp.GT | exp.LT):
            others = [kind for kind in (exp.EQ, exp.GT, exp.LTE) if not isinstance(node, kind)]
            changes = [kind(this=node.this.copy(), expression=node.expression.copy()) for kind in others]
        elif isinstance(node, exp.Column):
            changes = [exp.column(name, node.table) for name in ("STATE_NAME", "POPULATION", "AREA", "LENGTH")]
        elif isinstance(node, exp.Max | exp.Min | exp.Sum | exp.Avg | exp.Count):
            changes = [
                kind(this=node.this.copy()) for kind in (exp.Max, exp.Min, exp.Avg) if not isinstance(node, kind)
            ]
        elif isinstance(node, exp.And):
            changes = [node.this.copy(), node.expression.copy()]
        elif isinstance(node, exp.In):
            changes = [exp.Not(this=node.copy())]
        for change in changes:
            changed = tree.copy()
            next(islice(changed.walk(), place, None)).replace(change)
            yield changed


def test_made_up_rows_pass_equivalent_queries_and_refuse_wrong_ones(folder):
    """The bar: 0.9 % of equivalent queries refused, and 3.2 % of wrong ones passed."""
    lines = lines_of(folder / "geography.jsonl")
    context = with_keys(lines[0]["context"])
    connection = sqlite3.connect(f"file:{folder / 'geography.sqlite'}?mode=ro", uri=True)

    def rows(query):
        try:
            return Counter(map(repr, connection.execute(query).fetchmany(5000)))
        except sqlite3.Error:
            return None

    right, wrong = [], []
    for gold in list(dict.fromkeys(line["sql"].rstrip(" ;") for line in lines))[::3]:
        tree, told = sqlglot.parse_one(gold, dialect="sqlite"), rows(gold)
        if told and isinstance(tree, exp.Select) and "LEFT OUTER" not in gold:
            made = [(gold, changed.sql("sqlite")) for changed in equivalents(tree)]
            right += [pair for pair in made if rows(pair[1]) == told]  # rows of a LIMIT's tie may differ
            assert all(rows(query) is not None for _, query in made)
            made = [(gold, changed.sql("sqlite")) for changed in islice(mistakes(tree), 12)]
            wrong += [pair for pair in made if rows(pair[1]) not in (told, None)]
    assert len(right) > 400 and len(wrong) > 900

    def passed(pairs):
        golds, predicted = zip(*pairs, strict=True)
        scores = sql.execution(list(predicted), list(predicted), sql=list(golds), context=[context] * len(predicted))
        return scores.count(1.0) / (len(scores) - scores.count(None))

    assert 1 - passed(right) <= 0.009
    assert passed(wrong) <= 0.032
    connection.close()
