"""What waits in the SQLite buffer, as of now."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace

from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.ids import first_id, seq_of
from surgetank.buffer.sqlite.read import read_depth
from surgetank.buffer.sqlite.rows import FAILURE_GROUP, STATE, failure_group_of, state_of
from surgetank.model import BufferDepth, FailureGroup, PartitionState


class SQLiteBacklog:
    """The role `Backlog`."""

    def __init__(self, file: BufferFile, limits: BufferLimits) -> None:
        self._file = file
        self._limits = limits

    def states(
        self, stream: str | None = None, *, failing: bool = False, limit: int = 1000
    ) -> list[PartitionState]:
        with self._file.read() as connection:
            rows = connection.execute(
                f"SELECT {STATE} FROM partitions WHERE oldest_at IS NOT NULL"
                " AND (?1 IS NULL OR stream = ?1) AND (NOT ?2 OR failing_since IS NOT NULL)"
                " ORDER BY oldest_at LIMIT ?3",
                (stream, failing, limit),
            ).fetchall()
        return [state_of(row) for row in rows]

    def failures(self, *, limit: int = 1000) -> list[FailureGroup]:
        with self._file.read() as connection:
            rows = connection.execute(
                f"SELECT {FAILURE_GROUP} FROM partitions WHERE oldest_at IS NOT NULL"
                " AND failing_since IS NOT NULL AND failure IS NOT NULL"
                " GROUP BY stream, failure ORDER BY count(*) DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [failure_group_of(row) for row in rows]

    def state(self, stream: str, partition: str) -> PartitionState | None:
        with self._file.read() as connection:
            row = connection.execute(
                f"SELECT {STATE} FROM partitions"
                " WHERE stream = ? AND name = ? AND oldest_at IS NOT NULL",
                (stream, partition),
            ).fetchone()
        return state_of(row) if row else None

    def last_seq(self, stream: str, partition: str | None = None) -> int:
        with self._file.read() as connection:
            (last,) = connection.execute(
                "SELECT max((SELECT max(r.id) FROM records r"
                " WHERE r.partition_id = p.id AND r.parked = 0)) FROM partitions p"
                " WHERE p.stream = ?1 AND p.oldest_at IS NOT NULL AND (?2 IS NULL OR p.name = ?2)",
                (stream, partition),
            ).fetchone()
        return seq_of(last or 0)

    def waiting(self, stream: str, *, up_to_seq: int, partition: str | None = None) -> list[str]:
        with self._file.read() as connection:
            rows = connection.execute(
                "SELECT p.name FROM partitions p WHERE p.stream = ?1 AND p.oldest_at IS NOT NULL"
                " AND (?2 IS NULL OR p.name = ?2) AND (SELECT min(r.id) FROM records r"
                " WHERE r.partition_id = p.id AND r.parked = 0) < ?3",
                (stream, partition, first_id(up_to_seq + 1)),
            ).fetchall()
        return [name for (name,) in rows]

    def first_waiting(self, stream: str, partitions: Iterable[str]) -> dict[str, int]:
        with self._file.read() as connection:
            rows = connection.execute(
                "SELECT p.name, CASE WHEN p.id IN (SELECT partition_id FROM parked) THEN 0 ELSE"
                " (SELECT min(r.id) FROM records r WHERE r.partition_id = p.id AND r.parked = 0) END"
                " FROM json_each(?2) j CROSS JOIN partitions p ON p.stream = ?1 AND p.name = j.value"
                " WHERE p.oldest_at IS NOT NULL OR p.id IN (SELECT partition_id FROM parked)",
                (stream, json.dumps(list(partitions))),
            ).fetchall()
        return {name: seq_of(first) for name, first in rows if first is not None}

    def depth(self) -> BufferDepth:
        file, limits = self._file, self._limits
        with file.read() as connection:
            depth = read_depth(
                connection, limits.max_entries, limits.max_bytes, file.bytes_on_disk()
            )
        if not file.reserve.size:
            return depth
        return replace(
            depth,
            max_bytes=max(1, min(depth.max_bytes, depth.bytes + file.reserve.room())),
            disk_free=file.reserve.free(), disk_full=file.reserve.is_short(),
        )  # fmt: skip

    def fill(self) -> float:
        """How full the buffer is by its bytes, 1.0 being its limit."""
        with self._file.read() as connection:
            size = ledger.totals(connection).bytes
        return float(size / max(1, min(self._limits.max_bytes, size + self._file.reserve.room())))
