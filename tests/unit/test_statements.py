"""What a text of SQL asks for."""

from __future__ import annotations

from decimal import Decimal

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgetank.exceptions import InvalidRequest, QuotaExceeded
from surgetank.streams.tables.definition import (
    Access,
    Default,
    DefaultKind,
    Kind,
    TablePolicy,
    checked_name,
)
from surgetank.streams.tables.sql.parsing import Misread, parse
from surgetank.streams.tables.sql.statements import (
    AddColumn,
    AsDeclared,
    CreateNamespace,
    CreateTable,
    Delete,
    Describe,
    DropTable,
    ExecuteAs,
    FlushAll,
    FlushTable,
    Given,
    Insert,
    KillJob,
    OnConflict,
    Select,
    ShowNamespaces,
    ShowStats,
    ShowTables,
    Subscribe,
    TableName,
    Update,
)

T = TableName("orders", "shop")


def one(text: str) -> object:
    (statement,) = parse(text)
    return statement.action


def test_a_table_is_created_as_it_is_declared() -> None:
    made = one("""
        CREATE TABLE IF NOT EXISTS shop.orders (
            id BIGINT PRIMARY KEY, note VARCHAR NOT NULL DEFAULT 'a;b', price DECIMAL(10, 2) DEFAULT -1.5,
            at TIMESTAMP WITH TIME ZONE DEFAULT now(), ref UUID DEFAULT (uuid()), tags TEXT[], d double precision
        ) WITH (TYPE='SHARED', FLUSH_POLICY='rows:1000,interval:60', TTL_SECONDS=3600, ACCESS_LEVEL='read')
    """)
    assert isinstance(made, CreateTable)
    assert (made.table, made.kind, made.key, made.if_not_exists) == (T, Kind.SHARED, ("id",), True)
    assert (made.policy, made.ttl_s, made.access) == (TablePolicy(1000, 60), 3600, Access.READ)
    assert [(c.name, c.type.sql, c.nullable) for c in made.columns] == [
        ("id", "BIGINT", False),
        ("note", "TEXT", False),
        ("price", "DECIMAL(10, 2)", True),
        ("at", "TIMESTAMPTZ", True),
        ("ref", "UUID", True),
        ("tags", "TEXT[]", True),
        ("d", "DOUBLE", True),
    ]
    assert [c.default for c in made.columns[1:5]] == [
        Default(DefaultKind.CONSTANT, "a;b"),
        Default(DefaultKind.CONSTANT, Decimal("-1.50")),
        Default(DefaultKind.NOW),
        Default(DefaultKind.UUID),
    ]


def test_a_key_may_be_of_several_columns_and_a_table_without_a_namespace_is_public() -> None:
    made = one("CREATE TABLE t (a INT, b TEXT, PRIMARY KEY (b, a))")
    assert isinstance(made, CreateTable)
    assert (made.table, made.key, made.kind) == (TableName("t", "public"), ("b", "a"), Kind.USER)


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO shop.orders VALUES (1, -2.5, 'it''s', NULL, TRUE, [1, 2], DEFAULT)",
        "insert into shop . orders values (1, - 2.5, $$it's$$, null, true, ARRAY[1, 2], default)",
    ],
)
def test_literals_are_values(text: str) -> None:
    made = one(text)
    assert isinstance(made, Insert)
    assert made.rows == ((1, Decimal("-2.5"), "it's", None, True, [1, 2], AsDeclared()),)


def test_what_is_no_literal_is_left_to_the_query() -> None:
    made = one("INSERT INTO shop.orders (id) VALUES (1), (now()) ON CONFLICT (id) DO NOTHING")
    assert made == Insert(
        table=T,
        columns=("id",),
        query="VALUES (1), (now())",
        on_conflict=OnConflict.NOTHING,
        conflict_key=("id",),
    )


def test_question_marks_count_over_all_statements() -> None:
    first, second, third = (
        each.action
        for each in parse(
            "INSERT INTO shop.orders VALUES (?, 'x');"
            "UPDATE shop.orders o SET b = ?, a = '?' WHERE c = ? /* ? */; SELECT '?', ?"
        )
    )
    assert isinstance(first, Insert)
    assert first.rows == ((Given("1"), "x"),)
    assert second == Update(
        table=T, assignments=(("b", "$2"), ("a", "'?'")), alias="o", where="c = $3"
    )
    assert third == Select("SELECT '?', $4")


def test_parameters_are_known_by_their_names() -> None:
    text = (
        "SELECT $A, '$b', a$c, x -> '$.d', $$ $e $$, $f::INT; UPDATE shop.orders SET b = $G -- $h"
    )
    assert [each.parameters for each in parse(text)] == [{"a", "f"}, {"g"}]
    assert [each.parameters for each in parse("SELECT $1,$2; SELECT $b")] == [{"1", "2"}, {"b"}]
    assert [each.parameters for each in parse("SELECT ?; SELECT ?, ?")] == [{"1"}, {"2", "3"}]


@pytest.mark.parametrize(
    ("text", "why", "at"),
    [
        ("SELECT ?, $1", "written as $1 here, and one before as ?", 10),
        ("SELECT $1; SELECT ?", "Statement 2 ('SELECT ?'): A parameter is written as ? here", 18),
        ("INSERT INTO shop.orders VALUES (?, $name)", "written as $name here", 35),
        ("SELECT $name, $1", "written as $1 here, and one before as $name", 14),
        ("SELECT ?1", "A parameter is ?, or a number behind $", 7),
        ("SELECT ? 1", "A parameter is ?, or a number behind $", 7),
    ],
)
def test_parameters_are_written_in_one_way(text: str, why: str, at: int) -> None:
    with pytest.raises(Misread) as caught:
        parse(text)
    assert why in str(caught.value)
    assert caught.value.position == at


def test_a_select_of_an_insert_ends_before_on_conflict_only() -> None:
    made = one(
        "INSERT INTO shop.orders (a, b) SELECT x.a, y.b FROM x JOIN y ON x.i = y.i"
        " ON CONFLICT DO UPDATE SET b = excluded.b"
    )
    assert isinstance(made, Insert)
    assert made.query == "SELECT x.a, y.b FROM x JOIN y ON x.i = y.i"
    assert (made.on_conflict, made.updates) == (OnConflict.UPDATE, ("b",))


def test_expressions_stay_as_they_were_written() -> None:
    assert one(
        "UPDATE shop.orders SET a = CASE WHEN b IS DISTINCT FROM c THEN 1 ELSE (2) END, d = list[1]"
        " WHERE id IN (SELECT id FROM x WHERE y > 1) AND n <> ';'"
    ) == Update(
        table=T,
        assignments=(
            ("a", "CASE WHEN b IS DISTINCT FROM c THEN 1 ELSE (2) END"),
            ("d", "list[1]"),
        ),
        where="id IN (SELECT id FROM x WHERE y > 1) AND n <> ';'",
    )
    assert one("DELETE FROM shop.orders AS o WHERE o.id = 1") == Delete(
        table=T, alias="o", where="o.id = 1"
    )


def test_what_is_ours_alone() -> None:
    assert [each.action for each in parse("""
        CREATE NAMESPACE IF NOT EXISTS shop; SHOW TABLES; SHOW TABLES IN shop; SHOW NAMESPACES;
        DESCRIBE shop.orders; SHOW STATS FOR TABLE shop.orders; STORAGE FLUSH TABLE shop.orders; STORAGE FLUSH ALL;
        KILL JOB 'ab-1'; DROP TABLE IF EXISTS shop.orders; -- ; no statement
        EXECUTE AS USER 'ann' SELECT 1; EXECUTE AS USER 'ann' (DELETE FROM shop.orders);
        SUBSCRIBE TO shop.orders WHERE a = 1 OPTIONS (last_rows=5);
    """)] == [
        CreateNamespace(name="shop", if_not_exists=True),
        ShowTables(),
        ShowTables("shop"),
        ShowNamespaces(),
        Describe(T),
        ShowStats(T),
        FlushTable(T),
        FlushAll(),
        KillJob("ab-1"),
        DropTable(table=T, if_exists=True),
        ExecuteAs("ann", Select("SELECT 1")),
        ExecuteAs("ann", Delete(table=T)),
        Subscribe(T, "a = 1", {"last_rows": 5}),
    ]  # fmt: skip


def test_a_column_that_is_added() -> None:
    made = one("ALTER TABLE shop.orders ADD COLUMN IF NOT EXISTS n INT NOT NULL DEFAULT 3")
    assert isinstance(made, AddColumn)
    assert (made.column.nullable, made.column.default) == (
        False,
        Default(DefaultKind.CONSTANT, 3),
    )


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", "no statement"),
        (" ; -- nothing", "no statement"),
        ("SELECT 'abc", "has no end"),
        ("COPY t TO 'x'", "'COPY'"),
        ("ATTACH 'x' AS y", "'ATTACH'"),
        ("CREATE TABLE t (a TINYINT)", "use SMALLINT"),
        ("CREATE TABLE t (a INT DEFAULT random())", "a constant"),
        ("CREATE TABLE t (a INT DEFAULT 'x')", "default of 'a'"),
        ("CREATE TABLE t (a INT DEFAULT now())", "for a date or time"),
        ("CREATE TABLE t (a INT PRIMARY KEY, b INT PRIMARY KEY)", "one PRIMARY KEY"),
        ("CREATE TABLE t (a INT UNIQUE)", "UNIQUE"),
        ("CREATE TABLE t (_seq INT)", "can't be called"),
        ("CREATE TABLE system.t (a INT)", "can't be called"),
        ("CREATE TABLE t (a INT) WITH (X=1)", "option 'X'"),
        ("CREATE TABLE t (a INT) WITH (FLUSH_POLICY='rows:-1')", "above 0"),
        ("CREATE TABLE t (a INT) WITH (TTL_SECONDS='nan')", "above 0"),
        ("CREATE TABLE t (a INT", "the end"),
        ("ALTER TABLE t DROP COLUMN a", "ADD COLUMN"),
        ("ALTER TABLE t ADD COLUMN a INT NOT NULL", "DEFAULT"),
        ("UPDATE t SET a = 1 FROM b", "subquery"),
        ("DELETE FROM t WHERE a) OR (b", "')'"),
        ("DELETE FROM t WHERE a UNION SELECT 1", "'UNION'"),
        ("DELETE FROM t WHERE a RETURNING b", "RETURNING"),
        ("INSERT INTO t VALUES (1", "closing bracket"),
        ("INSERT INTO t VALUES (1) ON CONFLICT DO UPDATE SET a = 5", "excluded.a"),
        ("EXECUTE AS USER 'a' EXECUTE AS USER 'b' SELECT 1", "another one"),
        ("EXECUTE AS USER '' SELECT 1", "nobody"),
        ("KILL JOB", "a job"),
    ],
)
def test_what_can_not_be_read_is_said(text: str, wanted: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        parse(text)
    assert wanted in str(error.value)


def test_an_error_names_its_statement_where_there_are_several() -> None:
    with pytest.raises(InvalidRequest, match=r"^Statement 2 \('DROP INDEX x'\): "):
        parse("SELECT 1; DROP INDEX x; SELECT 2")


def test_parameters_need_no_spaces_and_texts_are_kept() -> None:
    made = one("""INSERT INTO t ("a$1,b") VALUES ($1,$2,'it''s $1,$2', $x$ $1, $$ $x$)""")
    assert isinstance(made, Insert)
    assert made.columns == ("a$1,b",)
    assert made.rows == ((Given("1"), Given("2"), "it's $1,$2", " $1, $$ "),)
    assert one("SELECT $1+$2, '$1,$2'") == Select("SELECT $1+$2, '$1,$2'")


def test_no_text_is_too_much() -> None:
    with pytest.raises(QuotaExceeded):
        parse("x" * 300_000)
    assert one("(" * 2000) == Select("(" * 2000)  # DuckDB says what is wrong with it
    with pytest.raises(InvalidRequest):
        parse("CREATE TABLE t (a INT[] DEFAULT " + "[" * 2000)
    with pytest.raises(InvalidRequest, match="can't be in another one"):
        parse("EXECUTE AS USER 'x' " * 2000)
    with pytest.raises(InvalidRequest) as error:
        checked_name("x" * 100_000, "table")
    assert len(str(error.value)) < 300


def test_a_number_is_read_with_all_its_digits_or_left_to_duckdb() -> None:
    digits = "1.2345678901234567890123456789012345678"
    read = one(f"INSERT INTO t VALUES (-{digits}, {digits})")
    assert isinstance(read, Insert)
    assert read.rows == ((Decimal(f"-{digits}"), Decimal(digits)),)
    left = one(f"INSERT INTO t VALUES (1e{'9' * 50})")
    assert isinstance(left, Insert)
    assert left.query is not None


TEXTS = (
    "SELECT 1", "SELECT 1;", ";;SELECT 1;;\n;SELECT 2 -- ; not this\n;", "SELECT ';' ; SELECT \"a;b\" ; SELECT $$;$$",
    "SELECT $tag$ ; $$ ; $tag$; SELECT 2", "SELECT E'it\\';s'; SELECT 'it'';s'",
    "/* ; /* nested ; */ ; */ SELECT 1; SELECT 2", "SELECT $1+$2; SELECT $name", "SELECT 'é;', 1; SELECT 2",
)  # fmt: skip


@pytest.mark.parametrize("text", TEXTS)
def test_statements_are_split_where_duckdb_splits_them(text: str) -> None:
    ours = [each.text for each in parse(text)]
    theirs = [each.query.strip().rstrip(";").strip() for each in duckdb.extract_statements(text)]
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one in other or other in one


@given(st.text(alphabet="'\"$;ab-/*\\E()[]? \n", max_size=40))
def test_any_text_can_be_read_or_is_refused(text: str) -> None:
    try:
        found = parse(text)
    except InvalidRequest:
        return
    assert all(each.text == text[each.start : each.start + len(each.text)] for each in found)
