"""Tables as their users have them: made, filled, read, flushed and dropped, by SQL and by the noun."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import psycopg
import pytest

from support.postgres import PostgresServer
from support.waiting import wait_until
from surgetank import Surgetank
from surgetank.app.sql import SqlCaller
from surgetank.exceptions import (
    Conflict,
    DatabaseUnavailable,
    EntryRejected,
    InvalidRequest,
    NotFound,
    SurgetankError,
)
from surgetank.streams.tables.cold.upkeep import Keeping

ORDERS = """
    CREATE NAMESPACE shop;
    CREATE TABLE shop.orders (id BIGINT PRIMARY KEY, note TEXT NOT NULL DEFAULT 'none',
        added TIMESTAMPTZ DEFAULT now());
    CREATE SHARED TABLE shop.rates (name TEXT PRIMARY KEY, rate DECIMAL(10, 4)) WITH (ACCESS_LEVEL='read')
"""
OPERATOR = SqlCaller(user="olga", defines=True)
ADMIN = SqlCaller(user="root", defines=True, administers=True)


def rows(tank: Surgetank, text: str, parameters: Any = None, **more: Any) -> list[tuple[Any, ...]]:
    found = tank.sql(text, parameters, **more)[-1].rows
    assert found is not None
    return [tuple(row.values()) for row in found.to_pylist()]


def error(tank: Surgetank, text: str, caller: SqlCaller) -> SurgetankError | None:
    return tank.sql.run(text, caller).error


@pytest.fixture
def shop(tank: Surgetank) -> Surgetank:
    tank.sql(ORDERS)
    tank.sql("INSERT INTO shop.orders (id, note) VALUES (1, 'tea'), (?, ?)", [2, "jam"], user="ann")
    tank.sql("INSERT INTO shop.orders VALUES (1, DEFAULT, NULL)", user="bob")
    tank.sql("INSERT INTO shop.rates VALUES ('eur', 1.25)")
    return tank


def test_rows_are_their_users_before_and_after_a_flush(shop):
    for flushed in (False, True):
        if flushed:
            (done,) = rows(shop, "STORAGE FLUSH TABLE shop.orders")
            assert done[1:3] == ("completed", 3)
        assert rows(shop, "SELECT id, note FROM shop.orders ORDER BY id", user="ann") == [
            (1, "tea"),
            (2, "jam"),
        ]
        assert rows(shop, "SELECT note, added FROM shop.orders", user="bob") == [("none", None)]
        assert rows(shop, "SELECT _user, count(*) FROM shop.orders GROUP BY 1 ORDER BY 1") == [
            ("ann", 2),
            ("bob", 1),
        ]
        assert rows(shop, "SELECT rate FROM shop.rates", user="bob")[0][0] * 4 == 5


def test_rows_are_changed_hot_and_cold(shop):
    shop.tables.flush()
    shop.sql(
        "UPDATE shop.orders SET note = upper(note) WHERE id = $1; DELETE FROM shop.orders WHERE id = $2",
        [1, 2],
        user="ann",
    )
    assert rows(shop, "SELECT id, note FROM shop.orders", user="ann") == [(1, "TEA")]
    shop.sql(
        "INSERT INTO shop.orders (id, note) VALUES (1, 'new') ON CONFLICT (id) DO NOTHING",
        user="ann",
    )
    shop.sql(
        "INSERT INTO shop.orders (id, note) SELECT 1, 'two' ON CONFLICT DO UPDATE SET note = excluded.note",
        user="ann",
    )
    assert rows(shop, "SELECT id, note FROM shop.orders", user="ann") == [(1, "two")]
    with pytest.raises(Conflict):
        shop.sql("INSERT INTO shop.orders (id) VALUES (1)", user="ann")
    shop.tables.flush("shop.orders")
    assert rows(shop, "SELECT id, note FROM shop.orders", user="ann") == [(1, "two")]
    assert rows(shop, "SELECT note FROM shop.orders", user="bob") == [("none",)]


def test_a_column_that_is_added_is_in_older_rows(shop):
    shop.tables.flush()
    shop.sql("INSERT INTO shop.orders (id) VALUES (3)", user="ann")
    shop.sql("ALTER TABLE shop.orders ADD COLUMN n INT DEFAULT 7")
    shop.sql("INSERT INTO shop.orders (id, n) VALUES (4, 8)", user="ann")
    assert rows(shop, "SELECT id, n FROM shop.orders ORDER BY id", user="ann") == [
        (1, 7),
        (2, 7),
        (3, 7),
        (4, 8),
    ]


def test_who_may_what(shop, database_url):
    ann = SqlCaller(user="ann", trusted=True)  # her rights, without a process of its own
    for text in (
        "DROP TABLE shop.orders",
        "CREATE TABLE t (a INT)",
        "STORAGE FLUSH ALL",
        "KILL JOB 'x'",
        "CREATE NAMESPACE n",
        "EXECUTE AS USER 'bob' SELECT 1",
        "SHOW STATS FOR TABLE shop.orders",
        "DELETE FROM shop.rates",
        "INSERT INTO shop.rates VALUES ('a', 1)",
    ):
        refused = error(shop, text, ann)
        assert refused is not None, text
        assert refused.http_status == 403, text
    refused = error(shop, "EXECUTE AS USER 'ann' DELETE FROM shop.orders", OPERATOR)
    assert refused is not None
    assert refused.http_status == 403
    assert (
        error(
            shop, "CREATE TABLE t (a INT); DROP TABLE t; SHOW STATS FOR TABLE shop.orders", OPERATOR
        )
        is None
    )
    outcome = shop.sql.run("EXECUTE AS USER 'bob' UPDATE shop.orders SET note = 'x'", ADMIN)
    assert outcome.done()[0].affected == 1
    assert rows(shop, "SELECT count(*) FROM shop.orders WHERE note = 'x'") == [(1,)]
    with psycopg.connect(database_url) as connection:
        noted = connection.execute(
            "SELECT a.actor, n.name FROM surgetank.audit_log a JOIN surgetank.audit_names n"
            " ON n.number = (a.detail ->> 'user')::bigint WHERE a.action = 'acted_as_user'"
        ).fetchall()
    assert noted == [("root", "bob")]
    with pytest.raises(InvalidRequest, match="nobody is named"):
        shop.sql("INSERT INTO shop.orders (id) VALUES (9)")


def test_relations_show_what_the_caller_may_see(shop):
    shop.sql("CREATE SHARED TABLE secret (a INT)")
    listed = "SELECT table_schema || '.' || table_name, table_type, surgetank_table_type FROM information_schema.tables"
    mine = rows(shop, listed + " WHERE table_type = 'BASE TABLE' ORDER BY 1", user="ann")
    assert mine == [
        ("shop.orders", "BASE TABLE", "USER"),
        ("shop.rates", "BASE TABLE", "SHARED"),
    ]
    everything = [name for name, *_ in rows(shop, listed)]
    assert {"public.secret", "system.jobs", "system.tables", "information_schema.columns"} <= {
        *everything
    }
    for name in (
        each for each in everything if each.startswith(("system.", "information_schema."))
    ):
        rows(shop, f"SELECT * FROM {name}")
    assert rows(
        shop,
        "SELECT column_name, is_nullable, data_type, column_default FROM information_schema.columns"
        " WHERE table_name = 'orders' ORDER BY ordinal_position",
        user="ann",
    ) == [
        ("id", "NO", "BIGINT", None),
        ("note", "NO", "TEXT", "'none'"),
        ("added", "YES", "TIMESTAMPTZ", "now()"),
    ]
    assert rows(
        shop,
        "SELECT option_value FROM system.table_options WHERE table_name = 'rates' AND option_key = 'ACCESS_LEVEL'",
    ) == [("read",)]
    assert [each[1] for each in rows(shop, "SHOW TABLES IN shop", user="ann")] == [
        "orders",
        "rates",
    ]
    with pytest.raises(NotFound):
        shop.sql("SELECT * FROM secret", user="ann")
    with pytest.raises(NotFound):
        shop.sql("DESCRIBE secret", user="ann")


def test_what_is_dropped_is_gone(shop):
    shop.tables.flush()
    shop.sql("INSERT INTO shop.orders (id) VALUES (5)", user="ann")
    assert shop.tables.drop("shop.orders")
    with pytest.raises(NotFound):
        shop.sql("SELECT * FROM shop.orders")
    shop.sql("CREATE TABLE shop.orders (id BIGINT PRIMARY KEY)")
    assert rows(shop, "SELECT * FROM shop.orders") == []
    assert not shop.tables.drop("nothing", if_exists=True)


def test_a_drop_that_was_killed_on_the_way_is_finished_in_the_background(shop):
    shop.tables.flush()
    shop.sql("INSERT INTO shop.orders (id) VALUES (5)", user="ann")
    opened = shop.parts.tables.open()
    (gone,) = [each.id for each in opened.catalog.tables() if each.name == "orders"]
    with (
        mock.patch.object(opened.hot, "forget_table", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        shop.tables.drop("shop.orders")
    assert gone in opened.hot.tables()
    files = list((Path(opened.cold.address) / str(gone)).iterdir())
    assert files
    shop.close()
    shop.open()
    shop.parts.housekeep()
    opened = shop.parts.tables.open()
    assert gone not in opened.hot.tables()
    assert opened.cold.dropped([]) == []
    with mock.patch.object(opened.cold, "_keeping", Keeping(grace_s=0.0)):
        assert opened.cold.sweep() == len(files)


def test_the_noun_makes_and_fills_tables(tank):
    made = tank.tables.create(
        "notes", {"id": "BIGINT", "text": "TEXT NOT NULL", "stars": "INT DEFAULT 0"}, key=["id"],
        flush_policy="rows:10,interval:5",
    )  # fmt: skip
    assert (made.full_name, made.key, made.policy.rows) == ("public.notes", ("id",), 10)
    done = tank.tables.insert(
        "notes", [{"id": 1, "text": "a"}, {"id": 2, "text": "b", "stars": 3}], user="ann"
    )
    assert done.rows == 2
    tank.tables.insert("notes", [{"_user": "bob", "id": 1, "text": "c"}])
    with pytest.raises(EntryRejected, match="text"):
        tank.tables.insert("notes", [{"id": 3}], user="ann")
    assert [column.name for column in tank.tables.add_column("notes", "n", "INT").columns][
        -1
    ] == "n"
    assert tank.tables.describe("public.notes").schema_version == 2
    assert [each.name for each in tank.tables.list()] == ["notes"]
    (result,) = asyncio.run(tank.asql("SELECT sum(stars) AS s FROM notes", user="ann"))
    assert result.rows.to_pylist() == [{"s": 3}]
    for wrong in ({"a": "INT) , (b INT"}, {"a b": "INT"}, {}):
        with pytest.raises(InvalidRequest):
            tank.tables.create("x", wrong)


def test_an_error_names_its_statement_and_those_before_it_were_run(shop):
    with pytest.raises(
        SurgetankError, match=r"^Statement 2 \('INSERT INTO shop.nope VALUES \(1\)'\): "
    ):
        shop.sql(
            "INSERT INTO shop.orders (id) VALUES (7); INSERT INTO shop.nope VALUES (1)", user="ann"
        )
    assert (7,) in rows(shop, "SELECT id FROM shop.orders", user="ann")
    with pytest.raises(SurgetankError, match=r"^Statement 2 "):
        shop.sql("INSERT INTO shop.orders (id) VALUES (8); INSERT INTO", user="ann")
    assert (8,) not in rows(shop, "SELECT id FROM shop.orders", user="ann")


def test_who_made_a_table_is_forgotten_with_him(tank, database_url):
    assert error(tank, "CREATE TABLE t (a INT); CREATE TABLE u (a INT)", OPERATOR) is None
    tank.sql.run("EXECUTE AS USER 'olga' SELECT 1", ADMIN).done()
    assert tank.tables.describe("t").owner == "olga"
    tank.erase_user("olga")
    wait_until(lambda: tank.tables.describe("t").owner is None, "the owner is gone")
    with psycopg.connect(database_url) as connection:
        left = connection.execute(
            "SELECT 1 FROM surgetank.audit_log WHERE actor = 'olga' OR detail::text LIKE '%olga%'"
        ).fetchall()
    assert left == []


def test_tables_are_used_while_the_database_is_away(
    private_postgres: PostgresServer, tmp_path: Any
) -> None:
    url = private_postgres.url_of("postgres")
    with Surgetank(tmp_path, database_url=url, flush_tick=60.0) as tank:
        tank.sql(ORDERS)
        tank.sql("INSERT INTO shop.orders (id, note) VALUES (1, 'tea')", user="ann")
        tank.tables.flush()
        rows(tank, "SELECT * FROM shop.orders")
    private_postgres.stop()
    with Surgetank(tmp_path, database_url=url, flush_tick=60.0) as tank:
        tank.sql("INSERT INTO shop.rates VALUES ('usd', 1)")
        (shown,) = tank.sql("SELECT id, note FROM shop.orders", user="ann")
        assert shown.stale
        assert shown.rows is not None
        assert shown.rows.to_pylist() == [{"id": 1, "note": "tea"}]
        with pytest.raises(DatabaseUnavailable):
            tank.sql("CREATE TABLE t (a INT)")
        private_postgres.start()
        assert tank.tables.flush().ok
        assert rows(tank, "SELECT name FROM shop.rates") == [("usd",)]


def test_a_flush_is_ended_by_sql_and_loses_nothing(shop, monkeypatch):
    cold = shop.parts.tables.open().cold
    write, begun, go_on = cold.write, threading.Event(), threading.Event()

    def slow(*args: Any, **more: Any) -> Any:
        begun.set()
        assert go_on.wait(20)
        return write(*args, **more)

    monkeypatch.setattr(cold, "write", slow)
    with ThreadPoolExecutor(1) as pool:
        flush = pool.submit(shop.sql, "STORAGE FLUSH ALL")
        assert begun.wait(20)
        ((job,),) = rows(shop, "SELECT id FROM system.jobs WHERE status = 'running'")
        shop.sql(f"KILL JOB '{job}'")
        go_on.set()
        flush.result(20)
    shown = "SELECT status, result ->> 'stopped' FROM system.jobs WHERE id = $1"
    assert rows(shop, shown, [job])[0][1] == "true"
    with pytest.raises(Conflict):
        shop.sql(f"KILL JOB '{job}'")
    monkeypatch.undo()
    assert shop.tables.flush().ok
    assert rows(shop, "SELECT count(*) FROM shop.orders") == [(3,)]
