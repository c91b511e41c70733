"""Execution accuracy, hostile queries, and made-up rows with their keys."""

import re
import sqlite3
import sys
from pathlib import Path

import pytest

pytest.importorskip("sqlglot", reason="an extra: pip install 'rlhf-recipes[rewards]'")

from rlhf_recipes.errors import UserError
from rlhf_recipes.rewards import sql, sqlite_worker
from rlhf_recipes.rewards.sql_tables import made_up
from rlhf_recipes.rewards.sql_text import query_in, schema_of
from rlhf_recipes.rewards.sqlite_sandbox import Database, Limits, Sandbox

CITIES = [("Paris", "France", 2100), ("Lyon", "France", 520), ("Rome", "Italy", 2800), ("Rome", "USA", 37)]
CONTEXT = "CREATE TABLE city (name TEXT, country TEXT, population INT);"


@pytest.fixture
def cities(tmp_path):
    file = tmp_path / "cities.sqlite"
    connection = sqlite3.connect(file)
    connection.execute(CONTEXT)
    connection.executemany("INSERT INTO city VALUES (?, ?, ?)", CITIES)
    connection.commit()
    connection.close()
    return file


def on(file, query, gold, **kwargs):
    return sql.execution(["?"], [query], database=str(file), sql=[gold], **kwargs)[0]


FRANCE = "SELECT name FROM city WHERE country = 'France'"


@pytest.mark.parametrize(
    ("query", "score"),
    [
        (FRANCE, 1.0),
        (FRANCE.lower().replace("france", "France") + " ;", 1.0),
        ("select c.name from city as c where c.country in ('France')", 1.0),
        (FRANCE + " ORDER BY name DESC", 1.0),
        ("Sure, I will select them:\n```sql\n" + FRANCE + ";\n```\nThis finds both.", 1.0),
        ("<answer>" + FRANCE + "</answer>", 1.0),
        ("<think>SELECT 1</think>" + FRANCE, 1.0),
        (FRANCE + "; It lists both.", 1.0),
        ("With the table given: " + FRANCE, 1.0),
        ("WITH f AS (" + FRANCE + ") SELECT * FROM f", 1.0),
        ("WITH f AS (\n\n" + FRANCE + "\n\n)\n\nSELECT * FROM f", 1.0),
        (FRANCE + "\n\nThis query selects the names, as it's asked.", 1.0),
        (FRANCE + "\n \ncontext: CREATE TABLE t (a INT) question: how many? answer: SELECT count(*) FROM t", 1.0),
        ("\n\n" + FRANCE.replace(" FROM", "\n\nFROM").replace(" WHERE", "\n\nwhere") + "\n\nFrom France alone.", 1.0),
        (FRANCE + "</s>", 1.0),
        (FRANCE + "<|im_end|>\n<|endoftext|>", 1.0),
        ("```mysql\n" + FRANCE + "\n```", 1.0),
        ("```postgresql\n\n" + FRANCE + "\n\n```", 1.0),
        ("Here:\n```SQLite3\n" + FRANCE.replace(" FROM", "\n\nFROM") + "</s>", 1.0),
        ("```sql " + FRANCE + "```", 1.0),
        ("```" + FRANCE + "```", 1.0),
        ("Use `" + FRANCE + "`, where `name` is a column and `SELECT` a keyword.", 1.0),
        (FRANCE.replace("name", "`name`", 1) + "\n\nNot `SELECT country FROM city`.", 1.0),
        ("```sql\n" + FRANCE + "\n```\nOutput:\n```\nParis\nLyon\n```", 1.0),
        ("First:\n```sql\nSELECT 1\n```\nBetter:\n```sql\n" + FRANCE + "\n```", 1.0),
        (FRANCE + "\n```\nParis\n```", 1.0),
        (FRANCE + "\n\nDROP TABLE city", 0.0),
        ("```sql\n" + FRANCE + "\n```\n```sql\nDROP TABLE city\n```", 0.0),
        ("SELECT name FROM city WHERE country = 'Italy'", 0.0),
        ("SELECT name FROM city WHERE country = 'france'", 0.0),
        ("SELECT name, country FROM city WHERE country = 'France'", 0.0),
        ("SELECT name FROM city", 0.0),
        ("SELECT name FROM town", 0.0),
        ("SELECT name FROM", 0.0),
        ("Paris and Lyon", 0.0),
        ("", 0.0),
        (FRANCE + "; DROP TABLE city", 0.0),
        (FRANCE + "; " + FRANCE, 0.0),
    ],
)
def test_execution_on_a_file(cities, query, score):
    assert on(cities, query, FRANCE) == score


def test_order_counts_where_the_gold_query_asks_for_it(cities):
    ordered = "SELECT name FROM city ORDER BY population DESC"
    assert on(cities, "SELECT name FROM city ORDER BY population * 2 DESC", ordered) == 1.0
    assert on(cities, "SELECT name FROM city ORDER BY population", ordered) == 0.0
    assert on(cities, "SELECT name FROM city ORDER BY population", "SELECT name FROM city") == 1.0
    assert on(cities, "SELECT name FROM city", ordered) == 0.0
    inner = "SELECT name FROM (SELECT name FROM city ORDER BY population)"
    assert on(cities, "SELECT name FROM city ORDER BY name", inner) == 1.0


LETTERS = [("a", 1), ("b", 1), ("c", 1), ("d", 2), ("e", 2), ("f", 3), ("f", 3)]


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        ("SELECT a FROM t ORDER BY n", "bcaedff cbadeff", "abdceff dabceff abcdef aacdeff"),
        ("SELECT a FROM t ORDER BY n DESC, a", "ffdeabc", "ffedabc"),
        ("SELECT a FROM t ORDER BY n LIMIT 2", "ab ca", "ad aa abc"),
        ("SELECT a FROM t ORDER BY n LIMIT 4", "abcd bace", "abdc abde"),
        ("SELECT a FROM t ORDER BY n LIMIT 2 OFFSET 2", "ad ce", "da ab"),
        ("SELECT a FROM t ORDER BY n LIMIT 2, 2 -- two", "ad ce", "da ab"),
        ("SELECT a FROM t GROUP BY a ORDER BY count(*) DESC;", "fabcde fedcba", "abcdef"),
        ("SELECT DISTINCT a FROM t ORDER BY n /* up */", "cbaedf", "abcdeff dabcef"),
        ("SELECT a FROM t UNION SELECT a FROM t ORDER BY 1", "abcdef", "bacdef"),
    ],
)
def test_the_order_among_ties_was_not_asked_for(tmp_path, gold, right, wrong):
    file = tmp_path / "letters.sqlite"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE t (a TEXT, n INT)")
    connection.executemany("INSERT INTO t VALUES (?, ?)", LETTERS)
    connection.commit()
    connection.close()

    def scores(words):
        query = ["VALUES " + ", ".join(f"('{letter}')" for letter in word) for word in words.split()]
        return set(sql.execution(query, query, database=str(file), sql=[gold] * len(query)))

    assert on(file, gold, gold) == 1.0
    assert (scores(right), scores(wrong)) == ({1.0}, {0.0})


def test_a_gold_query_whose_ties_cannot_be_found_keeps_its_order(cities):
    ordered = "SELECT country FROM city ORDER BY country = 'USA' LIMIT 2"
    assert on(cities, "VALUES ('Italy'), ('France')", ordered, max_rows=4) == 1.0
    assert on(cities, "VALUES ('Italy'), ('France')", ordered, max_rows=3) == 0.0
    assert on(cities, "VALUES ('France'), ('France')", ordered, max_rows=3) == 1.0


def test_rows_are_compared_as_bags_and_numbers_by_value(cities):
    assert on(cities, "SELECT DISTINCT name FROM city", "SELECT name FROM city") == 0.0
    assert on(cities, "SELECT 2.0 * population / 2 FROM city", "SELECT population FROM city") == 1.0
    assert on(cities, "SELECT 0.1 + 0.2", "SELECT 0.3") == 1.0
    assert on(cities, "SELECT '3'", "SELECT 3") == 0.0
    assert on(cities, "SELECT NULL", "SELECT NULL") == 1.0


def test_gold_queries_that_tell_nothing(cities):
    nothing = "SELECT name FROM city WHERE country = 'Spain'"
    assert on(cities, nothing, nothing) is None
    assert on(cities, nothing, nothing, skip_empty=False) == 1.0
    assert on(cities, FRANCE, "SELECT name FROM town") is None
    assert on(cities, FRANCE, None) is None
    assert on(cities, FRANCE, FRANCE + ";", reward=2.5) == 2.5
    assert on(cities, "<q>" + FRANCE + "</q> or SELECT 1", FRANCE, tag="q") == 1.0


def test_max_rows(cities):
    assert on(cities, FRANCE, FRANCE, max_rows=2) == 1.0
    assert on(cities, FRANCE, FRANCE, max_rows=1) is None
    assert on(cities, "SELECT name FROM city", FRANCE, max_rows=2) == 0.0


def test_the_file_may_depend_on_the_row(cities):
    pattern = str(cities.parent / "{db}.sqlite")
    query = ["SELECT 1 FROM city LIMIT 1"] * 2
    assert sql.execution(["?"] * 2, query, database=pattern, sql=query, db=["cities"] * 2) == [1.0, 1.0]
    with pytest.raises(UserError, match="no SQLite file"):
        sql.execution(["?"] * 2, query, database=pattern, sql=query, db=["cities", "none"])
    with pytest.raises(UserError, match="no column 'db'"):
        sql.execution(["?"] * 2, query, database=pattern, sql=query)


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
HOSTILE = [
    "DROP TABLE city",
    "DELETE FROM city",
    "UPDATE city SET population = 0",
    "INSERT INTO city VALUES ('x', 'y', 1)",
    "REPLACE INTO city VALUES ('x', 'y', 1)",
    "ALTER TABLE city RENAME TO town",
    "CREATE TABLE x (a)",
    "CREATE TEMP TABLE x (a)",
    "ATTACH '{tmp}/other.sqlite' AS other",
    "VACUUM",
    "VACUUM INTO '{tmp}/copy.sqlite'",
    "PRAGMA table_info(city)",
    "PRAGMA writable_schema = 1",
    "SELECT * FROM pragma_table_info('city')",
    "REINDEX",
    "BEGIN",
    "SELECT load_extension('{tmp}/x.so')",
    "SELECT writefile('{tmp}/x', 'y')",
    "SELECT 1; DROP TABLE city",
    "WITH x AS (SELECT 1) DELETE FROM city",
    ENDLESS + "SELECT count(*) FROM c",
    ENDLESS + "SELECT x FROM c",
    ENDLESS + "SELECT max(x) FROM c ORDER BY 1",
    "WITH RECURSIVE c(x) AS (SELECT hex(randomblob(400000)) UNION ALL SELECT hex(randomblob(400000)) FROM c) "
    "SELECT x FROM c ORDER BY x",
    "SELECT randomblob(1000000000)",
    "SELECT hex(zeroblob(500000)) || hex(zeroblob(500000))",
    "SELECT replace(hex(zeroblob(400000)), '0', hex(zeroblob(400000)))",
    "SELECT count(*) FROM " + ", ".join(f"city a{i}" for i in range(30)),
    "SELECT " + "(" * 500 + "1" + ")" * 500,
    "SELECT " + "1 + " * 5000 + "1",
    "SELECT 'a\x00b'",
    "SELECT '\ud800'",
]


@pytest.mark.parametrize("query", HOSTILE, ids=[q[:40].encode("ascii", "replace").decode() for q in HOSTILE])
def test_hostile_queries_score_0_and_harm_nothing(cities, query):
    before = cities.read_bytes(), sorted(p.name for p in cities.parent.iterdir())
    assert on(cities, query.replace("{tmp}", str(cities.parent)), FRANCE, seconds=0.3) == 0.0
    assert (cities.read_bytes(), sorted(p.name for p in cities.parent.iterdir())) == before
    assert on(cities, FRANCE, FRANCE) == 1.0  # the next one is served as ever


def test_a_single_endless_step_is_ended_with_its_process(cities):
    """Comparing two long strings is one step of SQLite's machine: no limit from within sees it."""
    sandbox = Sandbox()
    stuck = "SELECT instr(hex(zeroblob(400000)), hex(zeroblob(200000)) || '1')"
    queries = ["SELECT 1", stuck, "SELECT 2"]
    results = sandbox.run(Database(path=str(cities)), queries, Limits(seconds=0.1))
    sandbox.close()
    assert [result.rows for result in results] == [[(1,)], None, [(2,)]]
    assert "killed" in results[1].error


def test_a_worker_that_died_is_replaced(cities):
    sandbox = Sandbox()
    assert sandbox.run(Database(path=str(cities)), ["SELECT 1"], Limits())[0].rows == [(1,)]
    sandbox._process.kill()
    sandbox._process.wait()
    assert sandbox.run(Database(path=str(cities)), ["SELECT 2"], Limits())[0].rows == [(2,)]
    sandbox.close()


def test_limits_of_the_sandbox():
    sandbox, empty = Sandbox(), Database()

    def error(query, **limits):
        return sandbox.run(empty, [query], Limits(**limits))[0].error

    assert error(ENDLESS + "SELECT count(*) FROM c", steps=5000, seconds=60) == "out of time or steps"
    assert error(ENDLESS + "SELECT count(*) FROM c", steps=10**12, seconds=0.05) == "out of time or steps"
    assert error(ENDLESS + "SELECT x FROM c LIMIT 3", rows=2) == "too much output"
    assert error("SELECT hex(zeroblob(100))", bytes=150) == "too much output"
    assert sandbox.run(empty, ["SELECT x'00ff', 1e999, 'é', NULL"], Limits())[0].rows == [
        (b"\x00\xff", float("inf"), "é", None)
    ]
    assert "unable to open" in sandbox.run(Database(path="/no/such/file"), ["SELECT 1"], Limits())[0].error
    sandbox.close()


WIDE = ", ".join("a" * 200)
SMILE = "SELECT char(128512) || printf('%.*c', 900000, 'a')"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
@pytest.mark.parametrize(
    "query",
    [
        f"WITH x(a) AS ({SMILE}) SELECT {WIDE} FROM x",
        f"WITH x(a) AS (SELECT zeroblob(1000000)) SELECT {WIDE} FROM x",
        "WITH RECURSIVE c(a, n) AS (SELECT randomblob(900000), 0 UNION ALL SELECT randomblob(900000), n + 1 FROM c "
        f"WHERE n < 110), s(a) AS (SELECT a FROM c ORDER BY a) SELECT {WIDE} FROM s",
        f"SELECT group_concat(a) OVER (ORDER BY a), {WIDE} FROM (SELECT hex(zeroblob(450000)) AS a FROM city)",
    ],
    ids=["wide characters", "blobs", "a full heap, then blobs", "window"],
)
def test_a_hostile_query_takes_no_more_memory_than_promised(cities, query):
    sandbox = Sandbox()
    results = sandbox.run(Database(path=str(cities)), [query, "SELECT 1"], Limits(seconds=5))
    status = Path(f"/proc/{sandbox._process.pid}/status").read_text()
    sandbox.close()
    assert results[0].rows is None and results[1].rows == [(1,)]
    assert int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) << 10 < 256 << 20


@pytest.mark.skipif(sys.platform != "linux", reason="other kernels do not limit a process's data")
def test_the_kernel_limits_the_worker():
    import resource

    sandbox = Sandbox()
    sandbox.run(Database(), ["SELECT 1"], Limits())
    assert 0 < max(resource.prlimit(sandbox._process.pid, resource.RLIMIT_DATA)) <= 256 << 20  # -1: no limit
    sandbox.close()


@pytest.mark.parametrize("lacks", ["module", "limit"])
def test_a_system_without_such_a_limit_runs_all_the_same(lacks, monkeypatch, capsys):
    def refuses(*_):
        raise ValueError("not allowed")

    if lacks == "module":
        monkeypatch.setattr(sqlite_worker, "resource", None)
    else:
        monkeypatch.setattr(sqlite_worker.resource, "setrlimit", refuses)
    sqlite_worker.limit_memory()
    assert capsys.readouterr().err.count("not allowed") == (lacks == "limit")


def in_context(query, gold, context=CONTEXT, **kwargs):
    return sql.execution(["?"], [query], sql=[gold], context=[context], **kwargs)[0]


TWO = """CREATE TABLE `singer` (`id` int(11) NOT NULL PRIMARY KEY, name VARCHAR(20), age INT DEFAULT 0);
CREATE TABLE "song" (id INTEGER, singer_id INT, title TEXT, FOREIGN KEY (singer_id) REFERENCES singer(id));"""
JOIN = "SELECT s.name FROM singer s JOIN song g ON s.id = g.singer_id WHERE g.title = 'Halo' AND s.age > 30"


@pytest.mark.parametrize(
    ("query", "gold", "context", "score"),
    [
        (FRANCE, FRANCE, CONTEXT, 1.0),
        ("SELECT name FROM city WHERE country LIKE 'France'", FRANCE, CONTEXT, 1.0),
        (FRANCE.replace("France", "Italy"), FRANCE, CONTEXT, 0.0),
        (FRANCE.replace("SELECT name", "SELECT population"), FRANCE, CONTEXT, 0.0),
        (FRANCE.replace("SELECT", "SELECT DISTINCT"), FRANCE, CONTEXT, 0.0),
        ("SELECT name FROM city", FRANCE, CONTEXT, 0.0),
        (JOIN, JOIN, TWO, 1.0),
        ("SELECT name FROM singer, song WHERE singer.id = singer_id AND title = 'Halo' AND age >= 31", JOIN, TWO, 1.0),
        (JOIN.replace("30", "31"), JOIN, TWO, 0.0),
        (JOIN.replace("Halo", "Hello"), JOIN, TWO, 0.0),
        (JOIN.replace("> 30", "< 30"), JOIN, TWO, 0.0),
        (JOIN.replace(" AND s.age > 30", ""), JOIN, TWO, 0.0),
        (JOIN.replace("s.id = g.singer_id", "s.id = g.id"), JOIN, TWO, 0.0),
        ("SELECT AVG(age) FROM singer", "SELECT SUM(age) FROM singer", TWO, 0.0),
        ("SELECT COUNT(*) FROM singer", "SELECT COUNT(DISTINCT name) FROM singer", TWO, 0.0),
        (
            "SELECT name FROM singer WHERE age BETWEEN 20 AND 30",
            "SELECT name FROM singer WHERE age >= 20 AND age <= 30",
            TWO,
            1.0,
        ),
        ("SELECT name FROM singer WHERE age > 20", "SELECT name FROM singer WHERE age >= 20", TWO, 0.0),
        ("SELECT name FROM singer WHERE name LIKE 'A%'", "SELECT name FROM singer WHERE name LIKE '%A%'", TWO, 0.0),
        ("SELECT name FROM singer WHERE age = -8", "SELECT name FROM singer WHERE age = -8", TWO, 1.0),
        ("SELECT title FROM song", "SELECT title FROM nowhere", TWO, None),
    ],
)
def test_made_up_rows_tell_right_from_wrong(query, gold, context, score):
    assert in_context(query, gold, context) == score


BARE = """CREATE TABLE singer (id INT, name TEXT, age INT);
CREATE TABLE song (num INT, singer_id INT, title TEXT, album TEXT);"""
NOT_IN = "SELECT name FROM singer WHERE id NOT IN (SELECT singer_id FROM song)"
NOT_EXISTS = "SELECT name FROM singer WHERE NOT EXISTS (SELECT * FROM song WHERE song.singer_id = singer.id)"
OUTER = "SELECT name, title FROM singer LEFT JOIN song ON singer.id = song.singer_id"
EXCEPT = "SELECT id FROM singer WHERE age > 30 EXCEPT SELECT singer_id FROM song WHERE title = 'Halo'"
ALBUM = "SELECT title FROM song WHERE album IS NULL"


@pytest.mark.parametrize("context", [BARE, TWO.replace("title TEXT", "title TEXT, album TEXT")], ids=["bare", "keys"])
@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (NOT_IN, [NOT_EXISTS, OUTER.replace(", title", "") + " WHERE singer_id IS NULL"], [NOT_IN.replace("NOT", "")]),
        (NOT_EXISTS, [NOT_IN], ["SELECT name FROM singer", NOT_EXISTS.replace("NOT", "")]),
        (OUTER + " WHERE singer_id IS NULL", [NOT_EXISTS.replace("name", "name, NULL")], [OUTER]),
        (OUTER, [OUTER.replace("LEFT", "LEFT OUTER")], [OUTER.replace("LEFT", "")]),
        (OUTER.replace("LEFT", ""), ["SELECT name, title FROM song, singer WHERE singer_id = singer.id"], [OUTER]),
        (EXCEPT, [], [EXCEPT.partition(" EXCEPT")[0], EXCEPT.partition(" WHERE title")[0]]),
        (EXCEPT.replace("EXCEPT", "INTERSECT"), [], [EXCEPT, EXCEPT.partition(" EXCEPT")[0]]),
        (ALBUM, ["SELECT title FROM song WHERE NOT album IS NOT NULL"], ["SELECT title FROM song"]),
        (ALBUM.replace("IS", "IS NOT"), [], [ALBUM, "SELECT title FROM song"]),
        (ALBUM.replace("title", "count(*)"), ["SELECT count(title) FROM song WHERE album IS NULL"], ["SELECT 0"]),
        ("SELECT count(title) FROM song", ["SELECT count(*) FROM song"], ["SELECT count(*) FROM singer WHERE 0"]),
    ],
)
def test_made_up_rows_tell_joins_and_nulls_apart(context, gold, right, wrong):
    query = [gold, *right, *wrong]
    scores = sql.execution(query, query, sql=[gold] * len(query), context=[context] * len(query))
    assert scores == [1.0] * (1 + len(right)) + [0.0] * len(wrong)


SHOP = """CREATE TABLE owner (id INT, city TEXT, PRIMARY KEY (id));
CREATE TABLE shop (id INT PRIMARY KEY, owner_id INT, partner_id INT, name TEXT UNIQUE, until INT,
    FOREIGN KEY (owner_id) REFERENCES owner(id), FOREIGN KEY (partner_id) REFERENCES owner);
CREATE TABLE size (name TEXT PRIMARY KEY);
CREATE TABLE stock (shop_id INT, size_name TEXT, n INT, PRIMARY KEY (shop_id, size_name),
    FOREIGN KEY (shop_id) REFERENCES shop(id), FOREIGN KEY (size_name) REFERENCES size(name));
CREATE TABLE licence (shop_id INT PRIMARY KEY REFERENCES Shop(ID), kind TEXT);
CREATE TABLE note (shop_id INT REFERENCES shop(id), text TEXT);"""
OWNERS = "SELECT owner.city FROM owner JOIN shop ON owner.id = shop.owner_id"
KEYED = [  # gold, equivalent because of a key or a foreign key, and wrong all the same
    (
        f"{OWNERS} GROUP BY shop.owner_id ORDER BY COUNT(*) DESC LIMIT 1",
        [
            "SELECT city FROM shop, owner WHERE owner_id = owner.id GROUP BY owner.id ORDER BY COUNT(*) DESC LIMIT 1",
            f"{OWNERS} JOIN owner p ON p.id = shop.partner_id GROUP BY owner.id ORDER BY COUNT(*) DESC LIMIT 1",
        ],
        [f"{OWNERS} GROUP BY shop.partner_id ORDER BY COUNT(*) DESC LIMIT 1", f"{OWNERS} LIMIT 1"],
    ),
    (
        "SELECT id FROM owner EXCEPT SELECT owner_id FROM shop",
        ["SELECT id FROM owner WHERE id NOT IN (SELECT owner_id FROM shop)"],
        ["SELECT id FROM owner", "SELECT id FROM owner EXCEPT SELECT partner_id FROM shop"],
    ),
    (
        "SELECT name, until FROM shop",
        ["SELECT name, until FROM shop GROUP BY id", "SELECT DISTINCT name, until FROM shop"],
        ["SELECT DISTINCT 'a', until FROM shop", "SELECT name, MAX(until) FROM shop GROUP BY until"],
    ),
    (
        "SELECT COUNT(*) FROM stock JOIN shop ON shop.id = stock.shop_id WHERE shop.until > 20",
        [
            "SELECT COUNT(*) FROM stock JOIN shop ON shop_id = id JOIN size ON size.name = size_name WHERE until > 20",
            "SELECT COUNT(DISTINCT shop_id || ' ' || size_name) FROM shop, stock WHERE id = shop_id AND until >= 21",
        ],
        ["SELECT COUNT(*) FROM shop WHERE until > 20", "SELECT COUNT(DISTINCT shop_id) FROM stock"],
    ),
    (
        "SELECT kind FROM licence WHERE shop_id = 7",
        ["SELECT DISTINCT kind FROM licence JOIN shop ON id = shop_id WHERE id = 7"],
        ["SELECT kind FROM licence WHERE shop_id = 8", "SELECT kind FROM licence"],
    ),
    (
        "SELECT city, COUNT(*) FROM owner GROUP BY city HAVING COUNT(*) > 2",
        ["SELECT city, COUNT(DISTINCT id) FROM owner GROUP BY city HAVING COUNT(id) >= 3"],
        ["SELECT city, COUNT(*) FROM owner GROUP BY city HAVING COUNT(*) > 1", "SELECT city, 1 FROM owner"],
    ),
]


@pytest.mark.parametrize(("gold", "right", "wrong"), KEYED)
def test_queries_that_a_key_makes_equal(gold, right, wrong):
    query = [gold, *right, *wrong]
    scores = sql.execution(query, query, sql=[gold] * len(query), context=[SHOP] * len(query))
    assert scores == [1.0] * (1 + len(right)) + [0.0] * len(wrong)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("gold", [gold for gold, _, _ in KEYED])
def test_made_up_rows_keep_keys(gold, seed):
    schema = schema_of(SHOP)
    made = {name: list(zip(*rows, strict=True)) for name, _, rows in made_up(schema, gold, seed).tables}
    column = {(name, c): made[name][i] for name, table in schema.items() for i, c in enumerate(table.columns)}
    for name, table in schema.items():
        assert len(made[name][0]) >= 5
        for key in table.keys:
            lines = list(zip(*(column[name, c] for c in key), strict=True))
            assert len(set(lines)) == len(lines)
        for own, place, theirs in table.references:
            parents = set(zip(*(column[place, c] for c in theirs), strict=True))
            children = set(zip(*(column[name, c] for c in own), strict=True))
            assert children < parents  # some row has no child, for NOT IN and LEFT JOIN


def test_tables_that_refer_to_each_other_or_to_themselves():
    context = """CREATE TABLE a (id INT PRIMARY KEY, b_id INT REFERENCES b(id), boss INT REFERENCES a(id));
    CREATE TABLE b (id INT PRIMARY KEY, a_id INT REFERENCES a(id));"""
    (_, _, a), (_, _, b) = made_up(schema_of(context), "SELECT * FROM a, b", seed=0).tables
    assert len({row[0] for row in a}) == len(a) and len({row[0] for row in b}) == len(b)
    assert {row[2] for row in a} < {row[0] for row in a}
    assert {row[1] for row in a} < {row[0] for row in b} and {row[1] for row in b} < {row[0] for row in a}


def test_columns_joined_without_a_key_have_values_of_their_own():
    bare, others = made_up(schema_of(BARE), NOT_IN, seed=0).tables
    assert {row[1] for row in others[2]} - {row[0] for row in bare[2]}


def test_made_up_rows_are_seeded():
    schema = schema_of(TWO)
    assert made_up(schema, JOIN, seed=1) == made_up(schema, JOIN, seed=1)
    assert made_up(schema, JOIN, seed=1) != made_up(schema, JOIN, seed=2)
    assert [len(rows) for _, _, rows in made_up(schema, JOIN, seed=1, rows=8).tables] == [8, 8]
    only = "SELECT name FROM singer"
    assert [len(rows) for _, _, rows in made_up(schema, only, seed=1, rows=8).tables] == [8, 2]


def test_ignore_case_and_fillings():
    assert in_context(FRANCE.replace("France", "france"), FRANCE) == 0.0
    assert in_context(FRANCE.replace("France", "france"), FRANCE, ignore_case=True) == 1.0
    with pytest.raises(UserError, match="at least one database"):
        in_context(FRANCE, FRANCE, fillings=0)


@pytest.mark.parametrize("fillings", [1, 4])
def test_a_prediction_must_be_right_in_every_filling(fillings, monkeypatch):
    bases = []
    run = sql.SANDBOX.run
    monkeypatch.setattr(sql.SANDBOX, "run", lambda base, *rest: bases.append(base) or run(base, *rest))
    gold = FRANCE.replace("France", f"France {fillings}")  # not in the cache
    assert in_context(gold, gold, fillings=fillings) == 1.0
    assert len(set(map(repr, bases))) == fillings


def test_a_context_without_tables():
    with pytest.raises(UserError, match="no CREATE TABLE"):
        in_context(FRANCE, FRANCE, context="a table of cities")
    with pytest.raises(UserError, match="no column 'context'"):
        sql.execution(["?"], [FRANCE], sql=[FRANCE])
    assert sql.execution(["?"], [FRANCE], sql=[FRANCE], tables=[CONTEXT], context_column="tables") == [1.0]


def test_schema_dialects():
    context = """CREATE TABLE IF NOT EXISTS shop.[order] (
        "order id" BIGINT UNSIGNED, price DECIMAL(10, 2) DEFAULT 0.0, note TEXT DEFAULT 'a, b (c)', -- yes, a comment
        made DATE, plain, CHECK (price > 0), CONSTRAINT k UNIQUE (made), KEY idx (made));"""
    assert schema_of(context)["order"].columns == {
        "order id": "UBIGINT",
        "price": "DECIMAL",
        "note": "TEXT",
        "made": "DATE",
        "plain": "",
    }


@pytest.mark.parametrize(
    ("parts", "keys", "references"),
    [
        ("id INT PRIMARY KEY, b INT REFERENCES u(B)", [("id",)], [(("b",), "U", ("b",))]),
        ("id INT, b INT, PRIMARY KEY (ID), FOREIGN KEY (B) REFERENCES u", [("id",)], [(("b",), "U", ("a",))]),
        ("id INT, CONSTRAINT k PRIMARY KEY (id, b), b INT UNIQUE NOT NULL", [("id", "b"), ("b",)], []),
        ("id INT, b INT, UNIQUE KEY name (b), KEY other (id)", [("b",)], []),
        (
            "id INT, b INT, CONSTRAINT f FOREIGN KEY (id, b) REFERENCES `u` (`a`, `b`) ON DELETE CASCADE",
            [],
            [(("id", "b"), "U", ("a", "b"))],
        ),
        ("id INT, b INT REFERENCES elsewhere(b), FOREIGN KEY (id) REFERENCES u (c)", [], []),
    ],
)
def test_schema_keys(parts, keys, references):
    table = schema_of(f"CREATE TABLE t ({parts}); CREATE TABLE U (a INT PRIMARY KEY, b INT);")["t"]
    assert list(table.columns) == ["id", "b"]
    assert (sorted(table.keys), table.references) == (sorted(keys), references)


def test_exact_match():
    gold = ["SELECT name FROM city WHERE country = 'France'"] * 5 + [None]
    query = [
        "select NAME from city where country='France';",
        "```sql\nSELECT name -- yes\nFROM city WHERE country = 'France'\n```",
        "SELECT name FROM city WHERE country = 'france'",
        "SELECT  city.name FROM city WHERE country = 'France'",
        "no",
        "no",
    ]
    assert sql.exact_match(["?"] * 6, query, sql=gold, reward=0.5) == [0.5, 0.5, 0.0, 0.0, 0.0, None]
    assert sql.exact_match(["?"], ["<q>SELECT 1</q>"], gold=["SELECT 1"], column="gold", tag="q") == [1.0]


def test_parses(cities):
    query = [
        FRANCE,
        "SELECT nom FROM city",
        "DROP TABLE city",
        "PRAGMA table_info(city)",
        "SELECT",
        "no",
        FRANCE + "; DROP TABLE city",
    ]
    expected = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    assert sql.parses(["?"] * 7, query, context=[CONTEXT] * 7) == expected
    assert sql.parses(["?"] * 7, query, database=str(cities)) == expected
    assert sql.parses(["?"], ["<q>SELECT 1</q>"], tables=["x"], context_column="tables", tag="q", reward=0.2) == [0.2]


def test_hostile_text_is_searched_in_no_time():
    for text in (
        "[" * 50_000,
        "'" * 49_999,
        "/*" * 20_000,
        "with " * 20_000,
        "```sql\n" * 10_000,
        "create table " * 5_000,
        "`a b" * 10_000,
        "select a\n\n" * 5_000,
    ):
        assert query_in(text) is None or len(query_in(text)) <= 10_000
        assert schema_of(text) == {}
