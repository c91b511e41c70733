"""SQL as text: the query in a completion, its tokens, and the tables of a CREATE TABLE context."""

import re
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"""--[^\n]*|/\*.*?(?:\*/|\Z)|\s+              # comments and space: no tokens
      |(?P<token>'(?:[^']|'')*'|"(?:[^"]|"")*"|`[^`]*`|\[[^\]]*\]|\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\w+|<>|[<>=!]=|\|\||.)""",
    re.VERBOSE | re.DOTALL,
)
_FENCE = re.compile(r"```(?:[ \t]*[\w+.#-]*[ \t]*\n|\w*sql\w*[ \t]+)?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_IN_LINE = re.compile(r"(?<!`)`([^`\s]+\s[^`\n]+)`(?!`)")  # code of more than one word
_LEFT_IN = re.compile(r"```|</s>|<\|\w+\|>|<eos>|<end_of_turn>")  # by a decoder, or an end of code
_CTE = r"\bwith\s+(?:recursive\s+)?[\w\"]+\s*(?:\([^()]*\)\s*)?as\b"  # not "With this query ..."
_SHOUTED = re.compile(rf"\bSELECT\b|(?i:{_CTE})")
_QUERY = re.compile(rf"\bselect\b|{_CTE}", re.IGNORECASE)
_STATEMENT = re.compile(
    rf"(?:select|values|insert|update|delete|replace|drop|create|alter|attach|detach|pragma|vacuum|reindex)\b|{_CTE}",
    re.IGNORECASE,
)
_GOES_ON = re.compile(  # behind a blank line; prose would begin with a capital, or with another word
    rf"(?-i:(?![A-Z][a-z]))(?:{_STATEMENT.pattern}|from|where|group|order|having|limit|union|intersect|except|and|or|on"
    r"|left|right|full|inner|cross|natural|join)\b",
    re.IGNORECASE,
)
_LONGEST = 10_000  # characters of a completion that are searched for a query
_COMMENT = re.compile(r"('(?:[^']|'')*')|--[^\n]*|/\*.*?\*/", re.DOTALL)  # or a string, which may hold its marks
_CREATE = re.compile(
    r"create\s+table\s+(?:if\s+not\s+exists\s+)?(?P<name>(?:[\w.]|\"[^\"]*\"|`[^`]*`|\[[^\]]*\])+)\s*\(", re.IGNORECASE
)
_NAME = re.compile(r"\s*(\"[^\"]+\"|`[^`]+`|\[[^\]]+\]|[\w$]+)")
_TYPE = re.compile(r"\s*([A-Za-z]+(?:\s*\(\s*\d+(?:\s*,\s*\d+)?\s*\))?)")
_REFERENCES = re.compile(r"references\s+\S+?\s*\(\s*([^),]+)\)", re.IGNORECASE)
_FOREIGN_KEY = re.compile(r"foreign\s+key\s*\(\s*([^),]+)\)", re.IGNORECASE)
_NO_COLUMN = re.compile("primary|foreign|unique|check|constraint|key|index|fulltext", re.IGNORECASE)
_NO_TYPE = re.compile("primary|not|null|default|unique|check|references|collate|auto_?increment", re.IGNORECASE)


@dataclass
class Schema:
    """Tables with their columns and types; a table, its column, and the column it refers to (all names as written)."""

    tables: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    references: list[tuple[str, str, str]] = field(default_factory=list)


def query_in(text: str, tag: str = "answer") -> str | None:
    r"""The one query that a completion answers with: in the tag, in the last fence of SQL, or from the first SELECT on.

    Words behind the semicolon are dropped, without tag or fence also those behind a blank line; a second statement
    there is not, it makes the answer no query.

    Returns:
        The query without its semicolon; None where there is none, or where it is not alone.

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
        found = _SHOUTED.search(text) or _QUERY.search(text)
        text = text[found.start() :] if found else ""
    end = _end(text, at_blank_line=bare and not code)
    if text[end : end + 1] == ";" and _is_statement(text[end:].lstrip("; \n")):
        return None
    return text[:end].strip() or None


def _end(text: str, at_blank_line: bool) -> int:
    """Where the query that a text begins with ends."""
    depth = 0
    for match in _TOKEN.finditer(text):
        token, blank_line = match["token"], match[0].isspace() and match[0].count("\n") > 1
        if token == ";" or _LEFT_IN.match(text, match.start()):
            return match.start()
        depth += (token == "(") - (token == ")")
        if at_blank_line and blank_line and depth == 0 and not _GOES_ON.match(text, match.end()):
            return match.start()
    return len(text)


def tokens_of(sql: str) -> list[str]:
    """Tokens of a query, keywords and names in lower case, literals as they are, comments left out.

    >>> tokens_of("SELECT  Name FROM t WHERE a='It''s' -- hm")
    ['select', 'name', 'from', 't', 'where', 'a', '=', "'It''s'"]
    """
    found = (match["token"] for match in _TOKEN.finditer(sql))
    return [token if token[0] in "'\"" else token.lower() for token in found if token]


def order_of(sql: str) -> tuple[str, int] | None:
    """A query up to the end of its outer ORDER BY, and the rows that its OFFSET skips; None where it has no ORDER BY.

    >>> order_of("SELECT a FROM t ORDER BY a LIMIT 2 OFFSET 1"), order_of("SELECT a FROM (SELECT a FROM t ORDER BY a)")
    (('SELECT a FROM t ORDER BY a', 1), None)
    """
    depth, ordered, before = 0, False, ""
    for match in _TOKEN.finditer(sql):
        token = (match["token"] or "").lower()
        if not token:
            continue
        depth += (token == "(") - (token == ")")
        ordered = ordered or (depth == 0 and (before, token) == ("order", "by"))
        if ordered and depth == 0 and token == "limit":
            limit = tokens_of(sql[match.start() :])
            skipped = limit[3:4] if limit[2:3] == ["offset"] else limit[1:2] if limit[2:3] == [","] else []
            return sql[: match.start()].rstrip(), int(skipped[0]) if skipped and skipped[0].isdigit() else 0
        before = token
    return (sql, 0) if ordered else None


def schema_of(context: str) -> Schema:
    """The tables that CREATE TABLE statements describe, in SQLite's, MySQL's or PostgreSQL's dialect. Nothing is run.

    >>> schema_of("CREATE TABLE `city` (id INT PRIMARY KEY, name VARCHAR(9) NOT NULL, PRIMARY KEY (id));").tables
    {'city': [('id', 'INT'), ('name', 'VARCHAR(9)')]}
    """
    schema = Schema()
    context = _COMMENT.sub(lambda match: match[1] or " ", context)
    for match in _CREATE.finditer(context):
        columns, table = [], _bare(match["name"].rpartition(".")[2])
        for part in _parts(context, match.end()):
            name = _NAME.match(part)
            if name is None:
                continue
            refers = _REFERENCES.search(part)
            if _NO_COLUMN.fullmatch(name[1]):
                own = _FOREIGN_KEY.search(part)
                if own and refers:
                    schema.references.append((table, _bare(own[1]), _bare(refers[1])))
                continue
            kind = _TYPE.match(part, name.end())
            columns.append((_bare(name[1]), kind[1] if kind and not _NO_TYPE.fullmatch(kind[1]) else ""))
            if refers:
                schema.references.append((table, _bare(name[1]), _bare(refers[1])))
        if columns:
            schema.tables[table] = columns
    return schema


def _parts(text: str, start: int) -> list[str]:
    """The comma-separated parts up to the parenthesis that closes the one before `start`."""
    parts, depth, begin = [], 1, start
    for match in _TOKEN.finditer(text, start):
        token = match["token"]
        depth += (token == "(") - (token == ")")
        if depth == 0 or (depth == 1 and token == ","):
            parts.append(text[begin : match.start()])
            begin = match.end()
        if depth == 0:
            break
    return parts


def _is_statement(text: str) -> bool:
    start = next((match.start() for match in _TOKEN.finditer(text) if match["token"]), len(text))
    return _STATEMENT.match(text, start) is not None


def _bare(name: str) -> str:
    return name.strip().strip('"`[]')
