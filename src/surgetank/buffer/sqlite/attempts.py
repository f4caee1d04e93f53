"""When partitions of the SQLite buffer that failed are tried again."""

from __future__ import annotations

from surgetank.buffer.failures import failure_json
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.leases import require
from surgetank.model import Failure, Lease

_AT_ONCE = 100  # partitions that come back without a spread


class SQLiteAttempts:
    """The role `Attempts`."""

    def __init__(self, file: BufferFile) -> None:
        self._file = file

    def postpone(
        self, lease: Lease, *, attempts: int, next_attempt_at: float, failure: Failure
    ) -> None:
        with self._file.write() as connection:
            partition_id = require(connection, lease)
            connection.execute(
                "UPDATE partitions SET attempts = ?, next_attempt_at = ?, failure = ?, owner = "
                "NULL, lease_until = 0,"
                " failing_since = coalesce(failing_since, ?) WHERE id = ?",
                (
                    attempts,
                    next_attempt_at,
                    failure_json(failure),
                    self._file.clock(),
                    partition_id,
                ),
            )

    def retry_now(
        self, stream: str | None = None, partition: str | None = None, *, spread_s: float = 0.0
    ) -> int:
        which = "next_attempt_at > 0 AND oldest_at IS NOT NULL AND (?1 IS NULL OR stream = ?1)"
        which += " AND (?2 IS NULL OR name = ?2)"
        with self._file.write() as connection:
            woken = connection.execute(
                f"UPDATE partitions SET next_attempt_at = 0 WHERE id IN (SELECT id FROM partitions "
                f"WHERE {which}"
                " ORDER BY oldest_at LIMIT ?3)",
                (stream, partition, _AT_ONCE if spread_s else -1),
            ).rowcount
            if spread_s:
                woken += connection.execute(
                    "UPDATE partitions SET next_attempt_at = min(next_attempt_at, ?3 + ?4 * "
                    "abs(random() % 99) / 99.0)"
                    f" WHERE {which}",
                    (stream, partition, self._file.clock(), spread_s),
                ).rowcount
            return woken
