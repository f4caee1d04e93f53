"""Lookups in the SQLite buffer: what is hot, by key, in one consistent moment."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Sequence

from surgetank.buffer.protocol import Found
from surgetank.buffer.recent import Glance
from surgetank.buffer.sqlite_chain import Load, Recall, whole
from surgetank.model import BufferDepth, StreamDepth

_SLOT_BITS = 16
_CHUNK = 500  # keys per statement
_USE_EVERY_S = 600.0  # that a copy is of use is noted again after so long


_LAST_KEY = b"\xff" * 65536  # larger than any key of a sane length


def after(prefix: bytes) -> bytes:
    """The smallest key that is larger than every key with this prefix."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else _LAST_KEY


class SQLiteSnapshot:
    """A `Snapshot` over one read transaction."""

    def __init__(self, connection: sqlite3.Connection, now: float, recall: Recall, load: Load) -> None:
        self._connection = connection
        self._now = now
        self._recall = recall
        self._load = load
        self._id: tuple[str, str, int | None] | None = None

    def _partition(self, stream: str, partition: str) -> int | None:
        if self._id is None or self._id[:2] != (stream, partition):
            row = self._connection.execute(
                "SELECT id FROM partitions WHERE stream = ? AND name = ?", (stream, partition)
            ).fetchone()
            self._id = (stream, partition, row[0] if row else None)
        return self._id[2]

    def latest(self, stream: str, partition: str, keys: Sequence[bytes]) -> dict[bytes, Found]:
        partition_id = self._partition(stream, partition)
        found: dict[bytes, Found] = {}
        if partition_id is None:
            return found
        for start in range(0, len(keys), _CHUNK):
            chunk = keys[start : start + _CHUNK]
            marks = ",".join("?" * len(chunk))
            for row in self._connection.execute(
                f"SELECT key, max(id), parked, epoch, base, value FROM records WHERE partition_id = ? AND kept = 0"
                f" AND key IN ({marks}) GROUP BY key",
                (partition_id, *chunk),
            ):
                found[row[0]] = self._found(row)
        return found

    def scan(
        self, stream: str, partition: str, prefix: bytes, *, keys_only: bool = False, after_seq: int = 0
    ) -> list[Found]:
        partition_id = self._partition(stream, partition)
        if partition_id is None:
            return []
        value = "NULL, x''" if keys_only else "base, value"
        rows = self._connection.execute(
            f"SELECT key, id, parked, epoch, {value} FROM records"
            " WHERE partition_id = ? AND key >= ? AND key < ? AND id >= ? AND kept = 0 ORDER BY key, id",
            (partition_id, prefix, after(prefix), (after_seq + 1) << _SLOT_BITS),
        )
        return [self._found(row) for row in rows]

    def last(self, stream: str, partition: str, prefix: bytes, *, after_seq: int = 0) -> Found | None:
        partition_id = self._partition(stream, partition)
        if partition_id is None:
            return None
        row = self._connection.execute(
            "SELECT key, id, parked, epoch, base, value FROM records WHERE partition_id = ? AND key >= ? AND key < ?"
            " AND id >= ? AND kept = 0 ORDER BY key DESC, id DESC LIMIT 1",
            (partition_id, prefix, after(prefix), (after_seq + 1) << _SLOT_BITS),
        ).fetchone()
        return self._found(row) if row else None

    def _found(self, row: tuple[bytes, int, int, int, int | None, bytes]) -> Found:
        key, id_, parked, epoch, base, value = row
        if base is not None:
            known = self._recall(id_)
            if known is not None:
                value = known
            elif base < 0:
                value = self._load(self._connection, base, value)
            else:
                value = whole(self._connection, base, value, self._recall)
        return Found(key, id_ >> _SLOT_BITS, value, bool(parked), epoch)

    def notes(self, stream: str, partition: str, prefix: bytes = b"") -> dict[bytes, bytes]:
        partition_id = self._partition(stream, partition)
        if partition_id is None:
            return {}
        return dict(
            self._connection.execute(
                "SELECT key, value FROM notes WHERE partition_id = ? AND key >= ? AND key < ?"
                " AND (expires_at IS NULL OR expires_at > ?)",
                (partition_id, prefix, after(prefix), self._now),
            ).fetchall()
        )

    def copy(self, stream: str, partition: str) -> Glance:
        return glance(self._connection, self._partition(stream, partition), self._now)

    def copied(self, stream: str, partition: str, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        partition_id = self._partition(stream, partition)
        return read_parts(self._connection, partition_id, keys) if partition_id is not None else {}

    def copied_keys(self, stream: str, partition: str, prefix: bytes) -> list[bytes]:
        partition_id = self._partition(stream, partition)
        return part_keys(self._connection, partition_id, prefix) if partition_id is not None else []

    def partitions(self, stream: str) -> list[str]:
        rows = self._connection.execute(
            "SELECT name FROM partitions WHERE stream = ?1 AND (oldest_at IS NOT NULL OR id IN"
            " (SELECT partition_id FROM parked)) ORDER BY name",
            (stream,),
        )
        return [name for (name,) in rows]


def part_keys(connection: sqlite3.Connection, partition_id: int, prefix: bytes) -> list[bytes]:
    """Keys of the parts of a copy, in order."""
    rows = connection.execute(
        "SELECT key FROM copied WHERE partition_id = ? AND key >= ? AND key < ? ORDER BY key",
        (partition_id, prefix, after(prefix)),
    )
    return [key for (key,) in rows]


def read_parts(
    connection: sqlite3.Connection, partition_id: int, keys: Sequence[bytes]
) -> dict[bytes, bytes]:
    """Parts of a copy by key; what is missing or damaged is left out."""
    found: dict[bytes, bytes] = {}
    for key in keys:
        row = connection.execute(
            "SELECT crc, value FROM copied WHERE partition_id = ? AND key = ?", (partition_id, key)
        ).fetchone()
        if row is not None and zlib.crc32(row[1]) == row[0]:
            found[key] = row[1]
    return found


def glance(connection: sqlite3.Connection, partition_id: int | None, now: float) -> Glance:
    """What is known of a partition's copy."""
    if partition_id is None:
        return Glance(None, 0)
    mark, used_at, token = connection.execute(
        "SELECT c.mark, c.used_at, p.token FROM partitions p LEFT JOIN copies c ON c.partition_id = p.id"
        " WHERE p.id = ?",
        (partition_id,),
    ).fetchone()
    return Glance(mark, token, mark is not None and not now - _USE_EVERY_S < used_at <= now)


def read_depth(
    connection: sqlite3.Connection, max_entries: int, max_bytes: int, file_bytes: int
) -> BufferDepth:
    """The counters of the whole buffer and of each stream."""
    entries, total = connection.execute("SELECT entries, bytes FROM totals").fetchone()
    parked = dict(
        connection.execute(
            "SELECT p.stream, count(*) FROM parked k JOIN partitions p ON p.id = k.partition_id GROUP BY p.stream"
        ).fetchall()
    )
    rows = connection.execute(
        "SELECT stream, sum(entries), sum(bytes), count(oldest_at), min(oldest_at),"
        " sum(failing_since IS NOT NULL AND oldest_at IS NOT NULL) FROM partitions GROUP BY stream ORDER BY stream"
    )
    streams = tuple(
        StreamDepth(
            stream, int(n or 0), int(size or 0), count, oldest, int(failing or 0), parked.get(stream, 0)
        )
        for stream, n, size, count, oldest, failing in rows
    )
    return BufferDepth(entries, total, max_entries, max_bytes, streams, file_bytes)
