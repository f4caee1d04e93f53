"""Leasing and reading partitions of the SQLite buffer, many in one transaction.

Every step is one short transaction, however many partitions it is about: ten thousand partitions
with one entry each must cost little more than one partition with ten thousand.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from surgetank.buffer.coordination import Due, Leased, ReadFrom
from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.chain import Load
from surgetank.buffer.sqlite.entries import Gathering
from surgetank.buffer.sqlite.rows import STATE, state_of
from surgetank.exceptions import EntryUnreadable, LeaseLost
from surgetank.model import Entry, Lease

_OLDEST_FIRST = "oldest_at"
_BY_TENANT = (
    "row_number() OVER (PARTITION BY tenant, next_attempt_at > :now ORDER BY oldest_at), oldest_at"
)
# A lease that was taken further in the future than this was taken before the clock was set back.
_CLOCK_STEP_S = 60.0


class SQLiteLeases:
    """The role `Leases`, but for acknowledging (`acks.py`)."""

    def __init__(self, file: BufferFile, load: Load) -> None:
        self._file = file
        self._load = load

    def lease(self, stream: str, due: Due, *, owner: str, ttl_s: float) -> list[Leased]:
        now = self._file.clock()
        chosen, parameters = _due_sql(stream, due, now)
        # a look without the write lock: idle polling costs writers nothing
        with self._file.read() as connection:
            if (
                connection.execute(
                    f"SELECT 1 FROM partitions WHERE {chosen} LIMIT 1", parameters
                ).fetchone()
                is None
            ):
                return []
        with self._file.write() as connection:
            # To number all that wait takes longer than to find the oldest: only where there are tenants.
            order = _BY_TENANT if ledger.has_tenants(connection) else _OLDEST_FIRST
            rows = connection.execute(
                f"SELECT id, entries, bytes FROM partitions WHERE {chosen}"
                f" ORDER BY next_attempt_at > :now, {order} LIMIT :limit",
                parameters,
            )
            ids: list[int] = []
            entries = size = 0
            for id_, more, bytes_ in rows:
                ids.append(id_)
                entries += min(more, due.share_entries)
                size += min(bytes_, due.share_bytes)
                if entries >= due.enough_entries or size >= due.enough_bytes:
                    break
            rows.close()
            return self.take(connection, stream, ids, now, owner, ttl_s)

    def take(
        self,
        connection: sqlite3.Connection,
        stream: str,
        ids: Sequence[int],
        now: float,
        owner: str,
        ttl_s: float,
    ) -> list[Leased]:
        """Lease these partitions."""
        self._file.auditor.compare(connection, ids)
        token = ledger.take_tokens(connection, len(ids))
        rows = connection.execute(
            "UPDATE partitions SET token = ? + choice.key, owner = ?, leased_at = ?, lease_until = "
            "?"
            f" FROM json_each(?) AS choice WHERE partitions.id = choice.value RETURNING token, "
            f"{STATE}",
            (token, owner, now, now + ttl_s, json.dumps(ids)),
        ).fetchall()
        leased = []
        for token, *row in sorted(rows, key=lambda row: row[0]):
            state = state_of(row)
            leased.append(Leased(Lease(stream, state.partition, token, owner, now + ttl_s), state))
        return leased

    def renew(self, leases: Sequence[Lease], *, ttl_s: float) -> list[Lease]:
        now = self._file.clock()
        until = now + ttl_s
        kept: list[Lease] = []
        with self._file.write() as connection:
            for lease in leases:
                changed = connection.execute(
                    "UPDATE partitions SET leased_at = ?, lease_until = ?"
                    " WHERE stream = ? AND name = ? AND token = ? AND lease_until > 0",
                    (now, until, lease.stream, lease.partition, lease.token),
                ).rowcount
                if changed:
                    kept.append(
                        Lease(lease.stream, lease.partition, lease.token, lease.owner, until)
                    )
        return kept

    def release(self, leases: Sequence[Lease]) -> None:
        with self._file.write() as connection:
            connection.executemany(
                "UPDATE partitions SET lease_until = 0, owner = NULL WHERE stream = ? AND name = ? "
                "AND token = ?",
                [(lease.stream, lease.partition, lease.token) for lease in leases],
            )

    def read(
        self, lease: Lease, *, after_seq: int = 0, max_entries: int, max_bytes: int
    ) -> list[Entry]:
        (entries,) = self.read_many(
            [ReadFrom(lease, after_seq)],
            share_entries=max_entries,
            share_bytes=max_bytes,
            max_entries=max_entries,
            max_bytes=max_bytes,
        )
        return entries

    def read_many(
        self,
        starts: Sequence[ReadFrom],
        *,
        share_entries: int,
        share_bytes: int,
        max_entries: int,
        max_bytes: int,
    ) -> list[list[Entry]]:
        batches: list[list[Entry]] = []
        entries = size = 0
        with self._file.read() as connection:
            for start in starts:
                if batches and (entries >= max_entries or size >= max_bytes):
                    break
                room = (
                    min(share_entries, max_entries - entries),
                    min(share_bytes, max_bytes - size),
                )
                gathering = Gathering(connection, self._load, self._file.checker, start)
                try:
                    gathering.read(*room)
                except EntryUnreadable as error:
                    self._file.auditor.suspect = self._file.auditor.suspect or error.malformed
                    if batches:  # those before it go on; it is the first one next time
                        break
                    raise
                batches.append(gathering.entries)
                entries += len(gathering.entries)
                size += gathering.bytes
        return batches


def held(connection: sqlite3.Connection, lease: Lease) -> int | None:
    """The partition's id if this lease is still the newest one and was not given back."""
    row = connection.execute(
        "SELECT id FROM partitions WHERE stream = ? AND name = ? AND token = ? AND lease_until > 0",
        (lease.stream, lease.partition, lease.token),
    ).fetchone()
    return int(row[0]) if row else None


def require(connection: sqlite3.Connection, lease: Lease) -> int:
    """`held`, but raises `LeaseLost`."""
    partition_id = held(connection, lease)
    if partition_id is None:
        raise LeaseLost(
            f"The lease {lease.token} of {lease.stream}/{lease.partition} is no longer held by "
            f"{lease.owner}.",
            remedy="nothing to do: whoever holds the partition now flushes it.",
        )
    return partition_id


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
    if due.partitions is not None:
        clauses.append("name IN (SELECT value FROM json_each(:partitions))")
        parameters["partitions"] = json.dumps(list(due.partitions))
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
