"""Who may flush a table, until when, and what waits for its next attempt."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection
from typing import Any

from surgetank.buffer.failures import failure_json
from surgetank.exceptions import LeaseLost
from surgetank.streams.tables.definition import Kind, Table
from surgetank.streams.tables.hot.counting import newest, skipped_of, waiting_of, waits
from surgetank.streams.tables.hot.covering import uncovered
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.progress import progress_of
from surgetank.streams.tables.hot.protocol import ORIGIN_SHIFT, Held, Progress, TableLease, store_of
from surgetank.streams.tables.hot.schema import rows_of
from surgetank.streams.tables.hot.segments import segments_of

_MASK = (1 << ORIGIN_SHIFT) - 1


class Leases:
    """The side of `HotTables` that gives leases."""

    def __init__(self, file: HotFile) -> None:
        self._file = file

    def lease(
        self, table: Table, *, owner: str, ttl_s: float, force: bool = False
    ) -> TableLease | None:
        """See `HotTables.lease`."""
        if table.kind is Kind.STREAM or not self.is_due(table, force=force):
            return None
        self._file.prepare(table)
        now = self._file.clock()
        with self._file.write() as connection:
            if not _due(connection, table, now, force=force):
                return None
            waits = () if force else _not_due(connection, table, now)
            found = _oldest(connection, table, waits)
            if found is None:
                return None
            origin, progress, through = found
            # Also larger than those of a file that was set back.
            (token,) = connection.execute(
                "UPDATE hot_tables SET token = max(token + 1, ?), owner = ?, lease_until = ?, lease = ?"
                " WHERE table_id = ? RETURNING token",
                (int(now * 1000), owner, now + ttl_s, json.dumps([]), table.id),
            ).fetchone()
        return TableLease(
            table_id=table.id,
            token=token,
            owner=owner,
            expires_at=now + ttl_s,
            through=through,
            store_id=store_of(origin << ORIGIN_SHIFT),
            held=frozenset(waits),
            progress=progress,
        )

    def renew(self, lease: TableLease, *, ttl_s: float) -> None:
        """See `HotTables.renew`."""
        with self._file.write() as connection:
            require(connection, lease)
            connection.execute(
                "UPDATE hot_tables SET lease_until = ? WHERE table_id = ?",
                (self._file.clock() + ttl_s, lease.table_id),
            )

    def release(self, lease: TableLease) -> None:
        """See `HotTables.release`."""
        with self._file.write() as connection:
            _release(connection, lease)

    def fail(self, lease: TableLease, held: Held) -> None:
        """See `HotTables.fail`."""
        with self._file.write() as connection:
            require(connection, lease)
            connection.execute(
                "UPDATE hot_tables SET failure = ?, attempts = ?, next_attempt_at = ?,"
                " failing_since = coalesce(failing_since, ?) WHERE table_id = ?",
                (failure_json(held.failure), held.attempts, held.next_attempt_at, self._file.clock(),
                 lease.table_id),
            )  # fmt: skip
            _release(connection, lease)

    def retry_now(self, table: Table | None = None) -> int:
        """See `HotTables.retry_now`."""
        id_, now = table.id if table is not None else None, self._file.clock()
        with self._file.write() as connection:
            return sum(
                connection.execute(
                    f"UPDATE {name} SET next_attempt_at = 0 WHERE next_attempt_at > ?1"
                    " AND (?2 IS NULL OR table_id = ?2)",
                    (now, id_),
                ).rowcount
                for name in ("hot_failing", "hot_tables")
            )

    def is_due(self, table: Table, *, force: bool) -> bool:
        """Seen without the write lock: idle polling costs writers nothing."""
        with self._file.read() as connection:
            return _due(connection, table, self._file.clock(), force=force)


def require(connection: sqlite3.Connection, lease: TableLease) -> Any:
    """The definition of the table and who was held in earlier calls. Raises `LeaseLost`."""
    row = connection.execute(
        "SELECT definition, lease FROM hot_tables WHERE table_id = ? AND token = ? AND owner = ?"
        " AND dropped = 0",
        (lease.table_id, lease.token, lease.owner),
    ).fetchone()
    if row is None:
        raise LeaseLost(
            f"The lease of table {lease.table_id} (token {lease.token}) is lost.",
            remedy="nothing is to be done: who has it now flushes these rows.",
        )
    return row


def _release(connection: sqlite3.Connection, lease: TableLease) -> None:
    connection.execute(
        "UPDATE hot_tables SET owner = NULL, lease_until = 0, lease = NULL"
        " WHERE table_id = ? AND token = ? AND owner = ?",
        (lease.table_id, lease.token, lease.owner),
    )


def _due(connection: sqlite3.Connection, table: Table, now: float, *, force: bool) -> bool:
    row = connection.execute(
        "SELECT owner, lease_until, next_attempt_at FROM hot_tables"
        " WHERE table_id = ? AND dropped = 0",
        (table.id,),
    ).fetchone()
    if row is None or (row[2] > now and not force):
        return False
    leased = row[0] is not None and now < row[1]
    return not leased and waits(connection, table.id).changes > 0


def _not_due(connection: sqlite3.Connection, table: Table, now: float) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT user FROM hot_failing WHERE table_id = ? AND next_attempt_at > ?", (table.id, now)
    )
    return tuple(user for (user,) in rows)


def _oldest(
    connection: sqlite3.Connection, table: Table, without: Collection[str]
) -> tuple[int, Progress, int] | None:
    """The oldest origin that has something to take, its progress, and up to where."""
    progress = progress_of(connection, table.id)
    waiting = {
        segment.first >> ORIGIN_SHIFT
        for segment in segments_of(connection, table)
        if waiting_of(segment, progress, skipped_of(connection, table.id), without)
    }
    users = json.dumps(sorted(without))
    last = newest(connection, table.id)
    where, values = uncovered(progress)
    for origin, reached in progress.items():
        through = min(last, (origin << ORIGIN_SHIFT) | _MASK)
        if (
            origin in waiting
            or connection.execute(
                f"SELECT 1 FROM {rows_of(table.id)} WHERE version > ? AND version <= ? AND {where}"
                " AND user IS NOT NULL AND user NOT IN (SELECT value FROM json_each(?)) LIMIT 1",
                (_low(origin, reached), through, *values, users),
            ).fetchone()
        ):
            return origin, reached, through
    return None


def _low(origin: int, reached: Progress) -> int:
    """Up to where there is nothing to take."""
    start = origin << ORIGIN_SHIFT
    return start if reached.held else max(start, reached.through)
