"""Questions over a table, answered in SQL."""

import re

from rlhf_recipes.data.formats.rows import Demo, Drop
from rlhf_recipes.data.formats.turns import as_text

# WikiSQL's own codes, lib/query.py of salesforce/WikiSQL
_AGGREGATES = ("", "MAX", "MIN", "COUNT", "SUM", "AVG")
_OPERATORS = ("=", ">", "<")


def nl2sql(context, question, sql) -> Demo:
    """`context` (CREATE TABLE …), `question`, `sql` as "context: … question: … answer:" and " SELECT …".

    >>> nl2sql("CREATE TABLE t (a INT)", "All of a?", "SELECT a FROM t")["prompt"]
    'context: CREATE TABLE t (a INT) question: All of a? answer:'
    """
    context, question = as_text(context, "context").strip(), as_text(question, "question").strip()
    query = as_text(sql, "sql").strip()
    if not query:
        raise Drop("empty completion")
    return {
        "prompt": f"context: {context} question: {question} answer:",
        "completion": f" {query}",
        "context": context,
        "sql": query,
    }


def wikisql(question, table, sql) -> Demo:
    """Salesforce/wikisql's nested rows: the table's header as CREATE TABLE, the coded query as SQL that sqlite runs."""
    names = _names(table["header"])
    kinds = ["REAL" if kind == "real" else "TEXT" for kind in table["types"]]
    name = "t_" + _name(table.get("id") or "1")
    context = f"CREATE TABLE {name} ({', '.join(f'{n} {k}' for n, k in zip(names, kinds, strict=True))})"
    what, aggregate = names[sql["sel"]], _AGGREGATES[sql["agg"]]
    query = f"SELECT {f'{aggregate}({what})' if aggregate else what} FROM {name}"
    conditions = sql["conds"]
    where = [
        f"{names[column]} {_OPERATORS[operator]} {_literal(value, kinds[column])}"
        for column, operator, value in zip(
            conditions["column_index"], conditions["operator_index"], conditions["condition"], strict=True
        )
    ]
    if where:
        query += " WHERE " + " AND ".join(where)
    return nl2sql(context, question, query) | {"table": None}  # None: the table's rows do not go along


def _names(header: list[str]) -> list[str]:
    """Column names that need no quotes, all different."""
    names: list[str] = []
    for title in header:
        name = _name(title) or "column"
        name = f"c_{name}" if name[0].isdigit() else name
        names.append(f"{name}_{names.count(name) + 1}" if name in names else name)
    return [f"{n}_{i}" if n.upper() in _RESERVED.split() else n for i, n in enumerate(names)]


def _name(title: str) -> str:
    return re.sub(r"\W+", "_", title.lower()).strip("_")


def _literal(value: str, kind: str) -> str:
    number = str(value).replace(",", "")
    if kind == "REAL" and re.fullmatch(r"-?\d+(\.\d+)?", number):
        return number
    return "'" + str(value).replace("'", "''") + "'"


# sqlite's keywords that turn up as column titles
_RESERVED = (
    "ADD ALL ALTER AND AS BETWEEN BY CASE CHECK COMMIT CREATE DEFAULT DELETE DISTINCT DROP ELSE ESCAPE EXCEPT EXISTS "
    "FOREIGN FROM GROUP HAVING IN INDEX INSERT INTERSECT INTO IS ISNULL JOIN LIMIT NOT NOTNULL NULL ON OR ORDER "
    "PRIMARY REFERENCES SELECT SET TABLE THEN TO TRANSACTION UNION UNIQUE UPDATE USING VALUES WHEN WHERE"
)
