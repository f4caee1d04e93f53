"""What `HotTables` promises, of the store on SQLite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock
from uuid import UUID

import numpy as np
import pyarrow as pa
import pytest

from support.hot_tables import replica
from surgetank.exceptions import (
    BufferFull,
    BufferUnavailable,
    Conflict,
    EntryRejected,
    LeaseLost,
    NotFound,
)
from surgetank.model import Failure, FailureKind
from surgetank.sqlite import identity
from surgetank.streams.tables.definition import SEQ, USER, Column, Kind, Table
from surgetank.streams.tables.hot import hot_file as hot_file_module
from surgetank.streams.tables.hot import reading
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.protocol import (
    DELETED,
    DELETION_PARKED,
    OP,
    ORIGIN_SHIFT,
    VERSION,
    BatchKey,
    Change,
    Held,
    HotTables,
    Op,
    Progress,
    Refused,
    store_of,
)
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.keys import row_key
from surgetank.streams.tables.types import ColumnType

FAILURE = Failure(FailureKind.REJECTED, "no such storage", "StorageError")


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def in_file(tmp_path: Path, clock: Clock) -> Iterator[SQLiteHotTables]:
    store = SQLiteHotTables(tmp_path / "buffer-tables.db", clock=clock)
    yield store
    store.close()


@pytest.fixture(params=["file", "shared"])
def hot(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Iterator[HotTables]:
    if request.param == "file":
        yield request.getfixturevalue("in_file")
        return
    store = replica(tmp_path, clock=clock)
    yield store
    store.close()


def table(*columns: str, number: int = 7, kind: Kind = Kind.USER, **more: Any) -> Table:
    made = tuple(
        Column(at, text.split(" ", 1)[0], ColumnType.parse(text.split(" ", 1)[1]))
        for at, text in enumerate(columns or ("n BIGINT", "s TEXT"), 3)
    )
    return Table(id=number, namespace="ns", name=f"t{number}", kind=kind, columns=made, **more)


T = table()
KEYED = table(number=8, key=("n",))


def insert(user: str, *values: Any) -> Change:
    return Change(user, Op.INSERT, values)


def shown(hot: HotTables, which: Table = T, **chosen: Any) -> list[dict[str, Any]]:
    with hot.snapshot() as snapshot:
        found: list[dict[str, Any]] = snapshot.rows(which, **chosen).to_pylist()
        if chosen.keys() <= {"user"}:  # who needs no order sees the same
            user = chosen.get("user")
            names, hidden = (
                [column.name for column in which.columns],
                [USER, SEQ][not which.by_user :],
            )
            pending = snapshot.pending(which, user=user, columns=names, hidden=hidden)
            many = [each.rows(None, np.empty(0, np.int64)) for each in pending.inserted]
            parts = [pending.changes.drop_columns([VERSION, OP]), *(each for each in many if each)]
            merged = [row for part in parts for row in part.to_pylist()]
            ordered = [{n: row[n] for n in (*hidden, *names)} for row in found]
            assert sorted(map(repr, merged)) == sorted(map(repr, ordered))
    return found


def plain(rows: list[dict[str, Any]], which: Table = T) -> list[tuple[Any, ...]]:
    names = [*([USER] if which.by_user else []), *(column.name for column in which.columns)]
    return [tuple(_in_utc(row[name]) for name in names) for row in rows]


def _in_utc(value: Any) -> Any:
    if isinstance(value, list):
        return [_in_utc(each) for each in value]
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


def arrow(which: Table, users: list[str], *columns: list[Any]) -> pa.Table:
    made = {USER: pa.array(users, pa.string())} if which.by_user else {}
    for column, values in zip(which.columns, columns, strict=True):
        made[column.name] = pa.array(values, column.type.arrow)
    return pa.table(made)


def test_it_is_the_protocol(hot: HotTables) -> None:
    def takes(store: HotTables) -> HotTables:
        return store

    assert takes(hot) is hot


def test_changes_are_numbered_and_seen_in_the_order_of_user_and_version(
    hot: HotTables,
) -> None:
    first = hot.accept(T, [insert("bob", 1, "a"), insert("ann", 2, "b")])
    second = hot.accept(T, [insert("bob", 3, None)])
    assert (first.rows, second.rows, second.first) == (2, 1, first.last + 1)
    rows = shown(hot)
    assert plain(rows) == [("ann", 2, "b"), ("bob", 1, "a"), ("bob", 3, None)]
    assert [row[VERSION] for row in rows] == [first.last, first.first, second.first]
    assert all(row[SEQ] == row[VERSION] and row[OP] == Op.INSERT for row in rows)
    with hot.snapshot() as snapshot:
        assert snapshot.through(T) == second.last
        assert snapshot.stores(T) == (store_of(first.first),)
        hot.accept(T, [insert("bob", 4, None)])
        assert snapshot.rows(T).num_rows == 3  # a view of one moment
    assert plain(shown(hot, user="ann")) == [("ann", 2, "b")]
    assert plain(shown(hot, after=first.last, up_to=second.last)) == [("bob", 3, None)]
    assert set(shown(hot, columns=["s"])[0]) == {USER, SEQ, VERSION, OP, "s"}


EVERY: dict[str, list[Any]] = {
    "BOOLEAN": [True, False],
    "SMALLINT": [-(2**15), 2**15 - 1],
    "INT": [-(2**31), 2**31 - 1],
    "BIGINT": [-(2**63), 2**63 - 1],
    "REAL": [1.5, -0.0, math.inf, math.nan],
    "DOUBLE": [0.1, -0.0, 0.0, -math.inf, math.nan, 5e-324],
    "DECIMAL(38, 6)": [Decimal("-0.000001"), Decimal("9" * 32 + ".123456"), Decimal("0.000000")],
    "TEXT": ["", "a\0b", "naïve 🚀", "'quote\""],
    "DATE": [date(1, 1, 1), date(9999, 12, 31)],
    "TIME": [time(0), time(23, 59, 59, 999999)],
    "TIMESTAMP": [datetime(1, 1, 1), datetime(2262, 4, 12, 1, 2, 3, 4)],
    "TIMESTAMPTZ": [datetime(1969, 12, 31, 23, 59, 59, 999999, UTC)],
    "JSON": ["null", '{"a":[1,null]}', '"text"'],
    "BYTES": [b"", b"\0\xff"],
    "UUID": [UUID(int=0), UUID(int=2**128 - 1)],
}
EVERY |= {f"{name}[]": [[], [None, *values]] for name, values in EVERY.items()}


def test_every_type_comes_back_as_it_was_accepted_row_by_row_parked_or_in_a_segment(
    hot: HotTables,
) -> None:
    each = table(*(f"c{number} {name}" for number, name in enumerate(EVERY)))
    most = max(len(values) for values in EVERY.values())
    rows = [
        tuple(values[n] if n < len(values) else None for values in EVERY.values())
        for n in range(most)
    ]
    accepted = hot.accept(each, [insert("ann", *row) for row in rows])
    assert repr(plain(shown(hot, each), each)) == repr([("ann", *row) for row in rows])
    with hot.snapshot() as snapshot:
        before = snapshot.rows(each)
    assert [before.schema.field(c.name).type for c in each.columns] == [
        c.type.arrow for c in each.columns
    ]
    hot.accept_arrow(each, before.drop_columns([SEQ, VERSION, OP]))
    assert repr(plain(shown(hot, each), each)) == repr([("ann", *row) for row in rows * 2])
    assert shown(hot, each, user="ann", up_to=0) == []
    lease = hot.lease(each, owner="me", ttl_s=30)
    assert lease is not None
    parked = [
        Refused("ann", v, FAILURE) for v in range(accepted.first, accepted.last + 1 + len(rows))
    ]
    assert hot.ack(lease, 0, refused=parked[:-1]).changes == 0
    assert repr(plain(shown(hot, each), each)) == repr([("ann", *row) for row in rows * 2])
    assert hot.ack(lease, 0, refused=parked[-1:]).changes == 0
    hot.ack(lease, lease.through)
    assert len(hot.parked()) == 2 * len(rows)
    assert repr(plain(shown(hot, each), each)) == repr([("ann", *row) for row in rows * 2])


def test_a_column_that_came_later_has_its_initial_value_in_rows_from_before(
    hot: HotTables,
) -> None:
    hot.accept(T, [insert("ann", 1, "a")])
    hot.accept_arrow(T, arrow(T, ["bob"], [2], ["b"]))
    newer = Table(
        id=7, namespace="ns", name="t7", kind=Kind.USER, schema_version=2,
        columns=(*T.columns, Column(5, "d", ColumnType.parse("DECIMAL(4, 2)"), since=2, initial=Decimal("1.50"))),
    )  # fmt: skip
    assert [row["d"] for row in shown(hot, newer)] == [Decimal("1.50")] * 2
    hot.accept(newer, [insert("cay", 3, "c", None)])
    hot.accept(T, [insert("dan", 4, "d")])  # by a process that has not heard of it
    assert [row["d"] for row in shown(hot, newer)] == [Decimal("1.50")] * 2 + [
        None,
        Decimal("1.50"),
    ]
    lease = hot.lease(newer, owner="me", ttl_s=30)
    assert lease is not None
    assert [row["d"] for row in hot.take(lease)[0].to_pylist()][2:] == [None, Decimal("1.50")]


def test_rows_of_a_segment_and_single_rows_are_one_order(in_file: SQLiteHotTables) -> None:
    in_file.accept(T, [insert("bob", 0, "")])
    many = in_file.accept_arrow(T, arrow(T, ["bob", "ann", "bob"], [1, 2, 3], ["x", "y", "z"]))
    in_file.accept(T, [insert("ann", 4, "")])
    assert many.rows == 3
    assert [row[:2] for row in plain(shown(in_file))] == [
        ("ann", 2), ("ann", 4), ("bob", 0), ("bob", 1), ("bob", 3),
    ]  # fmt: skip
    assert [row[:2] for row in plain(shown(in_file, user="bob"))] == [
        ("bob", 0),
        ("bob", 1),
        ("bob", 3),
    ]
    assert [row[1] for row in plain(shown(in_file, after=many.first))] == [4, 1, 3]
    assert sum(state.entries for state in in_file.states()) == 5


def hot_file(in_file: SQLiteHotTables) -> HotFile:
    return in_file.snapshot.__self__._file  # type: ignore[attr-defined]


def test_a_user_s_rows_are_looked_up_in_a_long_journal(
    in_file: SQLiteHotTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_LONG", -1)
    looked_up = mock.Mock(wraps=hot_file(in_file).whose)
    monkeypatch.setattr(hot_file(in_file), "whose", looked_up)
    for n in range(100):
        in_file.accept(T, [insert(f"u{n % 3}", n, "x")])
        assert [row[1] for row in plain(shown(in_file, user="u1"))] == list(range(1, n + 1, 3))
    assert looked_up.versions.call_count >= 100
    assert in_file.depth().partitions == 3
    with in_file.snapshot() as before:
        lease = in_file.lease(T, owner="me", ttl_s=30)
        assert lease is not None
        in_file.ack(lease, lease.through)
        in_file.accept(T, [insert("u1", 100, "x"), insert("u2", 101, "x")])
        assert [row[1] for row in plain(shown(in_file, user="u1"))] == [100]
        # It sees what is removed, and finds it without what is known of a newer state.
        assert before.rows(T, user="u1").column("n").to_pylist() == list(range(1, 100, 3))
    assert in_file.depth().partitions == 2
    assert shown(in_file, user="nobody") == []


def test_a_row_that_is_there_is_accepted_though_it_could_not_be_counted(
    in_file: SQLiteHotTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_file.accept(T, [insert("ann", 0, "a")])
    monkeypatch.setattr(hot_file_module, "_UNTALLIED", 2)
    counts = mock.Mock(side_effect=BufferUnavailable("locked"))
    monkeypatch.setattr(hot_file_module, "tally", counts)
    for n in range(1, 5):
        in_file.accept(T, [insert("ann", n, "a")])
    assert counts.call_count == 2
    monkeypatch.undo()
    (waiting,) = in_file.waiting()
    assert (waiting.changes, len(shown(in_file)), in_file.depth().entries) == (5, 5, 5)
    for n in range(5, 3000):
        in_file.accept(T, [insert("ann", n, "a")])
    assert in_file.waiting()[0].changes == in_file.depth().entries == 3000


def test_a_key_is_taken_until_its_row_is_deleted(in_file: SQLiteHotTables) -> None:
    key = row_key(KEYED)
    assert key is not None
    one = in_file.accept(KEYED, [insert("ann", 1, "a"), insert("bob", 1, "b")])
    with pytest.raises(Conflict, match="PRIMARY KEY"):
        in_file.accept(KEYED, [insert("ann", 2, "x"), insert("ann", 1, "y")])
    with pytest.raises(Conflict, match="PRIMARY KEY"):
        in_file.accept_arrow(KEYED, arrow(KEYED, ["cay", "ann"], [1, 1], ["x", "y"]))
    with pytest.raises(Conflict, match="PRIMARY KEY"):
        in_file.accept_arrow(KEYED, arrow(KEYED, ["cay", "cay"], [1, 1], ["x", "y"]))
    assert len(shown(in_file, KEYED)) == 2
    assert list(in_file.segments.glob("*")) == []
    assert in_file.known_keys(KEYED, "ann", [key((1, "")), key((2, ""))]) == {
        key((1, "")): one.first
    }
    in_file.accept(KEYED, [Change("ann", Op.DELETE, (1, None), one.first)])
    assert in_file.known_keys(KEYED, "ann", [key((1, ""))]) == {key((1, "")): DELETED}
    again = in_file.accept(KEYED, [insert("ann", 1, "again")])
    assert in_file.known_keys(KEYED, "ann", [key((1, ""))]) == {key((1, "")): again.first}


def test_a_change_of_rows_that_were_changed_since_is_refused(hot: HotTables) -> None:
    one = hot.accept(T, [insert("ann", 1, "a")])
    update = Change("ann", Op.UPDATE, (1, "b"), one.first)
    two = hot.accept(T, [update], unless_newer_than=one.last)
    with pytest.raises(Conflict, match="changed meanwhile"):
        hot.accept(T, [update], unless_newer_than=one.last)
    hot.accept(T, [update], unless_newer_than=two.last, unless_acked_since=hot.acks(T))
    before = hot.acks(T)
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    hot.ack(lease, lease.through)
    with pytest.raises(Conflict, match="flushed meanwhile"):
        hot.accept(T, [update], unless_acked_since=before)


def test_a_name_that_no_manifest_can_have_is_refused(hot: HotTables) -> None:
    with pytest.raises(EntryRejected, match="NUL"):
        hot.accept(T, [insert("bob", 1, "a"), insert("a\0b", 1, "a")])
    rows = pa.table(
        {"_user": ["bob", "a\0b"], **{c.name: pa.nulls(2, c.type.arrow) for c in T.columns}}
    )
    with pytest.raises(EntryRejected, match="NUL"):
        hot.accept_arrow(T, rows)
    assert hot.waiting() == []


def test_a_batch_is_accepted_once(hot: HotTables) -> None:
    batch = BatchKey("k", b"1", "ann")
    one = hot.accept(T, [insert("ann", 1, "a")], batch=batch)
    again = hot.accept(T, [insert("ann", 1, "a")], batch=batch)
    assert (again.first, again.repeated, hot.repeated(T, batch)) == (one.first, True, again)
    assert hot.accept_arrow(T, arrow(T, ["ann"], [1], ["a"]), batch=batch).repeated
    with pytest.raises(Conflict, match="idempotency key"):
        hot.accept(T, [insert("ann", 2, "a")], batch=BatchKey("k", b"2", "ann"))
    assert hot.repeated(T, BatchKey("k", b"1", "bob")) is None
    assert len(shown(hot)) == 1


def test_a_flush_takes_in_parts_and_what_is_acknowledged_is_gone(in_file: SQLiteHotTables) -> None:
    for n in range(5):
        in_file.accept(T, [insert(f"u{n % 2}", n, "x" * 50)])
    in_file.accept_arrow(
        T, arrow(T, [f"u{n % 3}" for n in range(50)], list(range(50)), ["y" * 50] * 50)
    )
    in_file.accept(T, [insert("u0", 99, "z")])
    lease = in_file.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    assert in_file.lease(T, owner="other", ttl_s=30) is None
    taken, after, parts = [], 0, 0
    while after < lease.through:
        rows, through = in_file.take(lease, after=after, max_bytes=600)
        assert rows.num_rows
        assert after < through <= lease.through
        assert in_file.ack(lease, through).changes == rows.num_rows
        taken += rows.column("n").to_pylist()
        after, parts = through, parts + 1
    assert sorted(taken) == sorted([*range(5), *range(50), 99])
    assert parts > 5
    assert shown(in_file) == []
    assert (in_file.waiting(), in_file.depth().entries, in_file.depth().bytes) == ([], 0, 0)
    assert in_file.lease(T, owner="other", ttl_s=30) is None
    in_file.maintain()
    assert list(in_file.segments.glob("*")) == []


def test_what_waits_is_counted_right_when_rows_went_between_taking_and_acknowledging(
    hot: HotTables,
) -> None:
    hot.accept(T, [insert(user, n, "a") for n in range(50) for user in ("ann", "bob")])
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    size = hot.depth().bytes
    rows, through = hot.take(lease, max_bytes=size // 2)
    # Read before the first is acknowledged, as flushers do.
    ahead, end = hot.take(lease, after=through, max_bytes=size // 4)
    hot.ack(lease, through)
    assert hot.depth().entries == 100 - rows.num_rows
    hot.erase_user("bob")
    left = hot.depth().entries
    assert left == 50 - rows.column("_user").to_pylist().count("ann")
    hot.ack(lease, end)
    assert hot.depth().entries == left - ahead.column("_user").to_pylist().count("ann")
    hot.accept(T, [insert("ann", 99, "b")])
    hot.ack(lease, lease.through)
    assert hot.depth().entries == hot.waiting()[0].changes == 1
    assert 0 < hot.depth().bytes < size // 50


def test_who_lost_a_lease_cannot_acknowledge(hot: HotTables, clock: Clock) -> None:
    hot.accept(T, [insert("ann", 1, "a")])
    old = hot.lease(T, owner="one", ttl_s=30)
    clock.now += 31
    new = hot.lease(T, owner="two", ttl_s=30)
    assert old is not None
    assert new is not None
    assert new.token > old.token
    for late in (
        lambda: hot.ack(old, old.through),
        lambda: hot.take(old),
        lambda: hot.renew(old, ttl_s=9),
    ):
        with pytest.raises(LeaseLost):
            late()
    hot.release(old)
    assert hot.lease(T, owner="three", ttl_s=30) is None
    hot.release(new)
    third = hot.lease(T, owner="three", ttl_s=30)
    assert third is not None
    assert third.token > new.token


def test_rows_of_users_that_failed_stay_visible_and_are_taken_when_they_are_due(
    hot: HotTables, clock: Clock
) -> None:
    hot.accept(T, [insert("ann", 1, "a"), insert("bob", 2, "b")])
    hot.accept_arrow(T, arrow(T, ["ann", "bob"], [3, 4], ["c", "d"]))
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    held = {"ann": Held(FAILURE, 1, clock.now + 60)}
    assert hot.ack(lease, lease.through, held=held).changes == 2
    hot.release(lease)
    assert plain(shown(hot)) == [("ann", 1, "a"), ("ann", 3, "c")]
    (state,) = hot.states(failing=True)
    assert (state.partition, state.entries, state.attempts, state.failure) == (
        "ns.t7/ann",
        2,
        1,
        FAILURE,
    )
    (group,) = hot.failures()
    assert (group.partitions, group.entries) == (1, 2)
    assert hot.lease(T, owner="me", ttl_s=30) is None
    hot.accept(T, [insert("bob", 5, "e")])
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    assert lease.held == {"ann"}
    assert hot.take(lease)[0].column("n").to_pylist() == [5]
    hot.ack(lease, lease.through)
    hot.release(lease)
    assert hot.retry_now(T) == 1
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    assert hot.take(lease)[0].column("n").to_pylist() == [1, 3]
    assert hot.ack(lease, lease.through).recovered == ("ann",)
    assert shown(hot) == []


def test_who_was_held_and_is_taken_in_parts_is_acknowledged_in_parts(hot: HotTables) -> None:
    for n in range(10):
        hot.accept(T, [insert("ann", n, "a"), insert("bob", n, "b")])
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    hot.ack(lease, lease.through, held={"ann": Held(FAILURE, 1, 0.0)})
    hot.release(lease)
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    rows, through = hot.take(lease, max_bytes=300)
    assert 0 < rows.num_rows < 10
    hot.ack(lease, through)
    hot.release(lease)
    assert len(shown(hot)) == 10 - rows.num_rows
    (progress,) = hot.progress(T).values()
    assert not progress.covers("ann", through + 2)
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    assert hot.take(lease)[0].num_rows == 10 - rows.num_rows


def test_progress_of_who_is_behind_is_not_that_of_the_others() -> None:
    behind = Progress(100, {"ann": 10, "bob": 20})
    part = behind.advanced(50, ["bob"])
    assert (part.through, part.covers("ann", 50), part.covers("ann", 51)) == (100, True, False)
    assert (part.covers("bob", 20), part.covers("bob", 21)) == (True, False)
    assert behind.advanced(100, []) == Progress(100, {})


def test_a_table_that_failed_waits_and_is_over_it_with_the_next_flush(
    hot: HotTables, clock: Clock
) -> None:
    hot.accept(T, [insert("ann", 1, "a")])
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    hot.fail(lease, Held(FAILURE, 3, clock.now + 60))
    assert hot.lease(T, owner="me", ttl_s=30) is None
    assert hot.states(failing=True)[0].attempts == 3
    lease = hot.lease(T, owner="me", ttl_s=30, force=True)
    assert lease is not None
    hot.ack(lease, lease.through)
    assert (hot.states(), hot.failures()) == ([], [])


@pytest.mark.parametrize("segment", [False, True])
def test_a_row_that_cannot_be_flushed_is_parked_stays_visible_and_can_be_put_back(
    hot: HotTables, segment: bool
) -> None:
    if segment:
        one = hot.accept_arrow(KEYED, arrow(KEYED, ["ann", "ann"], [1, 2], ["a", "b"]))
    else:
        one = hot.accept(KEYED, [insert("ann", 1, "a"), insert("ann", 2, "b")])
    lease = hot.lease(KEYED, owner="me", ttl_s=30)
    assert lease is not None
    acked = hot.ack(lease, lease.through, refused=[Refused("ann", one.first, FAILURE)])
    hot.release(lease)
    assert acked.changes == 1
    (parked,) = hot.parked()
    assert (parked.partition, parked.seq, parked.failure) == ("ns.t8/ann", one.first, FAILURE)
    assert parked.id < 0
    assert hot.parked_row(parked.id) == ("ns.t8", {USER: "ann", SEQ: one.first, "n": 1, "s": "a"})
    (row,) = shown(hot, KEYED)
    assert (row["n"], row[SEQ], row[VERSION] >> ORIGIN_SHIFT) == (1, one.first, 0)
    assert hot.lease(KEYED, owner="me", ttl_s=30, force=True) is None
    with pytest.raises(Conflict, match="parked"):
        hot.accept(KEYED, [Change("ann", Op.UPDATE, (1, "x"), one.first)])
    with pytest.raises(Conflict, match="PRIMARY KEY"):
        hot.accept(KEYED, [insert("ann", 1, "x")])
    (version,) = hot.unpark([parked.id])
    assert (hot.parked(), version > one.last) == ([], True)
    lease = hot.lease(KEYED, owner="me", ttl_s=30)
    assert lease is not None
    (again,) = hot.take(lease)[0].to_pylist()
    assert (again[SEQ], again[VERSION], again["s"]) == (one.first, version, "a")
    hot.ack(lease, lease.through, refused=[Refused("ann", version, FAILURE)])
    (second,) = hot.parked()
    assert (second.id, second.retries) == (parked.id, 1)
    hot.discard_parked([second.id, -99])
    assert (hot.parked(), shown(hot, KEYED)) == ([], [])
    hot.accept(KEYED, [insert("ann", 1, "free")])


@pytest.mark.parametrize("segment", [False, True])
def test_a_parked_deletion_does_not_free_its_key_and_what_has_it_is_parked_behind(
    hot: HotTables, segment: bool
) -> None:
    key = row_key(KEYED)
    assert key is not None
    one = key((1, ""))
    first = hot.accept(KEYED, [insert("ann", 1, "a"), insert("bob", 1, "b")]).first
    gone = hot.accept(KEYED, [Change("ann", Op.DELETE, (1, None), first)]).first
    if segment:
        hot.accept_arrow(KEYED, arrow(KEYED, ["ann", "ann"], [1, 2], ["again", "c"]))
    else:
        hot.accept(KEYED, [insert("ann", 1, "again"), insert("ann", 2, "c")])
    second = gone + 1
    lease = hot.lease(KEYED, owner="me", ttl_s=30)
    assert lease is not None
    acked = hot.ack(lease, 0, refused=[Refused("ann", gone, FAILURE)])
    assert acked.behind == (("ann", second),)
    assert [each.seq for each in hot.parked()] == [gone, second]
    deletion, behind = hot.parked()
    assert behind.failure.message == (
        f"the change {gone}, which deletes the row that had this PRIMARY KEY, is parked"
    )
    assert hot.parked_row(deletion.id) == (
        "ns.t8", {USER: "ann", SEQ: first, OP: "DELETE", "n": 1, "s": None}
    )  # fmt: skip
    assert [row["s"] for row in hot.take(lease)[0].to_pylist()] == ["a", "c", "b"]
    hot.ack(lease, lease.through)
    hot.release(lease)
    # The row of the parked INSERT has the key: nobody else gets it, however it is tried.
    assert hot.known_keys(KEYED, "ann", [one]) == {one: second}
    with pytest.raises(Conflict, match="can't be discarded alone"):
        hot.discard_parked([deletion.id])
    hot.discard_parked([behind.id])
    assert hot.known_keys(KEYED, "ann", [one]) == {one: DELETION_PARKED}
    with pytest.raises(Conflict, match="PRIMARY KEY"):
        hot.accept(KEYED, [insert("ann", 1, "x")])
    with pytest.raises(Conflict, match="PRIMARY KEY"):
        hot.accept_arrow(KEYED, arrow(KEYED, ["ann"], [1], ["x"]))
    hot.unpark([deletion.id])
    assert hot.known_keys(KEYED, "ann", [one]) == {one: DELETED}
    hot.accept(KEYED, [insert("ann", 1, "free")])


def test_what_is_parked_of_one_key_is_put_back_in_order(hot: HotTables) -> None:
    first = hot.accept(KEYED, [insert("ann", 1, "a")]).first
    hot.accept(KEYED, [Change("ann", Op.DELETE, (1, None), first)])
    second = hot.accept(KEYED, [insert("ann", 1, "b")]).first
    hot.accept(KEYED, [Change("ann", Op.UPDATE, (1, "c"), second)])
    lease = hot.lease(KEYED, owner="me", ttl_s=30)
    assert lease is not None
    hot.ack(lease, 0, refused=[Refused("ann", second, FAILURE)])  # its update has all of it
    hot.ack(lease, 0, refused=[Refused("ann", second + 1, FAILURE)])  # parked before the deletion
    hot.ack(lease, 0, refused=[Refused("ann", first + 1, FAILURE)])
    hot.ack(lease, 0, refused=[Refused("ann", first, FAILURE)])  # its deletion is parked
    hot.release(lease)
    update, deletion = hot.parked()
    assert (update.seq, deletion.seq) == (second + 1, first + 1)
    assert len(hot.unpark([update.id])) == 2
    found = [(Op(row[OP]), row[SEQ], row["s"]) for row in shown(hot, KEYED)]
    assert found == [(Op.DELETE, first, None), (Op.UPDATE, second, "c")]


def test_a_key_is_that_of_what_is_left_when_a_parked_change_is_discarded(
    hot: HotTables,
) -> None:
    key = row_key(KEYED)
    assert key is not None
    one = key((1, ""))
    first = hot.accept(KEYED, [insert("ann", 1, "a")]).first
    for op in (Op.UPDATE, Op.DELETE):
        hot.accept(KEYED, [Change("ann", op, (1, "b"), first)])
        lease = hot.lease(KEYED, owner="me", ttl_s=30)
        assert lease is not None
        hot.ack(lease, 0, refused=[Refused("ann", lease.through, FAILURE)])
        hot.release(lease)
        (parked,) = hot.parked()
        hot.discard_parked([parked.id])
        assert hot.known_keys(KEYED, "ann", [one]) == {one: first}
        with pytest.raises(Conflict, match="PRIMARY KEY"):
            hot.accept(KEYED, [insert("ann", 1, "x")])


def test_a_file_that_was_copied_goes_on_under_another_origin(
    in_file: SQLiteHotTables, tmp_path: Path
) -> None:
    one = in_file.accept(T, [insert("ann", 1, "a")])
    in_file.maintain()
    in_file.close()
    copy = tmp_path / "copy-tables.db"
    copy.write_bytes(in_file.path.read_bytes())
    for path in (in_file.path, copy):
        with_more = SQLiteHotTables(path)
        two = with_more.accept(T, [insert("ann", 2, "b")])
        assert two.first >> ORIGIN_SHIFT > one.first >> ORIGIN_SHIFT
        with with_more.snapshot() as snapshot:
            assert snapshot.stores(T) == (store_of(one.first), store_of(two.first))
        lease = with_more.lease(T, owner="me", ttl_s=30)
        assert lease is not None
        assert lease.store_id == store_of(one.first)
        assert with_more.take(lease)[0].column("n").to_pylist() == [1]
        with_more.ack(lease, lease.through)
        with_more.release(lease)
        lease = with_more.lease(T, owner="me", ttl_s=30)
        assert lease is not None
        assert lease.store_id == store_of(two.first)
        assert list(with_more.progress(T)) == [store_of(two.first)]
        with_more.close()


def test_limits_are_of_the_store_and_of_a_row(tmp_path: Path) -> None:
    hot = SQLiteHotTables(tmp_path / "b-tables.db", max_bytes=2000, row_max_bytes=1000)
    with pytest.raises(EntryRejected, match="1000 are the most"):
        hot.accept(T, [insert("ann", 1, "a"), insert("ann", 1, "x" * 1000)])
    with pytest.raises(EntryRejected, match="1000 are the most"):
        hot.accept_arrow(T, arrow(T, ["ann"], [1], ["x" * 1001]))

    def fill() -> None:
        for n in range(100):
            hot.accept(T, [insert("ann", n, "x" * 100)])

    with pytest.raises(BufferFull):
        fill()
    kept = len(shown(hot))
    assert 5 < kept < 20
    with pytest.raises(BufferFull):
        hot.accept_arrow(T, arrow(T, ["ann"] * 10, [1] * 10, ["x"] * 10))
    assert list(hot.segments.glob("*")) == []
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    hot.ack(lease, lease.through)
    hot.accept(T, [insert("ann", 1, "a")])
    hot.close()


def test_rows_of_a_stream_table_end_and_are_never_flushed(
    in_file: SQLiteHotTables, clock: Clock
) -> None:
    stream = table(number=9, kind=Kind.STREAM, ttl_s=60.0)
    in_file.accept(stream, [insert("ann", 1, "a")])
    in_file.accept_arrow(stream, arrow(stream, ["ann"], [2], ["b"]))
    clock.now += 50
    in_file.accept(stream, [insert("ann", 3, "c")])
    assert (in_file.waiting(), in_file.states(), in_file.lease(stream, owner="me", ttl_s=9)) == (
        [],
        [],
        None,
    )
    clock.now += 11
    assert plain(shown(in_file, stream), stream) == [("ann", 3, "c")]
    in_file.maintain()
    assert list(in_file.segments.glob("*")) == []
    clock.now -= 11
    assert plain(shown(in_file, stream), stream) == [("ann", 3, "c")]


def test_a_shared_table_has_one_partition(hot: HotTables) -> None:
    shared = table(number=9, kind=Kind.SHARED)
    hot.accept(shared, [insert("", 1, "a")])
    hot.accept_arrow(shared, arrow(shared, [], [2], ["b"]))
    assert plain(shown(hot, shared, user="anybody"), shared) == [(1, "a"), (2, "b")]
    assert [state.partition for state in hot.states()] == ["ns.t9"]


def test_all_of_a_dropped_table_is_gone_and_it_does_not_come_back(in_file: SQLiteHotTables) -> None:
    in_file.accept(T, [insert("ann", 1, "a")])
    in_file.accept_arrow(T, arrow(T, ["ann"], [2], ["b"]))
    other = SQLiteHotTables(in_file.path)
    other.forget_table(T.id)
    with pytest.raises(NotFound):
        in_file.accept(T, [insert("ann", 1, "a")])
    with pytest.raises(NotFound):
        in_file.accept_arrow(T, arrow(T, ["ann"], [2], ["b"]))
    assert (shown(in_file), in_file.waiting(), in_file.depth().bytes) == ([], [], 0)
    other.maintain()
    assert list(in_file.segments.glob("*")) == []
    other.close()


def test_no_byte_of_an_erased_user_is_left(hot: HotTables, tmp_path: Path) -> None:
    for which in (T, KEYED):
        hot.accept(which, [insert("eraseme-ann", 1, "eraseme"), insert("bob", 2, "kept")])
        hot.accept(
            which,
            [insert("eraseme-ann", 7, "eraseme")],
            batch=BatchKey("eraseme", b"", "eraseme-ann"),
        )
        many = arrow(which, ["bob", "eraseme-ann", "cay"], [3, 4, 5], ["kept", "eraseme", "kept"])
        hot.accept_arrow(which, many)
    hot.accept_arrow(T, arrow(T, ["eraseme-ann"], [6], ["eraseme"]))
    lease = hot.lease(T, owner="me", ttl_s=30)
    assert lease is not None
    version = next(row[VERSION] for row in shown(hot, user="eraseme-ann") if row["n"] == 1)
    hot.ack(lease, 0, refused=[Refused("eraseme-ann", version, FAILURE)])
    hot.ack(lease, 1, held={"eraseme-ann": Held(FAILURE, 1, 0.0)})
    assert hot.erase_user("eraseme-ann") == 7
    for which in (T, KEYED):
        assert plain(shown(hot, which)) == [
            ("bob", 2, "kept"),
            ("bob", 3, "kept"),
            ("cay", 5, "kept"),
        ]
    left = [
        path for path in tmp_path.rglob("*") if path.is_file() and b"eraseme" in path.read_bytes()
    ]
    assert left == []


@pytest.mark.parametrize("start", [0, 1])
def test_a_part_of_a_larger_batch_has_no_byte_of_the_rest(
    hot: HotTables, tmp_path: Path, start: int
) -> None:
    which = table("n BIGINT", "s TEXT", "l TEXT[]", "j JSON")
    texts = ["kept", "marker"] if start == 0 else ["marker", "kept"]
    lists, jsons = [[text] for text in texts], [f'"{text}"' for text in texts]
    both = arrow(which, ["ann", "ann"], [1, 2], texts, lists, jsons)
    hot.accept_arrow(which, both.slice(start, 1))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path.name for path in files if b"marker" in path.read_bytes()] == []


def test_files_of_flushed_segments_go_with_an_erased_user(hot: HotTables, tmp_path: Path) -> None:
    hot.accept_arrow(T, arrow(T, ["ann", "bob"], [1, 2], ["of ann marker-7f3a", "of bob"]))
    lease = hot.lease(T, owner="w", ttl_s=9)
    assert lease is not None
    hot.ack(lease, lease.through)
    hot.release(lease)
    hot.erase_user("ann")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert [path for path in files if b"marker-7f3a" in path.read_bytes()] == []


def test_nothing_is_accepted_into_a_file_that_was_deleted(
    in_file: SQLiteHotTables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_EVERY_S", 0.0)
    in_file.accept(T, [insert("ann", 1, "one")])
    lease = in_file.lease(T, owner="w", ttl_s=9)
    assert lease is not None
    (tmp_path / "buffer-tables.db").unlink()
    with pytest.raises(BufferUnavailable, match="deleted"):
        in_file.accept(T, [insert("ann", 2, "two")])
    with pytest.raises(BufferUnavailable, match="deleted"):
        in_file.accept_arrow(T, arrow(T, ["ann"], [3], ["three"]))
    assert in_file.ack(lease, lease.through).changes == 1


def test_a_segment_stays_readable_while_somebody_sees_it(in_file: SQLiteHotTables) -> None:
    in_file.accept_arrow(T, arrow(T, ["ann"], [1], ["a"]))
    other = SQLiteHotTables(in_file.path)
    with other.snapshot() as snapshot:
        lease = in_file.lease(T, owner="me", ttl_s=30)
        assert lease is not None
        in_file.ack(lease, lease.through)
        in_file.maintain()
        assert snapshot.rows(T).column("n").to_pylist() == [1]
    in_file.maintain()
    assert list(in_file.segments.glob("*")) == []
    other.close()
