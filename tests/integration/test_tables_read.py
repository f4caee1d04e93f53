"""What SELECT sees of rows that are hot, in files, and between the two: each row once, in every way of reading."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.tables_cold import NOTES, cold_tables, job
from surgetank.streams.tables.cold.tables import FileTables
from surgetank.streams.tables.hot.protocol import Change, Op
from surgetank.streams.tables.hot.store import SQLiteHotTables
from surgetank.streams.tables.query.changes import Selection, TableChanges
from surgetank.streams.tables.query.names import Reference
from surgetank.streams.tables.query.pool import QueryPool
from surgetank.streams.tables.query.queries import Queries, Runner
from surgetank.streams.tables.query.sources import Readable
from surgetank.streams.tables.query.trusted import TrustedQueries
from surgetank.streams.tables.reader import TableReader


class Own:
    def __init__(self, user: str | None) -> None:
        self._user = user

    def table(self, reference: Reference) -> Readable:
        return Readable(NOTES, self._user)

    def relation(self, reference: Reference) -> None:
        return None


class House:
    def __init__(self, hot: SQLiteHotTables, cold: FileTables, pool: QueryPool) -> None:
        self.hot, self.cold = hot, cold
        self.reader = TableReader(hot, cold)
        self.queries = Queries(self.reader, pool, TrustedQueries(cold))
        self.changes = TableChanges(hot, cold, self.queries)

    def insert(self, user: str, *ids: int) -> None:
        self.hot.accept(NOTES, [Change(user, Op.INSERT, (each, f"{user} {each}")) for each in ids])

    def sees(self, user: str | None) -> list[str]:
        """The texts that a user (or who may see all) reads: the same in each way of reading."""
        text = "SELECT text FROM app.notes ORDER BY text"
        trusted, confined = (
            self.queries.select(text, Runner(Own(user), name)).table.column("text").to_pylist()
            for name in (None, user or "admin")
        )
        read = sorted(self.reader.read(NOTES, user=user).column("text").to_pylist())
        assert trusted == confined == read
        return trusted

    def write(self):
        """The first half of a flush: what is committed is hot still."""
        lease = self.hot.lease(NOTES, owner="test", ttl_s=60, force=True)
        assert lease is not None
        rows, through = self.hot.take(lease)
        progress = lease.progress.advanced(through, ())
        self.cold.write(
            NOTES,
            rows,
            lease=lease,
            progress=progress,
            store_id=lease.store_id,
            job=job(lease.token),
        )
        return lease, through

    def acknowledge(self, written) -> None:
        """The second half."""
        lease, through = written
        self.hot.ack(lease, through)
        self.hot.release(lease)


@pytest.fixture
def house(database_url: str, tmp_path: Path) -> Iterator[House]:
    hot, pool = SQLiteHotTables(tmp_path / "hot-tables.db"), QueryPool(1)
    with cold_tables(database_url, tmp_path) as cold:
        yield House(hot, cold, pool)
    hot.close()
    pool.close()


def test_every_row_is_seen_once_hot_cold_and_in_between(house):
    house.insert("ann", 1, 2, 3)
    house.insert("bob", 1)
    everything = ["ann 1", "ann 2", "ann 3", "bob 1"]
    assert house.sees(None) == everything
    half = house.write()
    assert house.sees(None) == everything
    house.acknowledge(half)
    assert house.sees(None) == everything
    assert house.sees("ann") == everything[:3]

    # rows in files are changed hot, and by both kinds of callers
    ann = Runner(Own("ann"), "ann")
    assert (
        house.changes.update(Selection(table=NOTES, where="id = 1"), [("text", "'uno'")], ann) == 1
    )
    assert house.changes.delete(Selection(table=NOTES, where="id = 2"), Runner(Own("ann"))) == 1
    assert house.changes.update(Selection(table=NOTES, where="id = 3"), [("id", "30")], ann) == 1
    house.insert("ann", 4)
    expected = ["ann 3", "ann 4", "uno"]
    assert house.sees("ann") == expected
    half = house.write()
    assert house.sees("ann") == expected
    house.acknowledge(half)
    assert house.sees("ann") == expected
    assert house.sees("bob") == ["bob 1"]
    assert house.hot.depth().entries == 0

    # a key that was freed can be taken again, one in a file can't
    house.insert("ann", 2)
    with pytest.raises(Exception, match="has the key"):
        house.changes.update(Selection(table=NOTES, where="id = 2"), [("id", "30")], ann)
    assert house.sees("ann") == sorted([*expected, "ann 2"])
