"""Groups of a lease, one after the other: the next one is read while the one before it is written.

Reading is SQLite's time and writing is Parquet's and PostgreSQL's, so that both go on at once. At most two groups are
in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa

from surgetank.streams.tables.cold.protocol import ColdTables
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.protocol import HotTables, TableLease


@dataclass(frozen=True, slots=True)
class Group:
    """Changes up to the version `through`. `snapshot` is what `ColdTables.known_snapshot` gave before
    they were taken."""

    rows: pa.Table
    through: int
    snapshot: int


class Groups:
    """What a lease covers, for one thread that asks and writes."""

    def __init__(
        self, hot: HotTables, cold: ColdTables, table: Table, lease: TableLease, pool: ThreadPoolExecutor
    ) -> None:  # fmt: skip
        self._hot, self._cold, self._table, self._lease = hot, cold, table, lease
        self._pool = pool
        self._ahead: Future[Group] | None = None

    def after(self, version: int) -> Group:
        """The next group after a version. Raises what `HotTables.take` raises."""
        ahead, self._ahead = self._ahead, None
        group = self._take(version) if ahead is None else ahead.result()
        following = max(group.through, version + 1)
        if following < self._lease.through:
            self._ahead = self._pool.submit(self._take, following)
        return group

    def forget(self) -> None:
        """Users are held back who were not before, or rows were parked behind others: what was read
        ahead may have rows of theirs, or these."""
        self._ahead = None

    def _take(self, after: int) -> Group:
        snapshot = self._cold.known_snapshot(self._table)
        rows, through = self._hot.take(self._lease, after=after)
        return Group(rows, through, snapshot)


@contextmanager
def taking(hot: HotTables, cold: ColdTables, table: Table, lease: TableLease) -> Iterator[Groups]:
    """The groups of a lease. No thread of it is left at the end, and none is begun for a single group."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="surgetank-table-take")
    try:
        yield Groups(hot, cold, table, lease, pool)
    finally:
        pool.shutdown(cancel_futures=True)
