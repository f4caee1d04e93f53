"""Which tables there are: who knows, when, and what survives an outage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from threading import Barrier, Event, Thread

import psycopg
import pytest

from surgetank.database.migrate import MigratedDatabase
from surgetank.exceptions import Conflict, DatabaseUnavailable, InvalidRequest, NotFound
from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.catalog.catalog import Catalog
from surgetank.streams.tables.catalog.mirror import SCRIPT, Mirror
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.file import TABLES
from surgetank.streams.tables.sql.parsing import parse
from surgetank.streams.tables.sql.statements import AddColumn, CreateTable

ORDERS = """CREATE TABLE orders (id BIGINT PRIMARY KEY, note TEXT NOT NULL DEFAULT 'a', price DECIMAL(10, 2)
    DEFAULT 1.5, doc JSON DEFAULT 'null', at TIMESTAMPTZ DEFAULT now(), ref UUID DEFAULT uuid())
    WITH (FLUSH_POLICY='rows:5,interval:7')"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def open_catalog(
    database_url: str, tmp_path: Path, clock: Clock
) -> Iterator[Callable[..., Catalog]]:
    with ExitStack() as stack:

        def opened(home: str = "a", url: str = database_url) -> Catalog:
            database = MigratedDatabase(url)
            stack.callback(database.close)
            (tmp_path / home).mkdir(exist_ok=True)
            file = SharedFile(
                tmp_path / home / "x-tables.db", kind=TABLES, name="table store", script=SCRIPT
            )
            made = Catalog(database, Mirror(file), clock=clock)
            stack.callback(made.close)
            return made

        yield opened


def create(catalog: Catalog, text: str) -> Table:
    action = parse(text)[0].action
    assert isinstance(action, CreateTable)
    return catalog.create(action, actor="ann", owner="ann")


def add(catalog: Catalog, table: Table, column: str) -> Table:
    action = parse(f"ALTER TABLE t ADD COLUMN {column}")[0].action
    assert isinstance(action, AddColumn)
    return catalog.add_column(table, action.column, actor="ann")


def away(url: str) -> str:
    return psycopg.conninfo.make_conninfo(url, host="127.0.0.1", port=1)


def test_a_table_is_found_as_it_was_declared(open_catalog: Callable[..., Catalog]) -> None:
    catalog = open_catalog()
    made = create(catalog, ORDERS)
    found = open_catalog("b").get("PUBLIC", "Orders")
    assert found == made
    assert [(c.id, c.name, c.type.sql, c.nullable) for c in found.columns][:3] == [
        (3, "id", "BIGINT", False),
        (4, "note", "TEXT", False),
        (5, "price", "DECIMAL(10, 2)", True),
    ]
    defaults = [c.default and c.default.value for c in found.columns]
    assert defaults == [None, "a", Decimal("1.50"), "null", None, None]
    assert (found.key, found.owner, found.policy.rows, found.policy.interval_s) == (
        ("id",),
        "ann",
        5,
        7,
    )


def test_definitions_are_known_while_the_database_is_away(
    open_catalog: Callable[..., Catalog], database_url: str, clock: Clock
) -> None:
    catalog = open_catalog()
    table = add(catalog, create(catalog, ORDERS), "n INT DEFAULT 3")
    restarted = open_catalog("a", away(database_url))
    assert restarted.get("public", "orders") == table
    assert restarted.stale
    assert restarted.namespaces() == ("public",)
    # What another process on the same file learns is known here as well.
    catalog.create_namespace("shop", actor="ann")
    other = create(catalog, "CREATE TABLE shop.t (a INT)")
    clock.now += 2
    assert restarted.get("shop", "t") == other
    with pytest.raises(DatabaseUnavailable):
        create(restarted, "CREATE TABLE u (a INT)")
    with pytest.raises(NotFound):
        open_catalog("never", away(database_url)).get("public", "orders")


def test_others_know_of_a_change_after_a_second(
    open_catalog: Callable[..., Catalog], clock: Clock
) -> None:
    one, other = open_catalog(), open_catalog("b")
    table = create(one, ORDERS)
    assert other.get("public", "orders") == table  # what isn't known is asked for at once
    changed = add(one, table, "n INT")
    assert other.get("public", "orders") == table
    clock.now += 1
    assert other.get("public", "orders") == changed
    one.drop(changed, actor="ann")
    clock.now += 1
    assert other.find("public", "orders") is None
    assert other.by_id(table.id) is None
    again = create(other, ORDERS)
    assert again.id != table.id


def test_an_added_column_says_what_older_rows_have(open_catalog: Callable[..., Catalog]) -> None:
    catalog = open_catalog()
    table = create(catalog, "CREATE TABLE t (a INT)")
    for column in (
        "b INT NOT NULL DEFAULT 3",
        "c TIMESTAMPTZ DEFAULT now()",
        "d UUID DEFAULT uuid()",
    ):
        table = add(catalog, table, column)
    b, c, d = table.columns[1:]
    assert (b.id, b.since, b.initial) == (4, 2, 3)
    assert c.since == 3
    assert abs((c.initial - table.updated_at).total_seconds()) < 60
    assert (d.id, d.since, d.initial) == (6, 4, None)
    with pytest.raises(InvalidRequest, match="NOT NULL"):
        add(catalog, table, "e UUID NOT NULL DEFAULT uuid()")
    with pytest.raises(Conflict, match="already"):
        add(catalog, table, "B TEXT")


def test_two_who_change_one_table_at_once_are_told_apart(
    open_catalog: Callable[..., Catalog],
) -> None:
    one, other = open_catalog(), open_catalog("b")
    table = create(one, "CREATE TABLE t (a INT)")
    add(one, table, "b INT")
    with pytest.raises(Conflict, match="meanwhile"):
        add(other, table, "c INT")
    catalogs, start = [open_catalog(str(n)) for n in range(4)], Barrier(4)

    made: list[Table | None] = []

    def compete(catalog: Catalog) -> None:
        start.wait()
        try:
            made.append(create(catalog, "CREATE TABLE u (a INT)"))
        except Conflict:
            made.append(None)

    threads = [Thread(target=compete, args=(each,)) for each in catalogs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [each is None for each in made].count(False) == 1


def test_every_change_is_in_the_audit(
    open_catalog: Callable[..., Catalog], database_url: str
) -> None:
    catalog = open_catalog()
    catalog.create_namespace("shop", actor="ann")
    assert not catalog.create_namespace("SHOP", actor="ann", if_not_exists=True)
    table = add(catalog, create(catalog, "CREATE TABLE shop.t (a INT)"), "b INT")
    with pytest.raises(Conflict, match="has 1 tables"):
        catalog.drop_namespace("shop", actor="ann")
    catalog.drop(table, actor="bob")
    assert not catalog.drop(table, actor="bob")
    catalog.drop_namespace("shop", actor="bob")
    with psycopg.connect(database_url) as connection:
        rows = connection.execute(
            "SELECT action, actor FROM surgetank.audit_log ORDER BY id"
        ).fetchall()
    assert rows == [
        ("namespace_created", "ann"),
        ("table_created", "ann"),
        ("table_altered", "ann"),
        ("table_dropped", "bob"),
        ("namespace_dropped", "bob"),
    ]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("CREATE TABLE t (a INT, A TEXT)", "two columns"),
        ("CREATE TABLE t (a INT, PRIMARY KEY (b))", "no column"),
        ("CREATE TABLE t (a JSON PRIMARY KEY)", "its type is JSON"),
        ("CREATE TABLE t (a INT[] PRIMARY KEY)", "its type is INT"),
        ("CREATE TABLE t (a TEXT DEFAULT 'x\0y')", "NUL"),
        ("CREATE TABLE t (a INT) WITH (TYPE='STREAM')", "TTL_SECONDS"),
        ("CREATE TABLE t (a INT) WITH (TTL_SECONDS=5)", "STREAM"),
        ("CREATE TABLE t (a INT) WITH (ACCESS_LEVEL='read')", "SHARED"),
        ("CREATE TABLE t (a INT) WITH (TYPE='STREAM', TTL_SECONDS=5, FLUSH_POLICY='rows:1')", "never"),
        ("CREATE TABLE t (" + ", ".join(f"c{n} INT" for n in range(1001)) + ")", "1001 columns"),
    ],
)  # fmt: skip
def test_what_no_table_can_be_is_refused(
    open_catalog: Callable[..., Catalog], text: str, wanted: str
) -> None:
    with pytest.raises(InvalidRequest, match=wanted):
        create(open_catalog(), text)


def test_a_table_needs_its_namespace(open_catalog: Callable[..., Catalog]) -> None:
    catalog = open_catalog()
    with pytest.raises(NotFound, match="no namespace 'shop'"):
        create(catalog, "CREATE TABLE shop.t (a INT)")
    create(catalog, "CREATE TABLE t (a INT)")
    with pytest.raises(Conflict, match="already"):
        create(catalog, "CREATE TABLE T (b INT)")
    kept = create(catalog, "CREATE TABLE IF NOT EXISTS T (b INT)")
    assert [column.name for column in kept.columns] == ["a"]


def test_another_database_is_another_catalogue(
    open_catalog: Callable[..., Catalog], database_url: str, clock: Clock
) -> None:
    catalog = open_catalog()
    create(catalog, ORDERS)
    with psycopg.connect(database_url) as connection:  # as if it were another one, or an older copy
        connection.execute("DELETE FROM surgetank.table_columns")
        connection.execute("DELETE FROM surgetank.tables")
        connection.execute("UPDATE surgetank.table_catalog SET version = version - 1")
    clock.now += 1
    assert catalog.find("public", "orders") is None
    assert open_catalog("a", away(database_url)).find("public", "orders") is None


def test_a_database_that_stands_still_holds_up_only_who_asks_it(
    open_catalog: Callable[..., Catalog], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalog = open_catalog()
    table = create(catalog, ORDERS)
    asked, answers = Event(), Event()

    @contextmanager
    def still() -> Iterator[None]:
        asked.set()
        assert answers.wait(30)
        raise DatabaseUnavailable("It stands still.")
        yield

    monkeypatch.setattr(catalog._database, "reading", still)
    clock.now += 2
    found: list[Table] = []
    asking = Thread(target=lambda: found.append(catalog.get("public", "orders")))
    asking.start()
    assert asked.wait(30)
    beside = Thread(target=lambda: found.append(catalog.get("public", "orders")))
    beside.start()
    beside.join(10)
    assert found == [table]
    answers.set()
    asking.join(30)
    assert found == [table, table]
    assert catalog.stale
