"""SQL as text: the query in a completion, and what sqlglot reads in a query or in CREATE TABLE statements."""

import logging
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.normalize_identifiers import normalize_identifiers

logging.getLogger("sqlglot").setLevel(logging.ERROR)  # it warns of every statement that it cannot parse

_TOKEN = re.compile(  # sqlglot's tokenizer refuses the prose around a query: an apostrophe opens a string
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|\s+              # comments and space: no tokens
      |(?P<token>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|\w+|.)""",
    re.VERBOSE | re.DOTALL,
)
_FENCE = re.compile(r"```(?:[ \t]*[\w+.#-]*[ \t]*\n|\w*sql\w*[ \t]+)?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_IN_LINE = re.compile(r"(?<!`)`([^`\s]+\s[^`\n]+)`(?!`)")  # code of more than one word
_LEFT_IN = re.compile(r"```|</s>|<\|\w+\|>|<eos>|<end_of_turn>")  # stop tokens that the decoder kept, or a fence
_CTE = r"\bwith\s+(?:recursive\s+)?[\w\"]+\s*(?:\([^()]*\)\s*)?as\b"  # not "With this query ..."
_SHOUTED = re.compile(rf"\bSELECT\b|(?i:{_CTE})")
_QUERY = re.compile(rf"\bselect\b|{_CTE}", re.IGNORECASE)
_STATEMENT = re.compile(
    rf"(?:select|values|insert|update|delete|replace|drop|create|alter|attach|detach|pragma|vacuum|reindex)\b|{_CTE}",
    re.IGNORECASE,
)
_GOES_ON = re.compile(  # after a blank line: prose begins with a capital or with another word
    rf"(?-i:(?![A-Z][a-z]))(?:{_STATEMENT.pattern}|from|where|group|order|having|limit|union|intersect|except|and|or|on"
    r"|left|right|full|inner|cross|natural|join)\b",
    re.IGNORECASE,
)
_LONGEST = 10_000  # characters of a completion that are searched for a query
_COMMENT = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/", re.DOTALL)  # or a string, which may hold its marks
_CREATE = re.compile(r"\bcreate\s+table\b", re.IGNORECASE)
_INDEX = ("key", "index", "fulltext", "spatial")  # MySQL's indexes, which sqlglot takes for columns


Reference = tuple[tuple[str, ...], str, tuple[str, ...]]  # columns, and the table and its columns that they refer to


@dataclass
class Table:
    """One table: columns with their types, keys (primary and unique ones), and foreign keys; all names as written."""

    columns: dict[str, str]
    keys: list[tuple[str, ...]] = field(default_factory=list)
    references: list[Reference] = field(default_factory=list)


def query_in(text: str, tag: str = "answer") -> str | None:
    r"""The one query that a completion answers with: in the tag, in the last fence of SQL, or from the first SELECT on.

    Words after the semicolon are dropped; without tag or fence, words after a blank line too. A second statement after
    the semicolon makes the answer invalid.

    Returns:
        The query without its semicolon; None if there is no query, or a second statement.

    >>> query_in("Sure:\n```sql\nSELECT a FROM t;\n```"), query_in("SELECT a FROM t; DROP TABLE t")
    ('SELECT a FROM t', None)
    """
    if "</think>" in text:
        text = text.rpartition("</think>")[2]
    bare = (start := text.rfind(f"<{tag}>")) < 0
    if not bare:
        text = text[start + len(tag) + 2 :].partition(f"</{tag}>")[0]
    code = [fence for fence in _FENCE.findall(text) if _is_statement(fence)]
    if not code and not _is_statement(text):
        code = [words for words in _IN_LINE.findall(text) if _is_statement(words)]
    text = (code[-1] if code else text)[:_LONGEST].strip()
    if not _is_statement(text):  # prose first, which may itself say "select"
        start = _SHOUTED.search(text) or _QUERY.search(text)
        text = text[start.start() :] if start else ""
    end = _end(text, at_blank_line=bare and not code)
    if text[end : end + 1] == ";" and _is_statement(text[end:].lstrip("; \n")):
        return None
    return text[:end].strip() or None


def _end(text: str, at_blank_line: bool) -> int:
    """Where the query at the start of a text ends."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token, blank_line = match["token"], match[0].isspace() and match[0].count("\n") > 1
        if token == ";" or _LEFT_IN.match(text, match.start()):
            return match.start()
        depth += (token == "(") - (token == ")")
        if at_blank_line and blank_line and depth == 0 and not _GOES_ON.match(text, match.end()):
            return match.start()
    return len(text)


@lru_cache(maxsize=4096)
def parsed(sql: str) -> exp.Expr | None:
    """A query's syntax tree; None if it cannot be parsed. The tree is cached, so callers must not change it."""
    try:
        return sqlglot.parse_one(sql, dialect="sqlite")
    except (SqlglotError, RecursionError):
        return None


def same_query(one: str, other: str) -> bool:
    """Whether two queries are the same but for case of names and keywords, white space and comments.

    >>> same_query("SELECT  Name FROM t WHERE a='x' -- hm", "select name from T where a = 'x'")
    True
    >>> same_query("SELECT name FROM t WHERE a = 'X'", "SELECT name FROM t WHERE a = 'x'")
    False
    """
    trees = parsed(one), parsed(other)
    if None in trees:
        return one.split() == other.split()
    one, other = (normalize_identifiers(tree.copy(), dialect="sqlite") for tree in trees)
    return one == other


def order_of(sql: str) -> tuple[str, int] | None:
    """A query without its LIMIT, and the rows that its OFFSET skips; None where it has no outer ORDER BY.

    >>> order_of("SELECT a FROM t ORDER BY a LIMIT 2 OFFSET 1"), order_of("SELECT a FROM (SELECT a FROM t ORDER BY a)")
    (('SELECT a FROM t ORDER BY a', 1), None)
    """
    tree = parsed(sql)
    if tree is None:  # the gold query's order still counts
        return (sql, 0) if re.search(r"\border\s+by\b", sql, re.IGNORECASE) else None
    if not tree.args.get("order"):
        return None
    offset = tree.args.get("offset")
    skipped = int(offset.expression.name) if offset and offset.expression.name.isdigit() else 0
    tree = tree.copy()
    tree.set("limit", None)
    tree.set("offset", None)
    return tree.sql("sqlite"), skipped


@lru_cache(maxsize=1024)
def schema_of(context: str) -> dict[str, Table]:
    """The tables that CREATE TABLE statements describe, in SQLite's, MySQL's or PostgreSQL's dialect. Nothing is run.

    A foreign key to a table or column that the statements do not make is left out.

    >>> schema_of("CREATE TABLE `city` (id INT PRIMARY KEY, name VARCHAR(9) NOT NULL, UNIQUE (name));")
    {'city': Table(columns={'id': 'INT', 'name': 'VARCHAR'}, keys=[('id',), ('name',)], references=[])}
    """
    tables: dict[str, Table] = {}
    context = _COMMENT.sub(lambda match: match[1] or " ", context)
    starts = [match.start() for match in _CREATE.finditer(context)]
    for start, stop in pairwise([*starts, len(context)]):
        statement = context[start:stop]
        try:
            statement = statement[: _end(statement, at_blank_line=False)]
            tree = sqlglot.parse_one(statement, dialect="sqlite", error_level=sqlglot.ErrorLevel.IGNORE)
        except (SqlglotError, RecursionError):
            continue
        if isinstance(tree, exp.Create) and isinstance(tree.this, exp.Schema):
            table = _table(tree.this.expressions)
            if table.columns:
                tables[tree.this.this.name] = table
    for table in tables.values():
        table.references = [known for reference in table.references if (known := _resolved(reference, table, tables))]
    return tables


def _table(parts: list[exp.Expr]) -> Table:
    columns = [p for p in parts if isinstance(p, exp.ColumnDef | exp.Identifier) and p.name.lower() not in _INDEX]
    table = Table({column.name: _type(column) for column in columns})
    for part in parts:
        for key in part.find_all(exp.PrimaryKey, exp.PrimaryKeyColumnConstraint, exp.UniqueColumnConstraint):
            inner = [name.name for name in key.find_all(exp.Identifier)]
            if names := _columns(table, inner or [part.name]):
                table.keys.append(names)
        for reference in part.find_all(exp.Reference):
            own = reference.parent.expressions if isinstance(reference.parent, exp.ForeignKey) else [part]
            place = reference.this
            theirs = place.expressions if isinstance(place, exp.Schema) else []
            table.references.append(
                (tuple(c.name for c in own), place.find(exp.Table).name, tuple(c.name for c in theirs))
            )
    return table


def _resolved(reference: Reference, table: Table, tables: dict[str, Table]) -> Reference | None:
    """The reference in the names of the CREATE TABLE statements: SQL does not heed their case."""
    own, place, theirs = reference
    place = next((name for name in tables if name.lower() == place.lower()), None)
    if place is None:
        return None
    theirs = theirs or (tables[place].keys or [()])[0]
    resolved = _columns(table, own), place, _columns(tables[place], theirs)
    return resolved if len(resolved[0]) == len(resolved[2]) == len(own) else None


def _columns(table: Table, names: Iterable[str]) -> tuple[str, ...]:
    """Those of the names that are columns of the table, as it writes them."""
    written = {column.lower(): column for column in table.columns}
    return tuple(written[name.lower()] for name in names if name.lower() in written)


def _type(column: exp.Expr) -> str:
    """The type's bare name: SQLite takes from it whether values are numbers."""
    kind = column.args.get("kind")
    if not isinstance(kind, exp.DataType):
        return ""
    return re.sub(r"\W+", " ", str(kind.args.get("kind") or kind.this.name))


def _is_statement(text: str) -> bool:
    start = next((match.start() for match in _TOKEN.finditer(text) if match["token"]), len(text))
    return _STATEMENT.match(text, start) is not None
