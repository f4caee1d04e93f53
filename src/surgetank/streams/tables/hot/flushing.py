"""What a flush takes, and what it acknowledges."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from surgetank.buffer.failures import failure_json
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.counting import (
    Count,
    mark,
    newest,
    newly_covered,
    oldest,
    recount_segments,
    subtract,
    tally,
    waits,
)
from surgetank.streams.tables.hot.covering import covered, remaining
from surgetank.streams.tables.hot.definitions import definition_of
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.journal import journal_rows
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
from surgetank.streams.tables.hot.reading import in_order, inserted
from surgetank.streams.tables.hot.schema import keys_of, rows_of
from surgetank.streams.tables.hot.segments import Range, segments_of

_WORTH = 4  # rows that go for each that stays, from which on it is quicker to move those that stay
_STEP = 10_000  # rows whose bytes are added up at once


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a group had of the journal, so that its acknowledgement need not count it again: all rows
    between two versions, as long as nothing else removed some (`unchanged`)."""

    after: int
    count: Count
    unchanged: int


class Flushing:
    """The side of `HotTables` that a flusher takes from."""

    def __init__(self, file: HotFile) -> None:
        self._file = file
        self._taken: dict[
            tuple[int, int, int], _Taken
        ] = {}  # by table, token of the lease, and end

    def take(
        self, lease: TableLease, *, after: int = 0, max_bytes: int = 40 * 1024**2
    ) -> tuple[pa.Table, int]:
        """See `HotTables.take`."""
        with self._file.read() as connection:
            definition, held = require(connection, lease)
            table = definition_of(definition)
            without = lease.held | set(json.loads(held or "[]"))
            low = max(after, _origin(lease) << ORIGIN_SHIFT)
            if not lease.progress.held:
                low = max(low, lease.progress.through)
            start, size = low, 0
            progress = progress_of(connection, table.id)
            while True:
                chosen = Range(low, lease.through, None, without, lease.progress)
                up_to, more = _cut(connection, table, chosen, max_bytes)
                size += more
                chosen = Range(low, up_to, None, without, lease.progress)
                single = list(
                    journal_rows(connection, table, table.columns, chosen, progress=progress)
                )
                rows = sum(part.num_rows for part in single)
                single += inserted(connection, self._file.segments, table, table.columns, chosen)
                found = in_order(table, table.columns, single, encoded=True)
                if found.num_rows or up_to >= lease.through:
                    break
                low = up_to
            if not (without or lease.progress.held):
                taken = _Taken(start, Count(rows, size, None), _unchanged(connection, table))
                self._remember(lease, up_to, taken)
            return found, up_to

    def _remember(self, lease: TableLease, up_to: int, taken: _Taken) -> None:
        for key in [key for key in self._taken if key[0] == lease.table_id]:
            if key[1] != lease.token:  # of a lease that is over
                self._taken.pop(key, None)
        self._taken[lease.table_id, lease.token, up_to] = taken

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
            tally(connection, table.id)
            before = waits(connection, table.id).changes
            gone = [
                (one.user, *each)
                for one in refused
                for each in park(connection, self._file.segments, table, one, now)
            ]
            _keep_failures(connection, table, held or {}, now)
            kept = lease.held | set(json.loads(earlier or "[]")) | set(held or {})
            if through > 0:
                taken = self._taken.pop((table.id, lease.token, through), None)
                _forget(connection, table, lease, through, kept, taken)
            recovered: tuple[str, ...] = ()
            if through >= lease.through:
                recovered = _recovered(connection, table, kept)
            connection.execute(
                "UPDATE hot_tables SET acks = acks + ?1, removals = removals + ?1, lease = ?2"
                " WHERE table_id = ?3",
                (through > 0, json.dumps(sorted(kept - lease.held)), table.id),
            )
            recount_segments(connection, table)
            left = waits(connection, table.id).changes
            _forget_origins(connection, table)
        named = {one.version for one in refused}
        behind = tuple((user, version) for user, version, _ in gone if version not in named)
        return Acked(before - left - sum(parked for *_, parked in gone), recovered, behind)


def _origin(lease: TableLease) -> int:
    return int(lease.store_id, 16)


def _unchanged(connection: sqlite3.Connection, table: Table) -> int:
    """A number that stays as long as rows go by being acknowledged only."""
    (number,) = connection.execute(
        "SELECT removals - acks FROM hot_tables WHERE table_id = ?", (table.id,)
    ).fetchone()
    return int(number)


def _forget(
    connection: sqlite3.Connection, table: Table, lease: TableLease, through: int, kept: Collection[str],
    taken: _Taken | None,
) -> None:  # fmt: skip
    origin, every = _origin(lease), progress_of(connection, table.id)
    before = every.get(origin, Progress())
    after = every[origin] = before.advanced(through, kept)
    keep_progress(connection, table.id, origin, after)
    if (
        taken is not None
        and not (before.held or after.held)
        and taken.after == max(before.through, origin << ORIGIN_SHIFT)
        and taken.unchanged == _unchanged(connection, table)
    ):
        gone = taken.count
    else:
        gone = newly_covered(connection, table.id, origin, before, after)
    subtract(connection, table, gone, every)
    if through >= lease.through:  # until then they are covered, which costs nothing for each row
        remove_covered(connection, table.id, origin, after)


def remove_covered(
    connection: sqlite3.Connection, table_id: int, origin: int, progress: Progress
) -> None:
    """Remove what is acknowledged of an origin from the journal."""
    # Many builds of SQLite write zeros over all pages that are free now, into the log. These rows are in
    # files, and to erase a user rewrites this one without free pages: FAST clears what is written anyway.
    (secure,) = connection.execute("PRAGMA secure_delete").fetchone()
    connection.execute("PRAGMA secure_delete = FAST")
    try:
        _remove(connection, table_id, origin, progress)
    finally:
        connection.execute(f"PRAGMA secure_delete = {'FAST' if secure == 2 else int(secure)}")


def _remove(connection: sqlite3.Connection, table_id: int, origin: int, progress: Progress) -> None:
    rows, keys = rows_of(table_id), keys_of(table_id)
    last = newest(connection, table_id)
    where, values = covered(origin, progress)
    left = sum(
        connection.execute(f"SELECT count(bytes) FROM {rows} WHERE {stays}", some).fetchone()[0]
        for stays, some in remaining(origin, progress)
    )
    if not left:  # to empty a table takes no time for each row
        connection.execute(f"DELETE FROM {rows}")
    elif left * _WORTH < progress.through - max(
        oldest(connection, table_id), origin << ORIGIN_SHIFT
    ):
        stay = f"CREATE TEMP TABLE hot_kept AS SELECT * FROM {rows} WHERE NOT {where}"
        connection.execute(f"{stay} AND bytes IS NOT NULL", values)
        connection.execute(f"DELETE FROM {rows}")
        connection.execute(f"INSERT INTO {rows} SELECT * FROM hot_kept")
        connection.execute("DROP TABLE temp.hot_kept")
    else:
        gone = f"DELETE FROM {rows} WHERE {where} OR (bytes IS NULL AND version < ?)"
        connection.execute(gone, (*values, last))
    mark(connection, table_id, last)
    connection.execute(f"DELETE FROM {keys} WHERE {where}", values)
    connection.execute(
        "DELETE FROM hot_retried WHERE table_id = ? AND version > ? AND version <= ?",
        (table_id, origin << ORIGIN_SHIFT, progress.through),
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
    current = newest(connection, table.id) >> ORIGIN_SHIFT
    there = {segment.first >> ORIGIN_SHIFT for segment in segments_of(connection, table)}
    for origin in progress_of(connection, table.id):
        if origin >= current or origin in there:
            continue
        connection.execute(
            "DELETE FROM hot_progress WHERE table_id = ? AND origin = ? AND NOT EXISTS"
            f" (SELECT 1 FROM {rows_of(table.id)} WHERE version > ? AND version < ?)",
            (table.id, origin, origin << ORIGIN_SHIFT, (origin + 1) << ORIGIN_SHIFT),
        )


def _cut(
    connection: sqlite3.Connection, table: Table, chosen: Range, max_bytes: int
) -> tuple[int, int]:
    """Up to which version some `max_bytes` are, at least one change, and the bytes of single rows among
    them."""
    left, low, single = max_bytes, chosen.after, 0
    for segment in segments_of(connection, table):
        if segment.last <= low or segment.first > chosen.up_to:
            continue
        reached, size = _within(connection, table, low, segment.first - 1, left, max_bytes)
        left, single = left - size, single + size
        if reached < segment.first - 1:
            return reached, single
        each = max(1, segment.bytes // segment.rows)
        for part, start, count in chosen.slices(segment):
            first = part.first + start
            if count * each > left:
                fit = left // each
                if fit <= 0 and left < max_bytes:
                    return first - 1, single
                return first + max(fit, 1) - 1, single
            left -= count * each
        low = segment.last
    reached, size = _within(connection, table, low, chosen.up_to, left, max_bytes)
    return reached, single + size


def _within(
    connection: sqlite3.Connection, table: Table, low: int, high: int, left: int, most: int
) -> tuple[int, int]:
    """The last version, of those after `low` and up to `high`, with which rows have at most `left`
    bytes (the first of all has more), and how many they have."""
    rows, size = rows_of(table.id), 0
    while True:
        found = connection.execute(
            f"SELECT version FROM {rows} WHERE version > ? AND version <= ? LIMIT 1", (low, high)
        ).fetchone()
        if found is None:
            return high, size
        window = found[0], min(found[0] + _STEP - 1, high)
        (more,) = connection.execute(
            f"SELECT coalesce(sum(bytes), 0) FROM {rows} WHERE version BETWEEN ? AND ?", window
        ).fetchone()
        if size + more > left:
            break
        low, size = window[1], size + more
    for version, more in connection.execute(
        f"SELECT version, bytes FROM {rows} WHERE version BETWEEN ? AND ? AND bytes IS NOT NULL"
        " ORDER BY version",
        window,
    ):
        if size + more > left:
            alone = left == most and size == 0
            return (version, more) if alone else (version - 1, size)
        size += more
    raise AssertionError  # together they had more
