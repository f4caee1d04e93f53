"""Leasing, reading and acknowledging partitions of the SQLite buffer, many in one transaction.

Every step is one short transaction, however many partitions it is about: ten thousand partitions
with one entry each must cost little more than one partition with ten thousand.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from surgetank.buffer.coordination import NOTE_TTL_S, Ack, Due, Leased, ReadFrom
from surgetank.buffer.sqlite.audit import Auditor, note_damage, settle_ledgers
from surgetank.buffer.sqlite.chain import Load, free, let_go
from surgetank.buffer.sqlite.checks import REMEDY, Checker
from surgetank.buffer.sqlite.entries import Gathering
from surgetank.buffer.sqlite.kept import Acked, SQLiteKeptSide
from surgetank.buffer.sqlite.read import after
from surgetank.buffer.sqlite.reserve import DiskReserve
from surgetank.buffer.sqlite.rows import SLOT_BITS, STATE, state_of
from surgetank.encode.digest import mark_of
from surgetank.exceptions import BufferCorrupt, BufferUnavailable, EntryUnreadable, LeaseLost
from surgetank.model import Entry, Lease

# A lease that was taken further in the future than this was taken before the clock was set back.
_CLOCK_STEP_S = 60.0
_COUNT_OUT = (
    "UPDATE partitions SET entries = entries - :entries, bytes = bytes - :bytes, oldest_at = "
    "(SELECT accepted_at"
    " FROM records WHERE partition_id = :id AND parked = 0 ORDER BY id LIMIT 1)"
)
_RANGE = "partition_id = ? AND parked = 0 AND id >= ? AND id < ?"
_SPILLED = f"SELECT 1 FROM records WHERE {_RANGE} AND base < 0 LIMIT 1"
_STORED = f"SELECT sum(length(key) + length(value)) FROM records WHERE {_RANGE}"


class SQLiteLeaseSide(SQLiteKeptSide):
    """Leases and what is done under them. Mixed into `SQLiteBuffer`, which owns the connections."""

    _clock: Callable[[], float]
    _load: Load
    _checker: Checker
    _auditor: Auditor
    reserve: DiskReserve
    relieve: Callable[[], None]
    _secure_delete: int  # as this SQLite was built
    _economical: bool
    _write: Callable[[], AbstractContextManager[sqlite3.Connection]]
    _read: Callable[[], AbstractContextManager[sqlite3.Connection]]
    _made_space: Callable[[], None]
    _remove_copies: Callable[[sqlite3.Connection, Iterable[int]], None]
    _change_copies: Callable[[sqlite3.Connection, Sequence[tuple[int, Ack]]], None]

    # -- leases

    def lease(self, stream: str, due: Due, *, owner: str, ttl_s: float) -> list[Leased]:
        now = self._clock()
        chosen, parameters = _due_sql(stream, due, now)
        # a look without the write lock: idle polling costs writers nothing
        with self._read() as connection:
            if (
                connection.execute(
                    f"SELECT 1 FROM partitions WHERE {chosen} LIMIT 1", parameters
                ).fetchone()
                is None
            ):
                return []
        with self._write() as connection:
            ids = connection.execute(
                f"SELECT id FROM partitions WHERE {chosen} ORDER BY oldest_at LIMIT :limit",
                parameters,
            ).fetchall()
            return self._take(connection, stream, [id_ for (id_,) in ids], now, owner, ttl_s)

    def _take(
        self,
        connection: sqlite3.Connection,
        stream: str,
        ids: Sequence[int],
        now: float,
        owner: str,
        ttl_s: float,
    ) -> list[Leased]:
        """Lease these partitions."""
        self._auditor.compare(connection, ids)
        (next_token,) = connection.execute(
            "UPDATE totals SET next_token = next_token + ? RETURNING next_token", (len(ids),)
        ).fetchone()
        rows = connection.execute(
            "UPDATE partitions SET token = ? + choice.key, owner = ?, leased_at = ?, lease_until = "
            "?"
            f" FROM json_each(?) AS choice WHERE partitions.id = choice.value RETURNING token, "
            f"{STATE}",
            (next_token - len(ids), owner, now, now + ttl_s, json.dumps(ids)),
        ).fetchall()
        leased = []
        for token, *row in sorted(rows, key=lambda row: row[0]):
            state = state_of(row)
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
                    kept.append(
                        Lease(lease.stream, lease.partition, lease.token, lease.owner, until)
                    )
        return kept

    def release(self, leases: Sequence[Lease]) -> None:
        with self._write() as connection:
            connection.executemany(
                "UPDATE partitions SET lease_until = 0, owner = NULL WHERE stream = ? AND name = ? "
                "AND token = ?",
                [(lease.stream, lease.partition, lease.token) for lease in leases],
            )

    @staticmethod
    def _held(connection: sqlite3.Connection, lease: Lease) -> int | None:
        """The partition's id if this lease is still the newest one and was not given back."""
        row = connection.execute(
            "SELECT id FROM partitions WHERE stream = ? AND name = ? AND token = ? AND lease_until "
            "> 0",
            (lease.stream, lease.partition, lease.token),
        ).fetchone()
        return int(row[0]) if row else None

    def _require(self, connection: sqlite3.Connection, lease: Lease) -> int:
        partition_id = self._held(connection, lease)
        if partition_id is None:
            raise LeaseLost(
                f"The lease {lease.token} of {lease.stream}/{lease.partition} is no longer held by "
                f"{lease.owner}.",
                remedy="nothing to do: whoever holds the partition now flushes it.",
            )
        return partition_id

    # -- reading and acknowledging

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
        with self._read() as connection:
            for start in starts:
                if batches and (entries >= max_entries or size >= max_bytes):
                    break
                room = (
                    min(share_entries, max_entries - entries),
                    min(share_bytes, max_bytes - size),
                )
                gathering = Gathering(connection, self._load, self._checker, start)
                try:
                    gathering.read(*room)
                except EntryUnreadable as error:
                    self._auditor.suspect = self._auditor.suspect or error.malformed
                    if batches:  # those before it go on; it is the first one next time
                        break
                    raise
                batches.append(gathering.entries)
                entries += len(gathering.entries)
                size += gathering.bytes
        return batches

    def ack(self, acks: Sequence[Ack]) -> list[Lease]:
        try:
            lost = self._acknowledge(acks)
            if self.reserve.is_short():
                self.relieve()
            return lost
        except BufferUnavailable:
            if not self.reserve.is_short():
                raise
            if len(acks) == 1:
                return self._acknowledge(acks)  # with what the reserve gave up for it
            return [lost for ack in acks for lost in self.ack([ack])]
        except BufferCorrupt as error:
            self._auditor.suspect = True
            if len(acks) > 1:  # one partition's damage must not keep the others
                return [lost for ack in acks for lost in self.ack([ack])]
            lease = acks[0].lease
            with self._write() as connection:
                what = f"written entries can't be taken out of the buffer: {error.what}"
                note_damage(connection, self._clock(), lease.stream, lease.partition, what)
            return [lease]

    def _acknowledge(self, acks: Sequence[Ack]) -> list[Lease]:
        lost: list[Lease] = []
        with self._write() as connection:
            held: list[tuple[int, Ack]] = []
            for ack in acks:
                partition_id = self._held(connection, ack.lease)
                if partition_id is None:
                    lost.append(ack.lease)
                else:
                    held.append((partition_id, ack))
            self._remove(connection, [(id_, ack) for id_, ack in held if ack.entries])
            self._keep_notes(connection, held)
            if self._economical:
                self._remove_copies(connection, [id_ for id_, ack in held if ack.entries])
            else:
                self._change_copies(connection, held)
            connection.executemany(
                "UPDATE partitions SET lease_until = 0, owner = NULL WHERE id = ?",
                [(id_,) for id_, ack in held if ack.release],
            )
        self._made_space()
        return lost

    def _remove(self, connection: sqlite3.Connection, held: Sequence[tuple[int, Ack]]) -> None:
        """Remove acknowledged entries (they are kept a while), and what was remembered of failures
        before."""
        kept: list[Acked] = []
        deleted: list[Acked] = []
        counts = []
        records = entries = size = 0
        spilled = connection.execute("SELECT 1 FROM spills LIMIT 1").fetchone() is not None
        short = self.reserve.is_short()
        # many builds of SQLite write zeros over what is deleted, to the log
        if short != self._economical:
            connection.execute(f"PRAGMA secure_delete = {'OFF' if short else self._secure_delete}")
            self._economical = short
        for partition_id, ack in held:
            mark = ack.mark or mark_of(ack.entries[-1])
            place = (
                partition_id,
                ack.entries[0].seq << SLOT_BITS,
                (ack.entries[-1].seq + 1) << SLOT_BITS,
            )
            # Values in spill files are not kept: the files could not be deleted.
            keep = (
                self.keep_s > 0
                and not short
                and not (spilled and connection.execute(_SPILLED, place).fetchone())
            )
            if not keep:
                free(connection, self._checker, *place)
            # may be less than what was read
            (taken,) = connection.execute(_STORED, place).fetchone()
            if taken is None:
                raise self._checker.damaged(
                    ack.lease.stream,
                    ack.lease.partition,
                    ack.entries[0].seq,
                    "it is not there any more",
                )
            (kept if keep else deleted).append((*place, taken, mark))
            records += sum(len(entry.records) for entry in ack.entries)
            counts.append(
                {
                    "id": partition_id, "entries": len(ack.entries), "bytes": taken, "epoch": mark.epoch,
                    "seq": mark.seq, "digest": mark.digest, "now": self._clock(),
                }
            )  # fmt: skip
            entries += len(ack.entries)
            size += taken
        gone = self._keep(connection, kept) if kept else 0
        if deleted:
            ranges = [acked[:3] for acked in deleted]
            let_go(connection, _RANGE, ranges)
            gone += max(
                connection.executemany(f"DELETE FROM records WHERE {_RANGE}", ranges).rowcount, 0
            )
            self._note_gone(
                connection, [(mark.epoch, mark.seq, id_) for id_, _, _, _, mark in deleted]
            )
        # Entries are read in order and without gaps; anything else would acknowledge what was not
        # written.
        if gone != records:
            name = held[0][1].lease
            raise BufferCorrupt(
                f"{records} records of {name.stream}/{name.partition} and {len(held) - 1} more "
                f"partitions were"
                f" acknowledged, {gone} are there.",
                remedy=REMEDY,
            )
        connection.executemany(
            f"{_COUNT_OUT}, attempts = 0, next_attempt_at = 0, failing_since = NULL, failure = "
            f"NULL,"
            " mark_epoch = :epoch, mark_seq = :seq, mark_digest = :digest, mark_at = :now WHERE id "
            "= :id",
            counts,
        )
        connection.execute(
            "UPDATE totals SET entries = entries - ?, bytes = bytes - ?", (entries, size)
        )
        settle_ledgers(connection, self._clock(), [partition_id for partition_id, _ in held])

    def _keep_notes(self, connection: sqlite3.Connection, held: Sequence[tuple[int, Ack]]) -> None:
        now = self._clock()
        connection.executemany(
            "DELETE FROM notes WHERE partition_id = ? AND key >= ? AND key < ?",
            [(id_, prefix, after(prefix)) for id_, ack in held for prefix in ack.forget],
        )
        connection.executemany(
            "INSERT INTO notes (partition_id, key, value, noted_at) VALUES (?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET value = max(value, excluded.value), noted_at = "
            "excluded.noted_at",
            [(id_, key, value, now) for id_, ack in held for key, value in ack.maxima.items()],
        )
        for id_, ack in held:
            if ack.passing:
                self._note(connection, id_, ack.passing)

    @staticmethod
    def _count_out(
        connection: sqlite3.Connection, partition_id: int, entries: int, size: int
    ) -> None:
        connection.execute(
            f"{_COUNT_OUT} WHERE id = :id", {"id": partition_id, "entries": entries, "bytes": size}
        )

    def _note(
        self, connection: sqlite3.Connection, partition_id: int, passing: Mapping[bytes, bytes]
    ) -> None:
        now = self._clock()
        connection.executemany(
            "INSERT OR REPLACE INTO notes (partition_id, key, value, noted_at, expires_at) VALUES "
            "(?, ?, ?, ?, ?)",
            [(partition_id, key, value, now, now + NOTE_TTL_S) for key, value in passing.items()],
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
