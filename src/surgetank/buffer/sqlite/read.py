"""Lookups in the SQLite buffer: what is hot, by key, in one consistent moment."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from surgetank.buffer.copies import Glance
from surgetank.buffer.log import Found
from surgetank.buffer.sqlite.chain import Load, Recall, full_value
from surgetank.buffer.sqlite.checks import STORED, Checker, names_sum
from surgetank.buffer.sqlite.ids import first_id, seq_of
from surgetank.buffer.tallies import Tally
from surgetank.exceptions import BufferCorrupt
from surgetank.model import BufferDepth, StreamDepth

_OTHERS = STORED.removeprefix("id, ")
_CHUNK = 500  # keys per statement
_USE_EVERY_S = 600.0  # that a copy is of use is noted again after so long


# Is shown a partition that is read: connection, stream, name, id (None: it has none). Raises for a
# damaged one.
Audit = Callable[[sqlite3.Connection, str, str, int | None], None]
_LAST_KEY = b"\xff" * 65536  # larger than any key of a sane length


def after(prefix: bytes) -> bytes:
    """The smallest key that is larger than every key with this prefix."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else _LAST_KEY


class SQLiteSnapshot:
    """A `Snapshot` over one read transaction."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        now: float,
        checker: Checker,
        recall: Recall,
        load: Load,
        audit: Audit | None = None,
    ) -> None:
        self._connection = connection
        self._now = now
        self._checker = checker
        self._recall = recall
        self._load = load
        self._audit = audit
        self._id: tuple[str, str, int | None] | None = None
        self._names = 0  # of the partition that was asked for last

    def _partition(self, stream: str, partition: str) -> int | None:
        if self._id is None or self._id[:2] != (stream, partition):
            row = self._connection.execute(
                "SELECT id FROM partitions WHERE stream = ? AND name = ?", (stream, partition)
            ).fetchone()
            if self._audit is not None:
                self._audit(self._connection, stream, partition, row[0] if row else None)
            self._id = (stream, partition, row[0] if row else None)
            self._names = names_sum(stream, partition)
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
                f"SELECT max(id), {_OTHERS} FROM records WHERE partition_id = ? AND kept = 0 AND "
                f"key IN ({marks})"
                " GROUP BY key",
                (partition_id, *chunk),
            ):
                found[row[6]] = self._found(row)
        return found

    def scan(
        self,
        stream: str,
        partition: str,
        prefix: bytes,
        *,
        keys_only: bool = False,
        after_seq: int = 0,
    ) -> list[Found]:
        partition_id = self._partition(stream, partition)
        if partition_id is None:
            return []
        where = "WHERE partition_id = ? AND key >= ? AND key < ? AND id >= ? AND kept = 0 ORDER BY key, id"
        which = (partition_id, prefix, after(prefix), first_id(after_seq + 1))
        if keys_only:  # whoever reads such a record then is told if it is damaged
            rows = self._connection.execute(
                f"SELECT key, id, parked, epoch FROM records {where}", which
            )
            return [
                Found(key, seq_of(id_), b"", bool(parked), epoch)
                for key, id_, parked, epoch in rows
                if not parked or self._is_sound(id_)
            ]
        return list(
            self._sound(self._connection.execute(f"SELECT {STORED} FROM records {where}", which))
        )

    def _is_sound(self, id_: int) -> bool:
        row = self._connection.execute(
            f"SELECT {STORED} FROM records WHERE id = ?", (id_,)
        ).fetchone()
        try:
            self._check(row)
        except BufferCorrupt:
            return False
        return True

    def last(
        self, stream: str, partition: str, prefix: bytes, *, after_seq: int = 0
    ) -> Found | None:
        partition_id = self._partition(stream, partition)
        if partition_id is None:
            return None
        rows = self._connection.execute(
            f"SELECT {STORED} FROM records WHERE partition_id = ? AND key >= ? AND key < ?"
            " AND id >= ? AND kept = 0 ORDER BY key DESC, id DESC",
            (partition_id, prefix, after(prefix), first_id(after_seq + 1)),
        )
        try:
            return next(self._sound(rows), None)
        finally:
            rows.close()

    def _sound(self, rows: Iterable[Sequence[Any]]) -> Iterator[Found]:
        """What is as it was accepted. A parked record that isn't was set aside for that, and told;
        asked for by its key, it is told again.
        """
        for row in rows:
            try:
                yield self._found(row)
            except BufferCorrupt:
                if not row[1]:
                    raise

    def _found(self, row: Sequence[Any]) -> Found:
        id_, parked, _, epoch, _, base, key, value, _ = row
        known = self._recall(id_) if base is not None else None
        if known is not None:
            value = known
        else:
            self._check(row)
            if base is not None:
                value = (
                    self._load(self._connection, base, value)
                    if base < 0
                    else full_value(self._connection, base, value, self._recall, self._check)
                )
        return Found(key, seq_of(id_), value, bool(parked), epoch)

    def _check(self, row: Sequence[Any]) -> None:
        assert self._id is not None
        self._checker.require(self._id[0], self._id[1], self._names, row)

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

    def tallies(self, stream: str) -> list[Tally]:
        rows = self._connection.execute(
            "SELECT partition, key, value, count FROM tallies WHERE stream = ? ORDER BY partition, "
            "key",
            (stream,),
        )
        return [Tally(*row) for row in rows]

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
        "SELECT c.mark, c.used_at, p.token FROM partitions p LEFT JOIN copies c ON c.partition_id "
        "= p.id"
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
            "SELECT p.stream, count(*) FROM parked k JOIN partitions p ON p.id = k.partition_id "
            "GROUP BY p.stream"
        ).fetchall()
    )
    rows = connection.execute(
        "SELECT stream, sum(entries), sum(bytes), count(oldest_at), min(oldest_at),"
        " sum(failing_since IS NOT NULL AND oldest_at IS NOT NULL) FROM partitions GROUP BY stream "
        "ORDER BY stream"
    )
    streams = tuple(
        StreamDepth(
            stream=stream,
            entries=int(n or 0),
            bytes=int(size or 0),
            partitions=count,
            oldest_at=oldest,
            failing=int(failing or 0),
            parked=parked.get(stream, 0),
        )
        for stream, n, size, count, oldest, failing in rows
    )
    return BufferDepth(
        entries=entries,
        bytes=total,
        max_entries=max_entries,
        max_bytes=max_bytes,
        streams=streams,
        file_bytes=file_bytes,
    )
