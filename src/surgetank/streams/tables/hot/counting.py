"""What waits of a table: counted again after changes went, and what came since it was counted last.

`tallied` is the version up to which the rows of a table are counted. What came later is at most some thousand
rows, at the end of the journal.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping
from typing import NamedTuple

from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.covering import covered, uncovered
from surgetank.streams.tables.hot.progress import progress_of
from surgetank.streams.tables.hot.protocol import ORIGIN_SHIFT, Progress
from surgetank.streams.tables.hot.schema import rows_of
from surgetank.streams.tables.hot.segments import Range, Segment, segments_of

EVER = (1 << 63) - 1


class Count(NamedTuple):
    """How much waits, and since when."""

    changes: int
    bytes: int
    oldest_at: float | None


def newest(connection: sqlite3.Connection, table_id: int) -> int:
    """The largest version that was given in a table."""
    return _version(connection, table_id, "max")


def oldest(connection: sqlite3.Connection, table_id: int) -> int:
    """The smallest version that is in the journal of a table."""
    return _version(connection, table_id, "min")


def _version(connection: sqlite3.Connection, table_id: int, which: str) -> int:
    try:
        (found,) = connection.execute(
            f"SELECT {which}(version) FROM {rows_of(table_id)}"
        ).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return 0
    return int(found or 0)


def mark(connection: sqlite3.Connection, table_id: int, version: int) -> None:
    """Remember the largest version where no row has it (any more)."""
    connection.execute(
        f"INSERT OR IGNORE INTO {rows_of(table_id)} (version) VALUES (?)", (version,)
    )


def waits(connection: sqlite3.Connection, table_id: int) -> Count:
    """How much of a table waits now: rows and segments."""
    tallied, changes, size, oldest, more, more_bytes, more_oldest, dropped = connection.execute(
        "SELECT tallied, changes, bytes, oldest_at, segment_changes, segment_bytes,"
        " segment_oldest_at, dropped FROM hot_tables WHERE table_id = ?",
        (table_id,),
    ).fetchone()
    if dropped:
        return Count(0, 0, None)
    late = _since(connection, table_id, tallied)
    since = [at for at in (oldest, more_oldest, late.oldest_at) if at is not None]
    return Count(
        changes + more + late.changes, size + more_bytes + late.bytes, min(since, default=None)
    )


def _since(connection: sqlite3.Connection, table_id: int, tallied: int) -> Count:
    return Count(
        *connection.execute(
            f"SELECT count(bytes), coalesce(sum(bytes), 0), min(at) FROM {rows_of(table_id)}"
            " WHERE version > ?",
            (tallied,),
        ).fetchone()
    )


def tally(connection: sqlite3.Connection, table_id: int) -> None:
    """Count what came since it was counted last."""
    row = connection.execute(
        "SELECT tallied FROM hot_tables WHERE table_id = ? AND dropped = 0", (table_id,)
    ).fetchone()
    if row is None:
        return
    late = _since(connection, table_id, row[0])
    connection.execute(
        "UPDATE hot_tables SET changes = changes + ?1, bytes = bytes + ?2, tallied = ?4,"
        " oldest_at = min(coalesce(oldest_at, ?3), coalesce(?3, oldest_at)) WHERE table_id = ?5",
        (*late, newest(connection, table_id), table_id),
    )


def total_bytes(connection: sqlite3.Connection) -> int:
    """What waits of all tables, parked rows too, in bytes."""
    tables = connection.execute("SELECT table_id FROM hot_tables WHERE dropped = 0").fetchall()
    (parked,) = connection.execute("SELECT coalesce(sum(bytes), 0) FROM hot_parked").fetchone()
    return int(parked) + sum(waits(connection, table_id).bytes for (table_id,) in tables)


def skipped_of(connection: sqlite3.Connection, table_id: int) -> list[int]:
    """The versions in segments that are parked, or were."""
    rows = connection.execute("SELECT version FROM hot_skipped WHERE table_id = ?", (table_id,))
    return [version for (version,) in rows]


def waiting_of(
    segment: Segment,
    progress: Mapping[int, Progress],
    skipped: Collection[int] = (),
    without: Collection[str] = (),
) -> dict[str, int]:
    """How many of a segment's rows wait, by user."""
    reached = progress.get(segment.first >> ORIGIN_SHIFT, Progress())
    counts: dict[str, int] = {}
    for part, low, size in Range(0, EVER, None, without, reached).slices(segment):
        first = part.first + low
        gone = sum(first <= version < first + size for version in skipped)
        if size > gone:
            counts[part.user] = counts.get(part.user, 0) + size - gone
    return counts


def newly_covered(
    connection: sqlite3.Connection, table_id: int, origin: int, before: Progress, after: Progress
) -> Count:
    """The rows of an origin that are covered now, and were not before."""
    now, values = covered(origin, after)
    then, more = covered(origin, before)
    # What nobody was held back of is passed over, not looked at.
    low = origin << ORIGIN_SHIFT if before.held else max(before.through, origin << ORIGIN_SHIFT)
    return Count(
        *connection.execute(
            "SELECT count(bytes), coalesce(sum(bytes), 0), NULL"
            f" FROM {rows_of(table_id)} WHERE version > ? AND {now} AND NOT {then}",
            (low, *values, *more),
        ).fetchone()
    )


def subtract(
    connection: sqlite3.Connection, table: Table, gone: Count, progress: Mapping[int, Progress]
) -> None:
    """Rows that were counted do not wait any more."""
    where, values = uncovered(progress)
    # Origins are acknowledged one after the other, so that nothing waits before the newest progress.
    held = any(each.held for each in progress.values())
    low = 0 if held else max(each.through for each in progress.values())
    (oldest,) = connection.execute(
        f"SELECT min(at) FROM (SELECT at FROM {rows_of(table.id)} WHERE version > ? AND {where}"
        " AND bytes IS NOT NULL ORDER BY version LIMIT 100)",
        (low, *values),
    ).fetchone()
    connection.execute(
        "UPDATE hot_tables SET changes = changes - ?, bytes = bytes - ?, oldest_at = ?"
        " WHERE table_id = ?",
        (gone.changes, gone.bytes, oldest, table.id),
    )


def recount_segments(connection: sqlite3.Connection, table: Table) -> None:
    """Count again what waits in segments, and what is parked; retire segments of which nothing
    waits."""
    progress, skipped = progress_of(connection, table.id), skipped_of(connection, table.id)
    changes, size, oldest = 0, 0, None
    for segment in segments_of(connection, table):
        left = sum(waiting_of(segment, progress, skipped).values())
        if not left:
            retire(connection, table.id, segment)
            continue
        changes += left
        size += segment.bytes  # the file is there until its last row is gone
        oldest = segment.at if oldest is None else min(oldest, segment.at)
    connection.execute(
        "UPDATE hot_tables SET segment_changes = ?, segment_bytes = ?, segment_oldest_at = ?,"
        " parked = (SELECT count(*) FROM hot_parked p WHERE p.table_id = hot_tables.table_id)"
        " WHERE table_id = ?",
        (changes, size, oldest, table.id),
    )


def recount(connection: sqlite3.Connection, table: Table) -> None:
    """Count all of a table again."""
    where, values = uncovered(progress_of(connection, table.id))
    count = Count(
        *connection.execute(
            "SELECT count(bytes), coalesce(sum(bytes), 0), min(at)"
            f" FROM {rows_of(table.id)} WHERE {where}",
            values,
        ).fetchone()
    )
    connection.execute(
        "UPDATE hot_tables SET changes = ?, bytes = ?, oldest_at = ?, tallied = ?,"
        " removals = removals + 1 WHERE table_id = ?",
        (*count, newest(connection, table.id), table.id),
    )
    recount_segments(connection, table)


def retire(connection: sqlite3.Connection, table_id: int, segment: Segment) -> None:
    """Forget a segment. Its file goes when nobody can read it any more."""
    connection.execute("DELETE FROM hot_segments WHERE id = ?", (segment.id,))
    connection.execute("INSERT OR IGNORE INTO hot_retired (file) VALUES (?)", (segment.file,))
    connection.execute(
        "DELETE FROM hot_skipped WHERE table_id = ? AND version BETWEEN ? AND ?",
        (table_id, segment.first, segment.last),
    )
