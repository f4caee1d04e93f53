"""Which writer a partition belongs to: the highest fence that was seen of it.

A worker that was taken for dead and goes on has an older fence than the one that took over. Its
appends are refused in the transaction in which they would be accepted.
"""

from __future__ import annotations

import sqlite3

from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.exceptions import LeaseLost

_KEPT = 200_000
_KEPT_S = 30 * 86_400.0


class SQLiteWriters:
    """`Log.raise_fence` and `Log.try_raise_fence`."""

    def __init__(self, file: BufferFile) -> None:
        self._file = file

    def raise_fence(self, stream: str, partition: str, fence: int) -> None:
        with self._file.write() as connection:
            known = newest(connection, stream, partition)
            if known > fence:
                raise outdated(partition)
            if known == fence:
                return
            connection.execute(
                "INSERT OR IGNORE INTO partitions (stream, name, entries, bytes)"
                " VALUES (?, ?, 0, 0)",
                (stream, partition),
            )
            (partition_id,) = connection.execute(
                "SELECT id FROM partitions WHERE stream = ? AND name = ?", (stream, partition)
            ).fetchone()
            keep(connection, partition_id, fence, self._file.clock())

    def try_raise_fence(self, stream: str, partition: str, fence: int) -> bool:
        return self._file.unless_held(lambda: self.raise_fence(stream, partition, fence))


def newest(connection: sqlite3.Connection, stream: str, partition: str) -> int:
    """The highest fence seen of a partition, or 0. Index of names, then primary key."""
    row = connection.execute(
        "SELECT w.fence FROM partitions p JOIN writers w ON w.partition_id = p.id"
        " WHERE p.stream = ? AND p.name = ?",
        (stream, partition),
    ).fetchone()
    return int(row[0]) if row is not None else 0


def keep(connection: sqlite3.Connection, partition_id: int, fence: int, now: float) -> None:
    """Remember the fence of a partition."""
    connection.execute(
        "INSERT OR REPLACE INTO writers (partition_id, fence, seen_at) VALUES (?, ?, ?)",
        (partition_id, fence, now),
    )


def oldest_kept(connection: sqlite3.Connection, now: float) -> float:
    """Fences seen before this moment need not be kept. Index writers_by_age."""
    row = connection.execute(
        "SELECT seen_at FROM writers ORDER BY seen_at DESC LIMIT 1 OFFSET ?", (_KEPT,)
    ).fetchone()
    return max(now - _KEPT_S, row[0] if row else float("-inf"))


def outdated(partition: str) -> LeaseLost:
    """What is raised for a writer that has an older fence."""
    return LeaseLost(
        f"{partition!r} is written by a newer run or worker; what this one wrote was not accepted.",
        remedy="nothing to do: whoever has it now goes on with it.",
    )
