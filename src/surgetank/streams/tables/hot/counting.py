"""What waits of a table, counted again after changes went: rows and segments that are not acknowledged."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping

from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.progress import progress_of
from surgetank.streams.tables.hot.protocol import ORIGIN_SHIFT, Progress
from surgetank.streams.tables.hot.schema import rows_of
from surgetank.streams.tables.hot.segments import Range, Segment, segments_of

EVER = (1 << 63) - 1


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


def recount(connection: sqlite3.Connection, table: Table) -> int:
    """Count again what waits of a table, and retire segments of which nothing does. How many
    changes wait."""
    changes, size, oldest = connection.execute(
        f"SELECT count(*), coalesce(sum(bytes), 0), min(at) FROM {rows_of(table.id)}"
    ).fetchone()
    progress, skipped = progress_of(connection, table.id), skipped_of(connection, table.id)
    for segment in segments_of(connection, table):
        left = sum(waiting_of(segment, progress, skipped).values())
        if not left:
            retire(connection, table.id, segment)
            continue
        changes += left
        size += segment.bytes  # the file is there until its last row is gone
        oldest = segment.at if oldest is None else min(oldest, segment.at)
    connection.execute(
        "UPDATE hot_tables SET changes = ?, bytes = ?, oldest_at = ?,"
        " parked = (SELECT count(*) FROM hot_parked p WHERE p.table_id = hot_tables.table_id)"
        " WHERE table_id = ?",
        (changes, size, oldest, table.id),
    )
    total(connection)
    return int(changes)


def total(connection: sqlite3.Connection) -> None:
    """Count again what is in the file."""
    connection.execute(
        "UPDATE hot_tables SET"
        " changes = (SELECT coalesce(sum(changes), 0) FROM hot_tables WHERE table_id > 0),"
        " bytes = (SELECT coalesce(sum(bytes), 0) FROM hot_tables WHERE table_id > 0)"
        " + (SELECT coalesce(sum(bytes), 0) FROM hot_parked) WHERE table_id = 0"
    )


def retire(connection: sqlite3.Connection, table_id: int, segment: Segment) -> None:
    """Forget a segment. Its file goes when nobody can read it any more."""
    connection.execute("DELETE FROM hot_segments WHERE id = ?", (segment.id,))
    connection.execute("INSERT OR IGNORE INTO hot_retired (file) VALUES (?)", (segment.file,))
    connection.execute(
        "DELETE FROM hot_skipped WHERE table_id = ? AND version BETWEEN ? AND ?",
        (table_id, segment.first, segment.last),
    )
