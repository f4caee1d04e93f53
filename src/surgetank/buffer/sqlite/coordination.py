"""The coordination side of the SQLite buffer: attempts, parked entries, jobs; leases are in
`sqlite_leases.py`.

Every step is one short write transaction on the buffer's writing connection.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from surgetank.buffer.sqlite.audit import announce_damage, read_damage
from surgetank.buffer.sqlite.chain import isolate, let_go
from surgetank.buffer.sqlite.checks import STORED
from surgetank.buffer.sqlite.kept import oldest_mark
from surgetank.buffer.sqlite.leases import SQLiteLeaseSide
from surgetank.buffer.sqlite.rows import (
    JOB,
    PARKED,
    SLOT_BITS,
    STATE,
    failure_json,
    job_json,
    job_of,
    parked_of,
    state_of,
)
from surgetank.model import (
    Damage,
    Entry,
    Failure,
    FlushJob,
    Lease,
    ParkedEntry,
    PartitionState,
    Record,
)

_AT_ONCE = 100  # partitions that come back without a spread


class SQLiteFlushSide(SQLiteLeaseSide):
    """What a flusher does with the buffer. Mixed into `SQLiteBuffer`, which owns the
    connections."""

    _jobs_kept: int
    _notes_kept: int
    _remove_copies: Callable[[sqlite3.Connection, Iterable[int]], None]

    # -- failures

    def postpone(
        self, lease: Lease, *, attempts: int, next_attempt_at: float, failure: Failure
    ) -> None:
        with self._write() as connection:
            partition_id = self._require(connection, lease)
            connection.execute(
                "UPDATE partitions SET attempts = ?, next_attempt_at = ?, failure = ?, owner = "
                "NULL, lease_until = 0,"
                " failing_since = coalesce(failing_since, ?) WHERE id = ?",
                (attempts, next_attempt_at, failure_json(failure), self._clock(), partition_id),
            )

    def retry_now(
        self, stream: str | None = None, partition: str | None = None, *, spread_s: float = 0.0
    ) -> int:
        which = "next_attempt_at > 0 AND oldest_at IS NOT NULL AND (?1 IS NULL OR stream = ?1)"
        which += " AND (?2 IS NULL OR name = ?2)"
        with self._write() as connection:
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
                    (stream, partition, self._clock(), spread_s),
                ).rowcount
            return woken

    def park(self, lease: Lease, seq: int, failure: Failure) -> ParkedEntry:
        now = self._clock()
        low, high = seq << SLOT_BITS, (seq + 1) << SLOT_BITS
        with self._write() as connection:
            partition_id = self._require(connection, lease)
            isolate(connection, self._checker, partition_id, low, high)
            row = connection.execute(
                "SELECT sum(length(key) + length(value)), min(accepted_at), max(replays) FROM "
                "records"
                " WHERE partition_id = ? AND parked = 0 AND id >= ? AND id < ?",
                (partition_id, low, high),
            ).fetchone()
            size, accepted_at, replays = row
            if size is None:
                raise self._checker.damaged(lease.stream, lease.partition, seq, "it is not there")
            connection.execute(
                "UPDATE records SET parked = 1 WHERE id >= ? AND id < ?", (low, high)
            )
            (id_,) = connection.execute(
                "INSERT INTO parked (id, partition_id, seq, bytes, accepted_at, parked_at, "
                "failure, replays)"
                " VALUES ((SELECT parked_id FROM unparked WHERE seq = ?2), ?1, ?2, ?3, ?4, ?5, ?6, "
                "?7) RETURNING id",
                (partition_id, seq, size, accepted_at, now, failure_json(failure), replays),
            ).fetchone()
            self._count_out(connection, partition_id, 1, size)
        return ParkedEntry(
            id_,
            lease.stream,
            lease.partition,
            seq,
            size,
            accepted_at,
            now,
            failure,
            retries=replays,
        )

    # -- parked entries

    def parked(
        self, *, stream: str | None = None, partition: str | None = None
    ) -> list[ParkedEntry]:
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT {PARKED} WHERE (?1 IS NULL OR p.stream = ?1) AND (?2 IS NULL OR p.name = "
                f"?2) ORDER BY k.id",
                (stream, partition),
            ).fetchall()
        return [parked_of(row) for row in rows]

    def parked_entry(self, parked_id: int) -> Entry | None:
        with self._read() as connection:
            row = connection.execute(f"SELECT {PARKED} WHERE k.id = ?", (parked_id,)).fetchone()
            if row is None:
                return None
            seq = row[3]
            rows = connection.execute(
                f"SELECT {STORED} FROM records WHERE parked = 1 AND id >= ? AND id < ? ORDER BY id",
                (seq << SLOT_BITS, (seq + 1) << SLOT_BITS),
            ).fetchall()
            self._checker.require_entry(row[1], row[2], seq, rows)
            records = tuple(
                Record(key, value if base is None else self._load(connection, base, value))
                for _, _, _, _, _, base, key, value, _ in rows
            )
        return Entry(row[1], row[2], seq, records, row[5], replayed=row[8] > 0, epoch=rows[0][3])

    def unpark(self, parked_ids: Iterable[int]) -> list[int]:
        seqs: list[int] = []
        with self._write() as connection:
            connection.execute(  # those that arrived meanwhile, or are parked again
                "DELETE FROM unparked WHERE NOT EXISTS (SELECT 1 FROM records r"
                f" WHERE r.id >= unparked.seq << {SLOT_BITS} AND r.id < (unparked.seq + 1) << "
                f"{SLOT_BITS}"
                " AND r.parked = 0)"
            )
            for parked_id in parked_ids:
                row = connection.execute(
                    "DELETE FROM parked WHERE id = ? RETURNING partition_id, seq, bytes",
                    (parked_id,),
                ).fetchone()
                if row is None:
                    continue
                partition_id, old, size = row
                (seq,) = connection.execute(
                    "UPDATE totals SET next_seq = next_seq + 1 RETURNING next_seq - 1"
                ).fetchone()
                connection.execute(
                    "UPDATE records SET id = id + ?, epoch = ?, parked = 0, replays = replays + 1"
                    " WHERE id >= ? AND id < ?",
                    (
                        (seq - old) << SLOT_BITS,
                        self.epoch,
                        old << SLOT_BITS,
                        (old + 1) << SLOT_BITS,
                    ),
                )
                connection.execute(
                    "UPDATE partitions SET entries = entries + 1, bytes = bytes + ?, oldest_at = "
                    "coalesce(oldest_at, ?)"
                    " WHERE id = ?",
                    (size, self._clock(), partition_id),
                )
                connection.execute(
                    "INSERT INTO unparked (seq, parked_id) VALUES (?, ?)", (seq, parked_id)
                )
                seqs.append(seq)
        return seqs

    def _start_guarding(self, connection: sqlite3.Connection, partition_id: int) -> None:
        """Remove a partition's parked entries and its copy (its owner deleted the data they belong
        to); ask guards from now on.
        """
        connection.execute("UPDATE partitions SET guarded = 1 WHERE id = ?", (partition_id,))
        count, size = connection.execute(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM parked WHERE partition_id = ?",
            (partition_id,),
        ).fetchone()
        if count:
            which = "partition_id = ? AND parked = 1 AND kept = 0"
            let_go(connection, which, [(partition_id,)])
            connection.execute(f"DELETE FROM records WHERE {which}", (partition_id,))
            connection.execute("DELETE FROM parked WHERE partition_id = ?", (partition_id,))
            connection.execute(
                "UPDATE totals SET entries = entries - ?, bytes = bytes - ?", (count, size)
            )
        self._remove_copies(connection, [partition_id])

    # -- damage

    def damage(self, *, new: bool = False) -> list[Damage]:
        with self._read() as connection:
            return read_damage(connection, new=new)

    def damage_announced(self, ids: Sequence[int]) -> None:
        with self._write() as connection:
            announce_damage(connection, self._clock(), ids)

    # -- looking

    def states(
        self, stream: str | None = None, *, failing: bool = False, limit: int = 1000
    ) -> list[PartitionState]:
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT {STATE} FROM partitions WHERE oldest_at IS NOT NULL AND (?1 IS NULL OR "
                f"stream = ?1)"
                " AND (NOT ?2 OR failing_since IS NOT NULL) ORDER BY oldest_at LIMIT ?3",
                (stream, failing, limit),
            ).fetchall()
        return [state_of(row) for row in rows]

    def state(self, stream: str, partition: str) -> PartitionState | None:
        with self._read() as connection:
            row = connection.execute(
                f"SELECT {STATE} FROM partitions WHERE stream = ? AND name = ? AND oldest_at IS "
                f"NOT NULL",
                (stream, partition),
            ).fetchone()
        return state_of(row) if row else None

    def last_seq(self, stream: str, partition: str | None = None) -> int:
        with self._read() as connection:
            (last,) = connection.execute(
                "SELECT max((SELECT max(r.id) FROM records r WHERE r.partition_id = p.id AND "
                "r.parked = 0))"
                " FROM partitions p WHERE p.stream = ?1 AND p.oldest_at IS NOT NULL AND (?2 IS "
                "NULL OR p.name = ?2)",
                (stream, partition),
            ).fetchone()
        return (last or 0) >> SLOT_BITS

    def waiting(self, stream: str, *, up_to_seq: int, partition: str | None = None) -> list[str]:
        with self._read() as connection:
            rows = connection.execute(
                "SELECT p.name FROM partitions p WHERE p.stream = ?1 AND p.oldest_at IS NOT NULL"
                " AND (?2 IS NULL OR p.name = ?2)"
                " AND (SELECT min(r.id) FROM records r WHERE r.partition_id = p.id AND r.parked = "
                "0) < ?3",
                (stream, partition, (up_to_seq + 1) << SLOT_BITS),
            ).fetchall()
        return [name for (name,) in rows]

    # -- jobs

    def save_job(self, job: FlushJob) -> None:
        with self._write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO jobs (id, created_at, stream, status, body) VALUES (?, ?, "
                "?, ?, ?)",
                (job.id, job.created_at, job.stream, job.status.value, job_json(job)),
            )

    def job(self, job_id: str) -> FlushJob | None:
        with self._read() as connection:
            row = connection.execute(f"SELECT {JOB} FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return job_of(row) if row else None

    def jobs(
        self, *, limit: int = 50, stream: str | None = None, status: str | None = None
    ) -> list[FlushJob]:
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT {JOB} FROM jobs WHERE (?1 IS NULL OR stream = ?1) AND (?2 IS NULL OR "
                f"status = ?2)"
                " ORDER BY created_at DESC, id DESC LIMIT ?3",
                (stream, status, limit),
            ).fetchall()
        return [job_of(row) for row in rows]

    def _forget(self) -> None:
        """Forget expired notes, the oldest notes and jobs over their limits, and empty
        partitions."""
        now = self._clock()
        with self._read() as connection:
            (notes,) = connection.execute("SELECT count(*) FROM notes").fetchone()
            (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
            marked = oldest_mark(connection, now)
            (expired,) = connection.execute(
                "SELECT count(*) FROM notes WHERE expires_at IS NOT NULL AND expires_at <= ?",
                (now,),
            ).fetchone()
            idle = connection.execute(
                "SELECT 1 FROM partitions p WHERE oldest_at IS NULL AND lease_until < ? AND "
                "mark_at < ? AND NOT EXISTS"
                " (SELECT 1 FROM notes n WHERE n.partition_id = p.id) AND NOT EXISTS"
                " (SELECT 1 FROM kept k WHERE k.partition_id = p.id) AND NOT EXISTS"
                " (SELECT 1 FROM parked k WHERE k.partition_id = p.id) AND NOT EXISTS"
                " (SELECT 1 FROM copies c WHERE c.partition_id = p.id) LIMIT 1",
                (now, marked),
            ).fetchone()
        over_notes, over_jobs = notes - self._notes_kept, jobs - self._jobs_kept
        if not (expired or idle or over_notes > 0 or over_jobs > self._jobs_kept // 100):
            return
        with self._write() as connection:
            connection.execute(
                "DELETE FROM notes WHERE expires_at IS NOT NULL AND expires_at <= ?", (now,)
            )
            if over_notes > 0:
                connection.execute(
                    "DELETE FROM notes WHERE (partition_id, key) IN"
                    " (SELECT partition_id, key FROM notes ORDER BY noted_at LIMIT ?)",
                    (over_notes,),
                )
            if over_jobs > 0:
                connection.execute(
                    "DELETE FROM jobs WHERE id IN (SELECT id FROM jobs WHERE status <> 'running'"
                    " ORDER BY created_at LIMIT ?)",
                    (over_jobs,),
                )
            connection.execute(
                "UPDATE partitions SET guarded = 0 WHERE guarded = 1 AND oldest_at IS NULL AND NOT "
                "EXISTS (SELECT 1"
                " FROM notes n WHERE n.partition_id = partitions.id AND n.expires_at IS NOT NULL)"
            )
            connection.execute(
                "DELETE FROM partitions WHERE oldest_at IS NULL AND lease_until < ? AND mark_at < ?"
                " AND id NOT IN (SELECT partition_id FROM notes) AND id NOT IN (SELECT "
                "partition_id FROM parked)"
                " AND id NOT IN (SELECT partition_id FROM kept) AND id NOT IN (SELECT partition_id "
                "FROM copies)",
                (now, marked),
            )
