"""The hot store of tables beside a dict: any order of inserts, changes, flushes in parts, failures, parked rows and
deletions, erasure and new handles. Each change is taken once, none is missing, what waits stays visible, and no two
rows that are visible have one key."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from support.hot_tables import replica
from support.torture import SEEDS
from surgetank.exceptions import Conflict
from surgetank.model import Failure, FailureKind
from surgetank.streams.tables.definition import SEQ, USER, Column, Kind, Table
from surgetank.streams.tables.hot import reading
from surgetank.streams.tables.hot.protocol import (
    DELETED,
    DELETION_PARKED,
    OP,
    ORIGIN_SHIFT,
    VERSION,
    Change,
    Held,
    Op,
    Progress,
    Refused,
    store_of,
)
from surgetank.streams.tables.hot.shared.replica import OWN
from surgetank.streams.tables.hot.shared.store import SharedHotTables
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.keys import row_key
from surgetank.streams.tables.types import ColumnType

T = Table(
    id=1, namespace="ns", name="t", kind=Kind.USER, key=("n",),
    columns=(Column(3, "n", ColumnType.parse("BIGINT")), Column(4, "s", ColumnType.parse("TEXT"))),
)  # fmt: skip
KEY = row_key(T)
NOTHING = np.array([], np.int64)
USERS = st.sampled_from(["ann", "bob", "cay", ""][:3])
FAILURE = Failure(FailureKind.TRANSIENT, "away", "Away")


@dataclass(frozen=True)
class Row:
    user: str
    op: Op
    seq: int
    n: int
    s: str | None


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        # Also a short journal is looked up in.
        self.long = mock.patch.object(reading, "_LONG", -1)
        self.long.start()
        self.home = Path(tempfile.mkdtemp())
        self.hot: Any = self.opened()
        self.pending: dict[int, Row] = {}
        self.parked: dict[int, Row] = {}
        self.taken: list[int] = []
        self.cold: dict[int, Row] = {}  # by _seq: what a manifest would have
        self.next_n = 0

    def opened(self) -> Any:
        return SQLiteHotTables(self.home / "buffer-tables.db")

    def teardown(self) -> None:
        self.long.stop()
        self.hot.close()
        shutil.rmtree(self.home)

    @rule(users=st.lists(USERS, min_size=1, max_size=6), segment=st.booleans())
    def insert(self, users: list[str], segment: bool) -> None:
        ns = list(range(self.next_n, self.next_n + len(users)))
        self.next_n += len(users)
        if segment:
            rows = pa.table({USER: users, "n": ns, "s": pa.array([f"s{n}" for n in ns])})
            first = self.hot.accept_arrow(T, rows).first
            pairs = sorted(zip(users, ns, strict=True), key=lambda pair: pair[0])
        else:
            pairs = list(zip(users, ns, strict=True))
            first = self.hot.accept(T, [Change(u, Op.INSERT, (n, f"s{n}")) for u, n in pairs]).first
        assert first > max(self.pending, default=0)
        for version, (user, n) in enumerate(pairs, first):
            self.pending[version] = Row(user, Op.INSERT, version, n, f"s{n}")

    @precondition(lambda self: self.next_n)
    @rule(data=st.data(), user=USERS, segment=st.booleans())
    def insert_a_key_again(self, data: st.DataObject, user: str, segment: bool) -> None:
        n = data.draw(st.integers(0, self.next_n - 1))
        hot = {row.seq: row for row in self.newest().values() if row.user == user and row.n == n}
        cold = {seq: row for seq, row in self.cold.items() if row.user == user and row.n == n}
        rows = pa.table({USER: [user], "n": [n], "s": pa.array(["again"])})
        insert = [Change(user, Op.INSERT, (n, "again"))]
        deleted = not any(row.op is not Op.DELETE for row in (cold | hot).values())
        if not deleted or any(row in self.parked.values() for row in hot.values()):
            if hot:  # what is cold only is the caller's to find out
                with pytest.raises(Conflict, match="PRIMARY KEY"):
                    self.hot.accept_arrow(T, rows) if segment else self.hot.accept(T, insert)
            return
        version = (self.hot.accept_arrow(T, rows) if segment else self.hot.accept(T, insert)).first
        self.pending[version] = Row(user, Op.INSERT, version, n, "again")

    @precondition(lambda self: self.pending)
    @rule(data=st.data(), deleted=st.booleans())
    def change(self, data: st.DataObject, deleted: bool) -> None:
        newest = {row.seq: row for _, row in sorted(self.pending.items())}
        parked = {row.seq for row in self.parked.values()}
        live = sorted(s for s, row in newest.items() if row.op is not Op.DELETE and s not in parked)
        if not live:
            return
        before = newest[data.draw(st.sampled_from(live))]
        op, s = (Op.DELETE, None) if deleted else (Op.UPDATE, "new")
        version = self.hot.accept(T, [Change(before.user, op, (before.n, s), before.seq)]).first
        self.pending[version] = Row(before.user, op, before.seq, before.n, s)

    @rule(data=st.data(), size=st.sampled_from([1, 200, 400, 10**6]), parts=st.integers(1, 4))
    def flush(self, data: st.DataObject, size: int, parts: int) -> None:
        lease = self.hot.lease(T, owner="me", ttl_s=30, force=True)
        assert (lease is None) == (not self.pending)
        if lease is None:
            return
        origin = min(self.pending) >> ORIGIN_SHIFT
        assert int(lease.store_id, 16) == origin
        after, held = 0, set[str]()
        for _ in range(parts):
            rows, through = self.hot.take(lease, after=after, max_bytes=size)
            found = {row[VERSION]: row for row in rows.to_pylist()}
            mine = {
                version: row
                for version, row in self.pending.items()
                if after < version <= through and row.user not in held and version >> ORIGIN_SHIFT == origin
            }  # fmt: skip
            assert {v: seen(row) for v, row in found.items()} == mine
            assert found or through == lease.through
            refused = [v for v in sorted(mine) if data.draw(st.integers(0, 9)) == 0]
            failed = {row.user for row in mine.values() if data.draw(st.integers(0, 9)) == 0}
            named = [Refused(mine[v].user, v, FAILURE) for v in refused]
            behind = {version for _, version in self.hot.ack(lease, 0, refused=named).behind}
            assert {v for v in refused for v in self.park(v)} == {*behind, *refused}
            acked = self.hot.ack(lease, through, held={u: Held(FAILURE, 1, 0.0) for u in failed})
            held |= failed
            gone = [v for v, row in mine.items() if v in self.pending and row.user not in held]
            assert acked.changes == len(gone)
            for version in sorted(gone):
                row = self.pending.pop(version)
                self.cold.pop(row.seq, None)
                if row.op is not Op.DELETE:
                    self.cold[row.seq] = row
                self.taken.append(version)
            after = through
            if after >= lease.through:
                break
        self.hot.release(lease)

    def park(self, version: int) -> list[int]:
        """What goes: the change, and with a deletion what has the key of its row."""
        row = self.pending.pop(version, None)
        if row is None:
            return [version]  # with another one
        gone = [version]
        if self.set_aside(version, row) and row.op is Op.DELETE:
            alike = [
                (v, r)
                for v, r in sorted(self.pending.items())
                if (r.user, r.n) == (row.user, row.n)
            ]
            for later, other in alike:
                if later > version:
                    del self.pending[later]
                    self.set_aside(later, other)
                    gone.append(later)
        return gone

    def set_aside(self, version: int, row: Row) -> bool:
        newer = [other for v, other in self.pending.items() if v > version]
        if any(other.seq == row.seq for other in [*newer, *self.parked.values()]):
            return False
        entry = next(each for each in self.hot.parked() if each.seq == version)
        self.parked[entry.id] = row
        return True

    @precondition(lambda self: self.parked)
    @rule(data=st.data(), back=st.booleans(), both=st.booleans())
    def put_back_or_discard(self, data: st.DataObject, back: bool, both: bool) -> None:
        parked = data.draw(st.sampled_from(sorted(self.parked)))
        row = self.parked[parked]
        alike = sorted(
            (other.seq, id_)
            for id_, other in self.parked.items()
            if (other.user, other.n) == (row.user, row.n)
        )
        if back:
            versions = self.hot.unpark([parked])
            for version, (_, id_) in zip(versions, alike, strict=True):
                self.pending[version] = self.parked.pop(id_)
            return
        chosen = [id_ for _, id_ in alike] if both else [parked]
        if row.op is Op.DELETE and not both and row.seq < alike[-1][0]:
            with pytest.raises(Conflict, match="alone"):
                self.hot.discard_parked(chosen)
            return
        self.hot.discard_parked(chosen)
        for id_ in chosen:
            del self.parked[id_]

    @rule()
    def open_again(self) -> None:
        self.hot.close()
        self.hot = self.opened()

    @rule()
    def maintain(self) -> None:
        self.hot.maintain()
        named = len(list(self.home.rglob("buffer-segments/*.arrow")))
        assert named == 0 or self.pending or self.parked

    @rule(user=USERS)
    def erase(self, user: str) -> None:
        mine = [v for v, row in self.pending.items() if row.user == user]
        parked = [v for v, row in self.parked.items() if row.user == user]
        assert self.hot.erase_user(user) >= len(mine) + len(parked)
        for version in mine:
            del self.pending[version]
        for id_ in parked:
            del self.parked[id_]
        self.cold = {seq: row for seq, row in self.cold.items() if row.user != user}

    def newest(self) -> dict[int, Row]:
        """Of each row its newest change: what is parked of it is changed by nobody."""
        changes = [*(row for _, row in sorted(self.pending.items())), *self.parked.values()]
        return {row.seq: row for row in changes}

    @invariant()
    def no_two_rows_have_one_key(self) -> None:
        rows = [row for row in (self.cold | self.newest()).values() if row.op is not Op.DELETE]
        keys = [(row.user, row.n) for row in rows]
        assert len(keys) == len(set(keys))

    @invariant()
    def all_is_seen_once(self) -> None:
        with self.hot.snapshot() as snapshot:
            rows = snapshot.rows(T).to_pylist()
            through = snapshot.through(T)
        assert through >= max(self.pending, default=0)
        hot = {row[VERSION]: seen(row) for row in rows if row[VERSION] >> ORIGIN_SHIFT}
        assert hot == self.pending
        parked = {-row[VERSION]: seen(row) for row in rows if not row[VERSION] >> ORIGIN_SHIFT}
        assert parked == self.parked
        assert [(r[USER], r[VERSION]) for r in rows] == sorted((r[USER], r[VERSION]) for r in rows)
        assert len(self.taken) == len(set(self.taken))
        assert sum(state.entries for state in self.hot.states()) == len(self.pending)
        assert sum(each.changes for each in self.hot.waiting()) == len(self.pending)
        assert {entry.id for entry in self.hot.parked()} == set(self.parked)

    @invariant()
    def what_a_reader_merges_is_the_same(self) -> None:
        # What the manifest has already (by chance up to here), and rows that were changed since.
        everything = [*self.pending.items(), *((-at, row) for at, row in self.parked.items())]
        versions = sorted(self.pending)
        half = versions[len(versions) // 2] if versions else 0
        progress = Progress(half, {"bob": half - 1})
        changed = np.array(versions[1::3], np.int64)
        for user in (None, "ann", "bob"):
            with self.hot.snapshot() as snapshot:
                found = snapshot.pending(T, user=user, columns=["s", "n"], hidden=(USER, SEQ))
                single = found.changes.to_pylist()
                many = [row for each in found.inserted for row in listed(each.rows(None, NOTHING))]
                left = [
                    row
                    for each in found.inserted
                    for row in listed(
                        each.rows(progress if each.store == store_of(half) else None, changed)
                    )
                ]
            mine = sorted(
                (
                    (row.seq, row.user, row.n, row.s)
                    for _, row in everything
                    if user in (None, row.user)
                ),
                key=str,
            )
            assert sorted(map(plain, [*single, *many]), key=str) == mine
            before = half >> ORIGIN_SHIFT << ORIGIN_SHIFT
            wanted = [
                row
                for row in many
                if row[SEQ] not in changed
                and not before <= row[SEQ] <= (half - 1 if row[USER] == "bob" else half)
            ]
            assert sorted(map(plain, left), key=str) == sorted(map(plain, wanted), key=str)

    @invariant()
    def keys_are_those_of_the_newest_changes(self) -> None:
        assert KEY is not None
        newest: dict[tuple[str, int], int] = {}
        parked = {row.seq for row in self.parked.values()}
        for seq, row in sorted(self.newest().items()):
            gone = DELETION_PARKED if seq in parked else DELETED
            newest[row.user, row.n] = gone if row.op is Op.DELETE else seq
        keys = [KEY((n, None)) for n in range(self.next_n)]
        for user in ("ann", "bob", "cay"):
            expected = {KEY((n, None)): seq for (who, n), seq in newest.items() if who == user}
            assert self.hot.known_keys(T, user, keys) == expected


def listed(rows: pa.Table | None) -> list[dict[str, Any]]:
    return [] if rows is None else rows.to_pylist()


def plain(row: dict[str, Any]) -> tuple[Any, ...]:
    return row[SEQ], row[USER], row["n"], row["s"]


def seen(row: dict[str, Any]) -> Row:
    return Row(row[USER], Op(row[OP]), row[SEQ], row["n"], row["s"])


Machine.TestCase.settings = settings(
    max_examples=200 if len(SEEDS) > 2 else 12,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestHotTables = Machine.TestCase


class TwoHosts(Machine):
    """The same of two hosts on one log: whatever is asked for, the next one does. Both come to the
    same rows, and a third one that begins with a copy."""

    def opened(self) -> Any:
        return Turns(replica(self.home, "a"), replica(self.home, "b"))

    @rule()
    def copy(self) -> None:
        self.hot.hosts[0]._applying.catch_up()
        self.hot.hosts[0]._copy()

    def teardown(self) -> None:
        try:
            third = replica(self.home, "c")
            dumps = [dump(each) for each in (*self.hot.hosts, third)]
            third.close()
            assert dumps[0] == dumps[1] == dumps[2]
        finally:
            super().teardown()


class Turns:
    """Several hosts' stores as one: a call goes to the next."""

    def __init__(self, *hosts: SharedHotTables) -> None:
        self.hosts = hosts
        self._next = 0

    def __getattr__(self, name: str) -> Any:
        self._next += 1
        return getattr(self.hosts[self._next % len(self.hosts)], name)

    def close(self) -> None:
        for host in self.hosts:
            host.close()


def dump(hot: SharedHotTables) -> dict[str, list[Any]]:
    """All that a replica has, but what is its own."""
    hot.depth()
    with hot._file.read() as connection:
        names = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            if name.startswith("hot_") and name not in {*OWN, "hot_retired"}
        ]
        return {
            name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in names
        }


TwoHosts.TestCase.settings = settings(
    max_examples=100 if len(SEEDS) > 2 else 3,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
TestTwoHosts = TwoHosts.TestCase
