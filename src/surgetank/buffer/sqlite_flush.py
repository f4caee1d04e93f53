"""The coordination side of the SQLite buffer: leases, acknowledgements, attempts, parked entries, jobs.

Every step is one short write transaction on the buffer's writing connection.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any

from surgetank.buffer.protocol import NOTE_TTL_S, Ack, Due, Leased
from surgetank.buffer.sqlite_chain import MIN_BYTES, free, isolate, whole
from surgetank.buffer.sqlite_read import after
from surgetank.exceptions import LeaseLost
from surgetank.model import (
    Entry,
    Failure,
    FailureKind,
    FlushJob,
    JobStatus,
    Lease,
    ParkedEntry,
    PartitionState,
    Record,
)

_SLOT_BITS = 16
# A lease that was taken further in the future than this was taken before the clock was set back.
_CLOCK_STEP_S = 60.0
_STATE = (
    "stream, name, entries, bytes, oldest_at, attempts, next_attempt_at, failing_since, failure, owner,"
    " lease_until"
)
_PARKED = (
    "k.id, p.stream, p.name, k.seq, k.bytes, k.accepted_at, k.parked_at, k.failure, k.replays"
    " FROM parked k JOIN partitions p ON p.id = k.partition_id"
)


class SQLiteFlushSide:
    """What a flusher does with the buffer. Mixed into `SQLiteBuffer`, which owns the connections."""

    _clock: Callable[[], float]
    _jobs_kept: int
    _notes_kept: int
    _write: Callable[[], AbstractContextManager[sqlite3.Connection]]
    _read: Callable[[], AbstractContextManager[sqlite3.Connection]]
    _made_space: Callable[[], None]

    # -- leases

    def lease(self, stream: str, due: Due, *, owner: str, ttl_s: float) -> list[Leased]:
        now = self._clock()
        chosen, parameters = _due_sql(stream, due, now)
        with self._read() as connection:  # a look without the write lock: idle polling costs writers nothing
            if (
                connection.execute(f"SELECT 1 FROM partitions WHERE {chosen} LIMIT 1", parameters).fetchone()
                is None
            ):
                return []
        with self._write() as connection:
            ids = connection.execute(
                f"SELECT id FROM partitions WHERE {chosen} ORDER BY oldest_at LIMIT :limit",
                parameters,
            ).fetchall()
            (first,) = connection.execute(
                "UPDATE totals SET next_token = next_token + ? RETURNING next_token", (len(ids),)
            ).fetchone()
            first -= len(ids)
            leased = []
            for token, (id_,) in enumerate(ids, start=first):
                row = connection.execute(
                    "UPDATE partitions SET token = ?, owner = ?, leased_at = ?, lease_until = ? WHERE id = ?"
                    f" RETURNING {_STATE}",
                    (token, owner, now, now + ttl_s, id_),
                ).fetchone()
                state = _state(row)
                leased.append(Leased(Lease(stream, state.partition, token, owner, now + ttl_s), state))
        return leased

    def renew(self, leases: Sequence[Lease], *, ttl_s: float) -> list[Lease]:
        now = self._clock()
        until = now + ttl_s
        kept: list[Lease] = []
        with self._write() as connection:
            for lease in leases:
                changed = connection.execute(
                    "UPDATE partitions SET leased_at = ?, lease_until = ?"
                    " WHERE stream = ? AND name = ? AND token = ? AND lease_until > 0",
                    (now, until, lease.stream, lease.partition, lease.token),
                ).rowcount
                if changed:
                    kept.append(Lease(lease.stream, lease.partition, lease.token, lease.owner, until))
        return kept

    def release(self, leases: Sequence[Lease]) -> None:
        with self._write() as connection:
            connection.executemany(
                "UPDATE partitions SET lease_until = 0, owner = NULL WHERE stream = ? AND name = ? AND token = ?",
                [(lease.stream, lease.partition, lease.token) for lease in leases],
            )

    @staticmethod
    def _held(connection: sqlite3.Connection, lease: Lease) -> int | None:
        """The partition's id if this lease is still the newest one and was not given back."""
        row = connection.execute(
            "SELECT id FROM partitions WHERE stream = ? AND name = ? AND token = ? AND lease_until > 0",
            (lease.stream, lease.partition, lease.token),
        ).fetchone()
        return int(row[0]) if row else None

    def _require(self, connection: sqlite3.Connection, lease: Lease) -> int:
        partition_id = self._held(connection, lease)
        if partition_id is None:
            raise LeaseLost(
                f"The lease {lease.token} of {lease.stream}/{lease.partition} is no longer held by {lease.owner}.",
                remedy="nothing to do: whoever holds the partition now flushes it.",
            )
        return partition_id

    # -- reading and acknowledging

    def read(self, lease: Lease, *, after_seq: int = 0, max_entries: int, max_bytes: int) -> list[Entry]:
        with self._read() as connection:
            row = connection.execute(
                "SELECT id FROM partitions WHERE stream = ? AND name = ?", (lease.stream, lease.partition)
            ).fetchone()
            if row is None:
                return []
            rows = connection.execute(
                "SELECT id, base, key, value, accepted_at, replays FROM records WHERE partition_id = ? AND parked = 0"
                " AND id >= ? ORDER BY id",
                (row[0], (after_seq + 1) << _SLOT_BITS),
            )
            return _gather(lease, _whole_rows(connection, rows), max_entries, max_bytes)

    def ack(self, acks: Sequence[Ack]) -> list[Lease]:
        lost: list[Lease] = []
        with self._write() as connection:
            for ack in acks:
                partition_id = self._held(connection, ack.lease)
                if partition_id is None:
                    lost.append(ack.lease)
                    continue
                self._remove(connection, partition_id, ack)
        self._made_space()
        return lost

    def _remove(self, connection: sqlite3.Connection, partition_id: int, ack: Ack) -> None:
        if ack.entries:
            first, last = ack.entries[0].seq, ack.entries[-1].seq
            records = sum(len(e.records) for e in ack.entries)
            low, high = first << _SLOT_BITS, (last + 1) << _SLOT_BITS
            free(connection, partition_id, low, high)
            (size,) = connection.execute(
                "SELECT sum(length(key) + length(value)) FROM records"
                " WHERE partition_id = ? AND parked = 0 AND id >= ? AND id < ?",
                (partition_id, low, high),
            ).fetchone()
            gone = connection.execute(
                "DELETE FROM records WHERE partition_id = ? AND parked = 0 AND id >= ? AND id < ?",
                (partition_id, low, high),
            ).rowcount
            # Entries are read in order and without gaps; anything else would acknowledge what was not written.
            assert gone == records, f"acknowledged {records} records of {ack.lease.partition!r}, found {gone}"
            self._count_out(connection, partition_id, len(ack.entries), size)
            connection.execute(
                "UPDATE totals SET entries = entries - ?, bytes = bytes - ?", (len(ack.entries), size)
            )
            connection.execute(
                "UPDATE partitions SET attempts = 0, next_attempt_at = 0, failing_since = NULL, failure = NULL"
                " WHERE id = ? AND failing_since IS NOT NULL",
                (partition_id,),
            )
        for prefix in ack.forget:
            connection.execute(
                "DELETE FROM notes WHERE partition_id = ? AND key >= ? AND key < ?",
                (partition_id, prefix, after(prefix)),
            )
        connection.executemany(
            "INSERT INTO notes VALUES (?, ?, ?, ?, NULL)"
            " ON CONFLICT DO UPDATE SET value = max(value, excluded.value), noted_at = excluded.noted_at",
            [(partition_id, key, value, self._clock()) for key, value in ack.maxima.items()],
        )
        self._note(connection, partition_id, ack.passing)
        if ack.release:
            connection.execute(
                "UPDATE partitions SET lease_until = 0, owner = NULL WHERE id = ?", (partition_id,)
            )

    @staticmethod
    def _count_out(connection: sqlite3.Connection, partition_id: int, entries: int, size: int) -> None:
        row = connection.execute(
            "SELECT accepted_at FROM records WHERE partition_id = ? AND parked = 0 ORDER BY id LIMIT 1",
            (partition_id,),
        ).fetchone()
        connection.execute(
            "UPDATE partitions SET entries = entries - ?, bytes = bytes - ?, oldest_at = ? WHERE id = ?",
            (entries, size, row[0] if row else None, partition_id),
        )

    def _note(
        self, connection: sqlite3.Connection, partition_id: int, passing: Mapping[bytes, bytes]
    ) -> None:
        now = self._clock()
        connection.executemany(
            "INSERT OR REPLACE INTO notes VALUES (?, ?, ?, ?, ?)",
            [(partition_id, key, value, now, now + NOTE_TTL_S) for key, value in passing.items()],
        )

    # -- failures

    def postpone(self, lease: Lease, *, attempts: int, next_attempt_at: float, failure: Failure) -> None:
        with self._write() as connection:
            partition_id = self._require(connection, lease)
            connection.execute(
                "UPDATE partitions SET attempts = ?, next_attempt_at = ?, failure = ?, owner = NULL, lease_until = 0,"
                " failing_since = coalesce(failing_since, ?) WHERE id = ?",
                (attempts, next_attempt_at, _failure_json(failure), self._clock(), partition_id),
            )

    def retry_now(self, stream: str | None = None, partition: str | None = None) -> int:
        with self._write() as connection:
            return connection.execute(
                "UPDATE partitions SET next_attempt_at = 0 WHERE next_attempt_at > 0 AND oldest_at IS NOT NULL"
                " AND (?1 IS NULL OR stream = ?1) AND (?2 IS NULL OR name = ?2)",
                (stream, partition),
            ).rowcount

    def park(self, lease: Lease, seq: int, failure: Failure) -> ParkedEntry:
        now = self._clock()
        low, high = seq << _SLOT_BITS, (seq + 1) << _SLOT_BITS
        with self._write() as connection:
            partition_id = self._require(connection, lease)
            isolate(connection, partition_id, low, high)
            row = connection.execute(
                "SELECT sum(length(key) + length(value)), min(accepted_at), max(replays) FROM records"
                " WHERE partition_id = ? AND parked = 0 AND id >= ? AND id < ?",
                (partition_id, low, high),
            ).fetchone()
            size, accepted_at, replays = row
            assert size is not None, f"no waiting entry {seq} in {lease.partition!r}"
            connection.execute("UPDATE records SET parked = 1 WHERE id >= ? AND id < ?", (low, high))
            (id_,) = connection.execute(
                "INSERT INTO parked (partition_id, seq, bytes, accepted_at, parked_at, failure, replays)"
                " VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
                (partition_id, seq, size, accepted_at, now, _failure_json(failure), replays),
            ).fetchone()
            self._count_out(connection, partition_id, 1, size)
        return ParkedEntry(
            id_, lease.stream, lease.partition, seq, size, accepted_at, now, failure, retries=replays
        )

    # -- parked entries

    def parked(self, *, stream: str | None = None, partition: str | None = None) -> list[ParkedEntry]:
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT {_PARKED} WHERE (?1 IS NULL OR p.stream = ?1) AND (?2 IS NULL OR p.name = ?2) ORDER BY k.id",
                (stream, partition),
            ).fetchall()
        return [_parked(row) for row in rows]

    def parked_entry(self, parked_id: int) -> Entry | None:
        with self._read() as connection:
            row = connection.execute(f"SELECT {_PARKED} WHERE k.id = ?", (parked_id,)).fetchone()
            if row is None:
                return None
            seq = row[3]
            records = connection.execute(
                "SELECT key, value FROM records WHERE parked = 1 AND id >= ? AND id < ? ORDER BY id",
                (seq << _SLOT_BITS, (seq + 1) << _SLOT_BITS),
            ).fetchall()
        return Entry(row[1], row[2], seq, tuple(Record(*r) for r in records), row[5], replayed=row[8] > 0)

    def unpark(self, parked_ids: Iterable[int]) -> list[int]:
        seqs: list[int] = []
        with self._write() as connection:
            for parked_id in parked_ids:
                row = connection.execute(
                    "DELETE FROM parked WHERE id = ? RETURNING partition_id, seq, bytes", (parked_id,)
                ).fetchone()
                if row is None:
                    continue
                partition_id, old, size = row
                (seq,) = connection.execute(
                    "UPDATE totals SET next_seq = next_seq + 1 RETURNING next_seq - 1"
                ).fetchone()
                connection.execute(
                    "UPDATE records SET id = id + ?, parked = 0, replays = replays + 1 WHERE id >= ? AND id < ?",
                    ((seq - old) << _SLOT_BITS, old << _SLOT_BITS, (old + 1) << _SLOT_BITS),
                )
                connection.execute(
                    "UPDATE partitions SET entries = entries + 1, bytes = bytes + ?, oldest_at = coalesce(oldest_at, ?)"
                    " WHERE id = ?",
                    (size, self._clock(), partition_id),
                )
                seqs.append(seq)
        return seqs

    @staticmethod
    def _start_guarding(connection: sqlite3.Connection, partition_id: int) -> None:
        """Remove a partition's parked entries (its owner deleted the data they belong to); ask guards from now on."""
        connection.execute("UPDATE partitions SET guarded = 1 WHERE id = ?", (partition_id,))
        count, size = connection.execute(
            "SELECT count(*), coalesce(sum(bytes), 0) FROM parked WHERE partition_id = ?", (partition_id,)
        ).fetchone()
        if count:
            connection.execute("DELETE FROM records WHERE partition_id = ? AND parked = 1", (partition_id,))
            connection.execute("DELETE FROM parked WHERE partition_id = ?", (partition_id,))
            connection.execute("UPDATE totals SET entries = entries - ?, bytes = bytes - ?", (count, size))

    # -- looking

    def states(
        self, stream: str | None = None, *, failing: bool = False, limit: int = 1000
    ) -> list[PartitionState]:
        with self._read() as connection:
            rows = connection.execute(
                f"SELECT {_STATE} FROM partitions WHERE oldest_at IS NOT NULL AND (?1 IS NULL OR stream = ?1)"
                " AND (NOT ?2 OR failing_since IS NOT NULL) ORDER BY oldest_at LIMIT ?3",
                (stream, failing, limit),
            ).fetchall()
        return [_state(row) for row in rows]

    def state(self, stream: str, partition: str) -> PartitionState | None:
        with self._read() as connection:
            row = connection.execute(
                f"SELECT {_STATE} FROM partitions WHERE stream = ? AND name = ? AND oldest_at IS NOT NULL",
                (stream, partition),
            ).fetchone()
        return _state(row) if row else None

    def last_seq(self, stream: str, partition: str | None = None) -> int:
        with self._read() as connection:
            (last,) = connection.execute(
                "SELECT max((SELECT max(r.id) FROM records r WHERE r.partition_id = p.id AND r.parked = 0))"
                " FROM partitions p WHERE p.stream = ?1 AND p.oldest_at IS NOT NULL AND (?2 IS NULL OR p.name = ?2)",
                (stream, partition),
            ).fetchone()
        return (last or 0) >> _SLOT_BITS

    def waiting(self, stream: str, *, up_to_seq: int, partition: str | None = None) -> list[str]:
        with self._read() as connection:
            rows = connection.execute(
                "SELECT p.name FROM partitions p WHERE p.stream = ?1 AND p.oldest_at IS NOT NULL"
                " AND (?2 IS NULL OR p.name = ?2)"
                " AND (SELECT min(r.id) FROM records r WHERE r.partition_id = p.id AND r.parked = 0) < ?3",
                (stream, partition, (up_to_seq + 1) << _SLOT_BITS),
            ).fetchall()
        return [name for (name,) in rows]

    # -- jobs

    def save_job(self, job: FlushJob) -> None:
        body = json.dumps({**asdict(job), "result": dict(job.result)})
        with self._write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?)",
                (job.id, job.created_at, job.stream, job.status.value, body),
            )

    def job(self, job_id: str) -> FlushJob | None:
        with self._read() as connection:
            row = connection.execute("SELECT body FROM jobs WHERE id = ?", (job_id,)).fetchone()
        return _job(row[0]) if row else None

    def jobs(
        self, *, limit: int = 50, stream: str | None = None, status: str | None = None
    ) -> list[FlushJob]:
        with self._read() as connection:
            rows = connection.execute(
                "SELECT body FROM jobs WHERE (?1 IS NULL OR stream = ?1) AND (?2 IS NULL OR status = ?2)"
                " ORDER BY created_at DESC, id DESC LIMIT ?3",
                (stream, status, limit),
            ).fetchall()
        return [_job(body) for (body,) in rows]

    def _forget(self) -> None:
        """Forget expired notes, the oldest notes and jobs over their limits, and empty partitions."""
        now = self._clock()
        with self._read() as connection:
            (notes,) = connection.execute("SELECT count(*) FROM notes").fetchone()
            (jobs,) = connection.execute("SELECT count(*) FROM jobs").fetchone()
            (expired,) = connection.execute(
                "SELECT count(*) FROM notes WHERE expires_at IS NOT NULL AND expires_at <= ?", (now,)
            ).fetchone()
            idle = connection.execute(
                "SELECT 1 FROM partitions p WHERE oldest_at IS NULL AND lease_until < ? AND NOT EXISTS"
                " (SELECT 1 FROM notes n WHERE n.partition_id = p.id) AND NOT EXISTS"
                " (SELECT 1 FROM parked k WHERE k.partition_id = p.id) LIMIT 1",
                (now,),
            ).fetchone()
        over_notes, over_jobs = notes - self._notes_kept, jobs - self._jobs_kept
        if not (expired or idle or over_notes > 0 or over_jobs > self._jobs_kept // 100):
            return
        with self._write() as connection:
            connection.execute("DELETE FROM notes WHERE expires_at IS NOT NULL AND expires_at <= ?", (now,))
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
                "UPDATE partitions SET guarded = 0 WHERE guarded = 1 AND oldest_at IS NULL AND NOT EXISTS (SELECT 1"
                " FROM notes n WHERE n.partition_id = partitions.id AND n.expires_at IS NOT NULL)"
            )
            connection.execute(
                "DELETE FROM partitions WHERE oldest_at IS NULL AND lease_until < ?"
                " AND id NOT IN (SELECT partition_id FROM notes) AND id NOT IN (SELECT partition_id FROM parked)",
                (now,),
            )


def _due_sql(stream: str, due: Due, now: float) -> tuple[str, dict[str, object]]:
    clauses = [
        "stream = :stream",
        "oldest_at IS NOT NULL",
        "(lease_until <= :now OR leased_at > :now + :clock_step)",
    ]
    parameters: dict[str, object] = {
        "stream": stream, "now": now, "clock_step": _CLOCK_STEP_S, "limit": due.limit,
    }  # fmt: skip
    if due.partition is not None:
        clauses.append("name = :partition")
        parameters["partition"] = due.partition
    if not due.force:
        clauses.append("(next_attempt_at <= :now OR next_attempt_at > :attempt_horizon)")
        clauses.append(
            "(entries >= :entries OR bytes >= :bytes OR oldest_at <= :old OR oldest_at > :now + 1)"
        )
        parameters |= {
            "attempt_horizon": now + due.max_horizon_s, "entries": due.entries, "bytes": due.bytes,
            "old": now - due.age_s,
        }  # fmt: skip
    return " AND ".join(clauses), parameters


def _whole_rows(connection: sqlite3.Connection, rows: sqlite3.Cursor) -> Iterator[tuple[Any, ...]]:
    """The rows with their values whole; each is mostly the difference from one that was just made."""
    made: dict[int, bytes] = {}
    for id_, base, key, value, *rest in rows:
        kept = value if base is None else whole(connection, base, value, made.get)
        if len(kept) >= MIN_BYTES:
            made[id_] = kept
        yield id_, key, kept, *rest


def _gather(lease: Lease, rows: Iterable[tuple[Any, ...]], max_entries: int, max_bytes: int) -> list[Entry]:
    entries: list[Entry] = []
    records: list[Record] = []
    current, taken = -1, 0
    accepted, replayed = 0.0, False
    for id_, key, value, accepted_at, replays in rows:
        seq = id_ >> _SLOT_BITS
        if seq != current:
            if records:
                entries.append(
                    Entry(lease.stream, lease.partition, current, tuple(records), accepted, replayed)
                )
            if entries and (len(entries) >= max_entries or taken >= max_bytes):
                return entries
            current, records, accepted, replayed = seq, [], accepted_at, replays > 0
        records.append(Record(key, value))
        taken += len(key) + len(value)
    if records:
        entries.append(Entry(lease.stream, lease.partition, current, tuple(records), accepted, replayed))
    return entries


def _state(row: tuple[Any, ...]) -> PartitionState:
    stream, name, entries, size, oldest, attempts, next_at, since, failure, owner, until = row
    return PartitionState(
        stream, name, entries, size, oldest or 0.0, attempts, next_at, since,
        _failure(failure) if failure else None, owner, until,
    )  # fmt: skip


def _parked(row: tuple[Any, ...]) -> ParkedEntry:
    id_, stream, partition, seq, size, accepted_at, parked_at, failure, replays = row
    return ParkedEntry(
        id_, stream, partition, seq, size, accepted_at, parked_at, _failure(failure), retries=replays
    )


def _failure_json(failure: Failure) -> str:
    return json.dumps(asdict(failure))


def _failure(text: str) -> Failure:
    body = json.loads(text)
    return Failure(**{**body, "kind": FailureKind(body["kind"])})


def _job(text: str) -> FlushJob:
    body = json.loads(text)
    return FlushJob(**{**body, "status": JobStatus(body["status"])})
