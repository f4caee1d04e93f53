"""Live queries over a hot store: what is told of rows and changes, in which order, and when a gap is."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from support.tables_memory import NoCold
from support.waiting import wait_until
from surgetank.exceptions import InvalidRequest, NotFound, QuotaExceeded
from surgetank.streams.tables.definition import Access, Column, Kind, Table
from surgetank.streams.tables.hot.protocol import Change, Op
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.live.conditions import Condition
from surgetank.streams.tables.live.feeds import Tail
from surgetank.streams.tables.live.queries import LiveEvent, LiveQuery, LiveTables
from surgetank.streams.tables.live.statement import subscribe
from surgetank.streams.tables.query.sources import Readable
from surgetank.streams.tables.reader import TableReader
from surgetank.streams.tables.types import ColumnType

_TYPES = ("n BIGINT", "s TEXT", "ok BOOLEAN", "at TIMESTAMP", "u UUID", "j JSON", "d DECIMAL(9, 2)")
T = Table(
    id=7, namespace="app", name="notes", kind=Kind.USER, key=("n",),
    columns=tuple(
        Column(at, text.split(" ", 1)[0], ColumnType.parse(text.split(" ", 1)[1]))
        for at, text in enumerate(_TYPES, 3)
    ),
)  # fmt: skip


@pytest.fixture
def hot(tmp_path: Path) -> Iterator[SQLiteHotTables]:
    store = SQLiteHotTables(tmp_path / "buffer-tables.db")
    yield store
    store.close()


@pytest.fixture
def live(hot: SQLiteHotTables) -> Iterator[LiveTables]:
    made = LiveTables(hot, TableReader(hot, cast("Any", NoCold())))
    yield made
    made.close()


def row(n: int, s: str | None = None, **more: Any) -> tuple[Any, ...]:
    return tuple({"n": n, "s": s, **more}.get(column.name) for column in T.columns)


def insert(hot: SQLiteHotTables, *ns: int, user: str = "ann", s: str | None = None) -> int:
    return hot.accept(T, [Change(user, Op.INSERT, row(n, s)) for n in ns]).first


def change(hot: SQLiteHotTables, seq: int, op: Op, n: int, s: str | None = None) -> int:
    return hot.accept(T, [Change("ann", op, row(n, s), seq)]).first


def flush(hot: SQLiteHotTables) -> None:
    lease = hot.lease(T, owner="me", ttl_s=60)
    assert lease is not None
    hot.ack(lease, lease.through)
    hot.release(lease)


def follow(live: LiveTables, text: str = "", user: str | None = "ann", **more: Any) -> LiveQuery:
    return live.subscribe(
        subscribe(f"SUBSCRIBE TO app.notes {text}"), lambda: Readable(T, user), **more
    )


def taken(query: LiveQuery, count: int) -> list[LiveEvent]:
    found: list[LiveEvent] = []

    def enough() -> bool:
        found.extend(query.take())
        return len(found) >= count

    wait_until(enough, f"{count} events")
    assert len(found) == count, found
    return found


def shown(events: list[LiveEvent]) -> list[tuple[str, Any]]:
    return [(each.type, each.body.get("row", {}).get("n")) for each in events]


def _has_read(query: LiveQuery, through: int) -> bool:
    return query._feed.through == through


def test_it_begins_with_the_newest_rows_and_goes_on_with_changes_in_order(hot, live):
    insert(hot, 1, 2, 3, s="old")
    insert(hot, 9, user="bob")
    with follow(live, "OPTIONS (last_rows=2)") as query:
        (first,) = taken(query, 1)
        assert first.type == "rows"
        assert [each["row"]["n"] for each in first.body["rows"]] == [2, 3]
        seq = insert(hot, 4)
        change(hot, seq, Op.UPDATE, 4, "new")
        insert(hot, 10, user="bob")
        change(hot, seq, Op.DELETE, 4)
        events = taken(query, 3)
        assert shown(events) == [("insert", 4), ("update", 4), ("delete", 4)]
        assert events[1].body["row"]["s"] == "new"
        assert events[2].body == {"seq": str(seq), "user": "ann", "row": {"n": 4}}
        assert [each.version for each in events] == sorted(each.version or 0 for each in events)
        assert not query.take()


def test_who_may_read_all_is_told_whose_rows_they_are(hot, live):
    with follow(live, user=None) as query:
        taken(query, 1)
        insert(hot, 1, user="bob")
        insert(hot, 2, user="ann")
        assert [(e.body["user"], e.body["row"]["n"]) for e in taken(query, 2)] == [
            ("bob", 1), ("ann", 2),
        ]  # fmt: skip


def test_an_update_that_leaves_the_condition_is_a_delete_and_one_that_enters_it_an_insert(
    hot, live
):
    one, two = insert(hot, 1, s="yes"), insert(hot, 2, s="no")
    with follow(live, "WHERE s = 'yes'") as query:
        (first,) = taken(query, 1)
        assert [each["row"]["n"] for each in first.body["rows"]] == [1]
        change(hot, one, Op.UPDATE, 1, "no")
        change(hot, two, Op.UPDATE, 2, "yes")
        change(hot, two, Op.UPDATE, 2, "yes")
        change(hot, one, Op.UPDATE, 1, "never")
        change(hot, one, Op.DELETE, 1)
        three = insert(hot, 3, s="no")
        change(hot, three, Op.DELETE, 3)
        change(hot, two, Op.DELETE, 2)
        assert shown(taken(query, 4)) == [
            ("delete", 1),
            ("insert", 2),
            ("update", 2),
            ("delete", 2),
        ]


def test_who_comes_back_misses_nothing_and_sees_nothing_twice(hot, live):
    query = follow(live)
    taken(query, 1)
    insert(hot, 1, 2)
    reached = taken(query, 2)[0].version
    query.close()
    insert(hot, 3)
    with follow(live, after=reached) as again:
        assert shown(taken(again, 2)) == [("insert", 2), ("insert", 3)]
    other = LiveTables(hot, live.reader)  # another process: nothing is kept in it
    with follow(other, after=reached) as again:
        assert shown(taken(again, 2)) == [("insert", 2), ("insert", 3)]
    other.close()


def test_what_was_flushed_meanwhile_comes_from_what_is_kept_or_is_a_gap(hot, live):
    query = follow(live)
    taken(query, 1)
    insert(hot, 1)
    reached = taken(query, 1)[0].version
    query.close()
    insert(hot, 2)
    feed = live.tail.join(T, "ann", print)
    wait_until(lambda: feed.changes == 2, "the change is kept")
    flush(hot)
    insert(hot, 3)
    with follow(live, after=reached) as again:
        assert shown(taken(again, 2)) == [("insert", 2), ("insert", 3)]
    other = LiveTables(hot, live.reader)
    with follow(other, after=reached) as again:
        (gap,) = taken(again, 1)
        assert gap.type == "gap"
        insert(hot, 4)
        assert shown(taken(again, 1)) == [("insert", 4)]
    other.close()


def test_changes_that_were_flushed_before_they_were_seen_are_a_gap(hot):
    tail = Tail(hot, poll_s=3600)
    feed = tail.join(T, "ann", lambda: None)
    tail.close()
    since = feed.since
    insert(hot, 1)
    flush(hot)
    tail.poll()
    assert feed.since == feed.through > since
    insert(hot, 2)
    tail.poll()
    assert feed.since < feed.through
    assert [len(each) for each in feed.after(feed.since)] == [1]


def test_a_slow_one_is_given_a_gap_and_goes_on(hot, live, monkeypatch):
    monkeypatch.setattr("surgetank.streams.tables.live.feeds._MOST_CHANGES", 3)
    with follow(live) as query:
        taken(query, 1)
        for n in range(8):
            insert(hot, n)
            with hot.snapshot() as snapshot:
                through = snapshot.through(T)
            wait_until(partial(_has_read, query, through), "it is read")
        events = query.take()
        assert shown(events) == [("gap", None), ("insert", 5), ("insert", 6), ("insert", 7)]


def test_many_users_of_a_table_are_read_together_and_each_sees_its_own(hot, live):
    users = [f"u{n}" for n in range(20)]
    queries = {user: follow(live, user=user) for user in users}
    everyone = follow(live, user=None)
    for query in (*queries.values(), everyone):
        taken(query, 1)
    for n, user in enumerate(users):
        insert(hot, n, user=user)
    for n, user in enumerate(users):
        assert shown(taken(queries[user], 1)) == [("insert", n)]
    assert shown(taken(everyone, 20)) == [("insert", n) for n in range(20)]
    assert [each.table for each in live.listed()] == ["app.notes"] * 21


def test_it_ends_when_the_table_is_another_or_is_no_longer_for_the_caller(hot):
    now = [0.0]
    live = LiveTables(hot, TableReader(hot, cast("Any", NoCold())), clock=lambda: now[0])
    found = [Readable(T, "ann")]
    query = live.subscribe(subscribe("SUBSCRIBE TO app.notes"), lambda: found[0])
    found[0] = Readable(T, "bob")
    now[0] = 10.0
    with pytest.raises(NotFound):
        query.take()
    query.close()
    assert not live.listed()
    live.close()


def test_it_is_told_within_milliseconds(hot, live):
    arrived: list[float] = []
    news = threading.Event()
    with follow(live) as query:
        taken(query, 1)
        query.on_news(news.set)
        for n in range(30):
            begun = time.perf_counter()
            insert(hot, n)
            while not query.take():
                assert news.wait(10)
                news.clear()
            arrived.append(time.perf_counter() - begun)
    assert statistics.median(arrived) < 0.02


ROWS = [
    row(1, "a%b", ok=True), row(2, "Ab\\", ok=False), row(3, None),
]  # fmt: skip


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("n = 1", [1]),
        ("1 < notes.n", [2, 3]),
        ('"n" <> 2 AND NOT (n >= 3)', [1]),
        ("n IN (1, 3) OR s IS NULL", [1, 3]),
        ("s NOT IN ('a%b')", [2]),
        ("s IS NOT NULL", [1, 2]),
        ("NOT s = 'a%b'", [2]),
        ("ok", [1]),
        ("NOT ok", [2]),
        ("ok = false", [2]),
        ("n BETWEEN 2 AND 3 AND n NOT BETWEEN 3 AND 9", [2]),
        ("s LIKE 'a%'", [1]),
        ("s ILIKE 'a_\\'", [2]),
        ("_user = 'ann'", [1, 2, 3]),
        ("n != -1 AND n = '2'", [2]),
        ("at < TIMESTAMP '2030-01-01 00:00:00'", []),
        ("u = '6f9619ff-8b86-d011-b42d-00cf4fc964ff' OR j IS NULL AND d IS NULL", [1, 2, 3]),
    ],
)
def test_conditions(hot, where, expected):
    hot.accept(T, [Change("ann", Op.INSERT, each) for each in ROWS])
    with hot.snapshot() as snapshot:
        rows = snapshot.rows(T)
    met = Condition(where, T).met_by(rows)
    assert rows.filter(met).column("n").to_pylist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "SUBSCRIBE TO app.notes; SELECT 1",
        "SUBSCRIBE TO app.notes OPTIONS (last_rows=10001)",
        "SUBSCRIBE TO app.notes OPTIONS (last_rows='1')",
        "SUBSCRIBE TO app.notes OPTIONS (first=1)",
        "SUBSCRIBE TO app.notes WHERE n = (SELECT 1)",
        "SUBSCRIBE TO app.notes WHERE read_text('/etc/passwd') = ''",
        "SUBSCRIBE TO app.notes WHERE n = NULL",
        "SUBSCRIBE TO app.notes WHERE n = 'x'",
        "SUBSCRIBE TO app.notes WHERE j = '{}'",
        "SUBSCRIBE TO app.notes WHERE nothing = 1",
        "SUBSCRIBE TO app.notes WHERE other.n = 1",
        "SUBSCRIBE TO app.notes WHERE n",
        "SUBSCRIBE TO app.notes WHERE n = 1 n",
        "SUBSCRIBE TO app.notes WHERE n NOT 1",
        "SUBSCRIBE TO app.notes WHERE s LIKE 1",
        f"SUBSCRIBE TO app.notes WHERE {'(' * 60}n = 1{')' * 60}",
        f"SUBSCRIBE TO app.notes WHERE {' OR '.join(['n = 1'] * 1000)}",
    ],
)
def test_what_is_no_live_query_is_refused(live, text):
    with pytest.raises(InvalidRequest):
        live.subscribe(subscribe(text), lambda: Readable(T, "ann"))
    assert not live.listed()


def test_a_shared_table_is_followed_by_all(hot, live):
    shared = Table(
        id=8, namespace="app", name="notes", kind=Kind.SHARED, columns=T.columns, access=Access.READ
    )
    query = live.subscribe(subscribe("SUBSCRIBE TO app.notes"), lambda: Readable(shared, "ann"))
    taken(query, 1)
    hot.accept(shared, [Change("", Op.INSERT, row(1))])
    assert shown(taken(query, 1)) == [("insert", 1)]
    query.close()


def test_nothing_is_kept_of_who_is_erased_nor_for_longer_than_a_minute(hot):
    now = [0.0]
    tail = Tail(hot, poll_s=3600, clock=lambda: now[0])
    feeds = [tail.join(T, user, lambda: None) for user in ("ann", "bob", None)]
    tail.close()
    insert(hot, 1)
    insert(hot, 1, user="bob")
    tail.poll()
    assert [feed.changes for feed in feeds] == [1, 1, 2]
    tail.forget_user("ann")
    assert [feed.changes for feed in feeds] == [0, 1, 0]
    now[0] = 61.0
    tail.poll()
    assert [feed.changes for feed in feeds] == [0, 0, 0]


def test_a_user_may_have_so_many_open_and_others_are_not_concerned(hot: SQLiteHotTables) -> None:
    live = LiveTables(hot, TableReader(hot, cast("Any", NoCold())), most=2)
    first, _ = follow(live, caller="ann"), follow(live, caller="ann")
    with pytest.raises(QuotaExceeded, match="2 live queries open already"):
        follow(live, caller="ann")
    for _ in range(3):
        follow(live, caller="")  # the owner of the process
    follow(live, user="bob", caller="bob")
    with pytest.raises(InvalidRequest):  # what was never open does not count
        follow(live, "WHERE nothing = 1", caller="cay")
    first.close()
    first.close()
    follow(live, caller="ann")
    with pytest.raises(QuotaExceeded):
        follow(live, caller="ann")
    assert [each.caller for each in live.listed()] == ["ann", "", "", "", "bob", "ann"]
    live.close()
    assert live.listed() == []
