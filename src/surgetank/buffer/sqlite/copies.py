"""Copies of what was acknowledged lately, in the SQLite buffer (promises: `buffer/copies.py`).

Two tables: `copies` has a row per partition (mark, bytes, when it was of use), `copied` its parts
with checksums. What the copies weigh together is counted in `totals.copied`.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence

from surgetank.buffer.coordination import Ack
from surgetank.buffer.copies import CopiesHeld, Glance, RecentLimits
from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.notes import replace_notes
from surgetank.buffer.sqlite.read import part_keys, read_parts
from surgetank.model import CopyChange

_SHARE = 4  # a copy takes at most this part of the limit
_TRIMMED = 0.9
_MANY = 500  # copies removed in one transaction
_CHOSEN = "SELECT value FROM json_each(?)"


class StoredCopy:
    """An `OldCopy` inside the acknowledging transaction."""

    def __init__(
        self, connection: sqlite3.Connection, partition_id: int, mark: bytes | None
    ) -> None:
        self._connection = connection
        self._partition_id = partition_id
        self.mark = mark

    def get(self, key: bytes) -> bytes | None:
        return (
            read_parts(self._connection, self._partition_id, [key]).get(key)
            if self.mark is not None
            else None
        )

    def keys(self, prefix: bytes) -> list[bytes]:
        return (
            part_keys(self._connection, self._partition_id, prefix) if self.mark is not None else []
        )


class CopyTables:
    """Copies, in transactions of the caller's."""

    def __init__(self, recent: RecentLimits, limits: BufferLimits) -> None:
        self.recent = recent
        self._limits = limits

    def held_and_limit(self, connection: sqlite3.Connection) -> tuple[int, int]:
        """How many bytes copies take, and how many they may take beside what waits."""
        there = ledger.totals(connection)
        return there.copied, max(
            0, min(self.recent.max_bytes, self._limits.max_bytes - there.bytes)
        )

    def change(
        self, connection: sqlite3.Connection, held: Sequence[tuple[int, Ack]], now: float
    ) -> None:
        """Ask the keepers of acknowledged entries; a partition without a keeper has no copy from
        now on."""
        written = [(id_, ack) for id_, ack in held if ack.entries]
        marks: dict[int, bytes] = dict(
            connection.execute(
                f"SELECT partition_id, mark FROM copies WHERE partition_id IN ({_CHOSEN})",
                (json.dumps([id_ for id_, _ in written]),),
            ).fetchall()
        )
        changes: list[tuple[int, CopyChange]] = []
        gone: list[int] = []
        for partition_id, ack in written:
            mark = marks.get(partition_id)
            change = (
                ack.keep(StoredCopy(connection, partition_id, mark))
                if ack.keep is not None
                else None
            )
            if change is not None and self.recent.max_bytes and not self.too_large(change):
                changes.append((partition_id, change))
            elif mark is not None:
                gone.append(partition_id)
        self.remove(connection, gone)
        self.store(connection, changes, marks, now)
        if changes:
            self.make_room(connection)

    def too_large(self, change: CopyChange) -> bool:
        """Whether a copy would take too much of the space for all."""
        return change.grown > self.recent.max_bytes // _SHARE

    def store(
        self,
        connection: sqlite3.Connection,
        changes: Sequence[tuple[int, CopyChange]],
        marks: Mapping[int, bytes],
        now: float,
    ) -> None:
        """Keep these changes; `marks` are those of the copies that there are."""
        cleared = [id_ for id_, change in changes if change.clear and id_ in marks]
        self.remove(connection, cleared)
        known = marks.keys() - cleared
        connection.executemany(
            "DELETE FROM copied WHERE partition_id = ? AND key = ?",
            [(id_, key) for id_, change in changes if id_ in known for key in change.drop],
        )
        connection.executemany(
            "INSERT OR REPLACE INTO copied (partition_id, key, crc, value) VALUES (?, ?, ?, ?)",
            [
                (id_, key, zlib.crc32(value), value)
                for id_, change in changes
                for key, value in change.put.items()
            ],
        )
        connection.executemany(
            "INSERT INTO copies (partition_id, mark, bytes, used_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET mark = excluded.mark, bytes = bytes + excluded.bytes,"
            " used_at = excluded.used_at",
            [(id_, change.mark, change.grown, now) for id_, change in changes],
        )
        if changes:
            grown = sum(change.grown for _, change in changes)
            ledger.copied(connection, grown)

    @staticmethod
    def remove(connection: sqlite3.Connection, partition_ids: Iterable[int]) -> None:
        """Remove the copies of these partitions."""
        ids = list(partition_ids)
        if not ids:
            return
        ledger.copied(connection, -_bytes_of(connection, json.dumps(ids)))
        for table in ("copied", "copies"):
            connection.executemany(
                f"DELETE FROM {table} WHERE partition_id = ?", [(id_,) for id_ in ids]
            )

    def make_room(self, connection: sqlite3.Connection) -> None:
        """Remove the copies that were of use longest ago while they take more than they may."""
        copied, limit = self.held_and_limit(connection)
        if copied <= limit:
            return
        over = copied - int(limit * _TRIMMED)
        ids: list[int] = []
        for partition_id, size in connection.execute(
            "SELECT partition_id, bytes FROM copies ORDER BY used_at LIMIT ?", (_MANY,)
        ):
            ids.append(partition_id)
            over -= size
            if over <= 0:
                break
        self.remove(connection, ids)


class SQLiteCopies:
    """The role `CopyStore`."""

    def __init__(self, file: BufferFile, tables: CopyTables) -> None:
        self._file = file
        self._tables = tables

    def keep_copy(
        self,
        stream: str,
        partition: str,
        seen: Glance,
        change: CopyChange,
        *,
        notes: Mapping[bytes, bytes],
    ) -> bool:
        if self._tables.too_large(change):
            return False
        now = self._file.clock()
        with self._file.write() as connection:
            connection.execute(
                "INSERT INTO partitions (stream, name, entries, bytes) VALUES (?, ?, 0, 0)"
                " ON CONFLICT (stream, name) DO NOTHING",
                (stream, partition),
            )
            partition_id, token, mark, busy = connection.execute(
                "SELECT p.id, p.token, c.mark, "
                " EXISTS (SELECT 1 FROM records r WHERE r.partition_id = p.id AND r.kept = 0)"
                " FROM partitions p LEFT JOIN copies c ON c.partition_id = p.id WHERE p.stream = ? "
                "AND p.name = ?",
                (stream, partition),
            ).fetchone()
            if busy or token != seen.version or mark != seen.mark:
                return False
            known = {partition_id: mark} if mark is not None else {}
            self._tables.store(connection, [(partition_id, change)], known, now)
            replace_notes(connection, partition_id, notes, now)
            self._tables.make_room(connection)
        return True

    def use_copy(self, stream: str, partition: str) -> None:
        with self._file.write() as connection:
            connection.execute(
                "UPDATE copies SET used_at = ? WHERE partition_id ="
                " (SELECT id FROM partitions WHERE stream = ? AND name = ?)",
                (self._file.clock(), stream, partition),
            )

    def drop_copies(self, stream: str, stale: Mapping[str, bytes | None]) -> int:
        if not stale:
            return 0
        with self._file.write() as connection:
            ids = [
                id_
                for partition, mark in stale.items()
                for (id_,) in connection.execute(
                    "SELECT p.id FROM partitions p JOIN copies c ON c.partition_id = p.id"
                    " WHERE p.stream = ?1 AND p.name = ?2 AND (?3 IS NULL OR c.mark = ?3)",
                    (stream, partition, mark),
                )
            ]
            self._tables.remove(connection, ids)
        return len(ids)

    def copies(self, stream: str, *, after: str = "", limit: int = 1000) -> list[tuple[str, bytes]]:
        with self._file.read() as connection:
            return connection.execute(
                "SELECT p.name, c.mark FROM partitions p JOIN copies c ON c.partition_id = p.id"
                " WHERE p.stream = ? AND p.name > ? ORDER BY p.name LIMIT ?",
                (stream, after, limit),
            ).fetchall()

    def copies_held(self) -> CopiesHeld:
        with self._file.read() as connection:
            (count,) = connection.execute("SELECT count(*) FROM copies").fetchone()
            size = ledger.totals(connection).copied
        return CopiesHeld(count, size)

    def trim_copies(self) -> None:
        now = self._file.clock()
        # Also what was used in the future: the clock was set back since.
        old = "SELECT partition_id FROM copies WHERE used_at < ? OR used_at > ? LIMIT ?"
        outside = (now - self._tables.recent.max_age_s, now + self._tables.recent.max_age_s, _MANY)
        while True:
            with self._file.read() as connection:
                copied, limit = self._tables.held_and_limit(connection)
                aged = connection.execute(old, outside).fetchone() is not None
            if not copied or not (aged or copied > limit):
                return
            with self._file.write() as connection:
                self._tables.remove(
                    connection, [id_ for (id_,) in connection.execute(old, outside)]
                )
                self._tables.make_room(connection)

    def shed_copies(self) -> bool:
        with self._file.read() as connection:
            if connection.execute("SELECT 1 FROM copies LIMIT 1").fetchone() is None:
                return False
        with self._file.write() as connection:
            connection.execute("DELETE FROM copied")
            connection.execute("DELETE FROM copies")
            ledger.no_copies(connection)
        return True


def _bytes_of(connection: sqlite3.Connection, ids: str) -> int:
    (size,) = connection.execute(
        f"SELECT coalesce(sum(bytes), 0) FROM copies WHERE partition_id IN ({_CHOSEN})", (ids,)
    ).fetchone()
    return int(size)
