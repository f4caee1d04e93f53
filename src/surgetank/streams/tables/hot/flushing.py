"""What a flush takes, and what it acknowledges."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence

import pyarrow as pa

from surgetank.buffer.failures import failure_json
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.counting import EVER, recount
from surgetank.streams.tables.hot.definitions import definition_of
from surgetank.streams.tables.hot.hot_file import HotFile, newest
from surgetank.streams.tables.hot.leases import require
from surgetank.streams.tables.hot.parking import park
from surgetank.streams.tables.hot.progress import keep_progress, progress_of
from surgetank.streams.tables.hot.protocol import (
    ORIGIN_SHIFT,
    Acked,
    Held,
    Progress,
    Refused,
    TableLease,
)
from surgetank.streams.tables.hot.reading import changes, in_order
from surgetank.streams.tables.hot.schema import keys_of, rows_of
from surgetank.streams.tables.hot.segments import Range, segments_of


class Flushing:
    """The side of `HotTables` that a flusher takes from."""

    def __init__(self, file: HotFile) -> None:
        self._file = file

    def take(
        self, lease: TableLease, *, after: int = 0, max_bytes: int = 64 * 1024**2
    ) -> tuple[pa.Table, int]:
        """See `HotTables.take`."""
        with self._file.read() as connection:
            definition, held = require(connection, lease)
            table = definition_of(definition)
            without = lease.held | set(json.loads(held or "[]"))
            low = max(after, _origin(lease) << ORIGIN_SHIFT)
            while True:
                chosen = Range(low, lease.through, None, without, lease.progress)
                up_to = _cut(connection, table, chosen, max_bytes)
                chosen = Range(low, up_to, None, without, lease.progress)
                parts = changes(connection, self._file.segments, table, table.columns, chosen)
                found = in_order(table, table.columns, parts)
                if found.num_rows or up_to >= lease.through:
                    return found, up_to
                low = up_to

    def ack(
        self,
        lease: TableLease,
        through: int,
        *,
        held: Mapping[str, Held] | None = None,
        refused: Sequence[Refused] = (),
    ) -> Acked:
        """See `HotTables.ack`."""
        now = self._file.clock()
        with self._file.write() as connection:
            definition, earlier = require(connection, lease)
            table = definition_of(definition)
            (before,) = connection.execute(
                "SELECT changes FROM hot_tables WHERE table_id = ?", (table.id,)
            ).fetchone()
            parked = sum(
                park(connection, self._file.segments, table, each, now) for each in refused
            )
            _keep_failures(connection, table, held or {}, now)
            kept = lease.held | set(json.loads(earlier or "[]")) | set(held or {})
            if through > 0:
                _forget(connection, table, lease, through, kept)
            recovered: tuple[str, ...] = ()
            if through >= lease.through:
                recovered = _recovered(connection, table, kept)
            connection.execute(
                "UPDATE hot_tables SET acks = acks + ?, lease = ? WHERE table_id = ?",
                (through > 0, json.dumps(sorted(kept - lease.held)), table.id),
            )
            left = recount(connection, table)
            _forget_origins(connection, table)
        return Acked(before - left - parked, recovered)


def _origin(lease: TableLease) -> int:
    return int(lease.store_id, 16)


def _forget(
    connection: sqlite3.Connection, table: Table, lease: TableLease, through: int, kept: Collection[str]
) -> None:  # fmt: skip
    origin = _origin(lease)
    progress = progress_of(connection, table.id).get(origin, Progress()).advanced(through, kept)
    keep_progress(connection, table.id, origin, progress)
    users = json.dumps(sorted(kept))
    for name in (rows_of(table.id), keys_of(table.id)):
        connection.execute(
            f"DELETE FROM {name} WHERE version > ? AND version <= ?"
            " AND user NOT IN (SELECT value FROM json_each(?))",
            (origin << ORIGIN_SHIFT, through, users),
        )
    connection.execute(
        "DELETE FROM hot_retried WHERE table_id = ? AND version > ? AND version <= ?",
        (table.id, origin << ORIGIN_SHIFT, through),
    )


def _keep_failures(
    connection: sqlite3.Connection, table: Table, held: Mapping[str, Held], now: float
) -> None:
    connection.executemany(
        "INSERT INTO hot_failing (table_id, user, failure, attempts, next_attempt_at, failing_since)"
        " VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (table_id, user) DO UPDATE SET"
        " failure = excluded.failure, attempts = excluded.attempts,"
        " next_attempt_at = excluded.next_attempt_at",
        [
            (table.id, user, failure_json(each.failure), each.attempts, each.next_attempt_at, now)
            for user, each in held.items()
        ],
    )


def _recovered(
    connection: sqlite3.Connection, table: Table, kept: Collection[str]
) -> tuple[str, ...]:
    rows = connection.execute(
        "DELETE FROM hot_failing WHERE table_id = ? AND user NOT IN (SELECT value FROM json_each(?))"
        " RETURNING user",
        (table.id, json.dumps(sorted(kept))),
    ).fetchall()
    connection.execute(
        "UPDATE hot_tables SET failure = NULL, attempts = 0, next_attempt_at = 0, failing_since = NULL"
        " WHERE table_id = ?",
        (table.id,),
    )
    return tuple(sorted(user for (user,) in rows))


def _forget_origins(connection: sqlite3.Connection, table: Table) -> None:
    """Forget the progress of origins that are over: the file has a newer one, and nothing of them
    waits."""
    current = newest(connection) >> ORIGIN_SHIFT
    there = {segment.first >> ORIGIN_SHIFT for segment in segments_of(connection, table)}
    for origin in progress_of(connection, table.id):
        if origin >= current or origin in there:
            continue
        connection.execute(
            "DELETE FROM hot_progress WHERE table_id = ? AND origin = ? AND NOT EXISTS"
            f" (SELECT 1 FROM {rows_of(table.id)} WHERE version > ? AND version < ?)",
            (table.id, origin, origin << ORIGIN_SHIFT, (origin + 1) << ORIGIN_SHIFT),
        )


def _cut(connection: sqlite3.Connection, table: Table, chosen: Range, max_bytes: int) -> int:
    """Up to which version some `max_bytes` are, at least one change."""
    left, low = max_bytes, chosen.after
    for segment in segments_of(connection, table):
        slices = list(chosen.slices(segment))
        if not slices or segment.last <= low:
            continue
        size = _bytes(connection, table, low, segment.first - 1)
        if size > left:
            return _within(connection, table, low, left)
        left -= size
        each = max(1, segment.bytes // segment.rows)
        for part, start, count in slices:
            first = part.first + start
            if count * each > left:
                fit = left // each
                if fit == 0 and left < max_bytes:
                    return first - 1
                return first + max(fit, 1) - 1
            left -= count * each
        low = segment.last
    if _bytes(connection, table, low, chosen.up_to) > left:
        return _within(connection, table, low, left)
    return chosen.up_to


def _bytes(connection: sqlite3.Connection, table: Table, low: int, high: int) -> int:
    (size,) = connection.execute(
        f"SELECT coalesce(sum(bytes), 0) FROM {rows_of(table.id)} WHERE version > ? AND version <= ?",
        (low, high),
    ).fetchone()
    return int(size)


def _within(connection: sqlite3.Connection, table: Table, low: int, left: int) -> int:
    """The last version with which the rows after `low` have at most `left` bytes; at least that of
    the first."""
    (up_to,) = connection.execute(
        "SELECT coalesce(max(version) FILTER (WHERE total <= ?1), min(version)) FROM (SELECT version,"
        f" sum(bytes) OVER (ORDER BY version) AS total FROM {rows_of(table.id)}"
        " WHERE version > ?2 AND version <= ?3)",
        (left, low, EVER),
    ).fetchone()
    return int(up_to)
