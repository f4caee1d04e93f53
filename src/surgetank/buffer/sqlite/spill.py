"""Spilling in the SQLite buffer: a record's value becomes its place in a file, its `base` the
file's number, negated.

No other record builds on such a record (see chain.py): in the transaction that takes a value
away, those that build on it are made whole. Whatever deletes records counts them out of their files
(`let_go`).
"""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence

from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.spilling import Elsewhere, Recovered, SpillDue, SpillFile, ToSpill
from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.append import Inserter
from surgetank.buffer.sqlite.buffer_file import BufferFile
from surgetank.buffer.sqlite.chain import free
from surgetank.buffer.sqlite.checks import (
    checksum,
    moved_sql,
    names_sum,
    seed,
    variable_sql,
)
from surgetank.buffer.sqlite.ids import first_id, id_range, seq_of, seq_sql
from surgetank.buffer.sqlite.leases import SQLiteLeases, held
from surgetank.exceptions import BufferCorrupt, BufferFull, LeaseLost
from surgetank.fallback.codec import FileHeader, SpilledEntry, ValueRef
from surgetank.fallback.files import SpillFiles
from surgetank.model import Lease

_ANY_SIZE = 1 << 62
INLINE = 64  # values up to this size stay in the buffer
_NOT_LEASED = "(lease_until <= :now OR leased_at > :now + 60)"
_FIRST = (  # the partition's oldest record that is not spilled. Index records_waiting
    "(SELECT min(r.id) FROM records r WHERE r.partition_id = p.id AND r.parked = 0 AND r.id >= "
    "p.spilled_to"
    " AND (r.base IS NULL OR r.base >= 0))"
)
_VALUES = (
    "SELECT coalesce(sum(length(value)), 0) FROM records"
    " WHERE partition_id = ? AND parked = 0 AND id >= ? AND id < ?"
)
_FILES = "SELECT id, file_id, stream, address, name, state, records, bytes, created_at FROM spills"


class SpilledValues:
    """Values that were spilled, read from their files."""

    def __init__(self, files: SpillFiles) -> None:
        self._files = files

    def load(self, connection: sqlite3.Connection, base: int, ref: bytes) -> bytes:
        """A spilled value. Raises `FallbackUnavailable`, `FallbackDamaged`."""
        row = connection.execute(
            "SELECT address, name FROM spills WHERE id = ?", (-base,)
        ).fetchone()
        if row is None:
            raise BufferCorrupt(
                f"The buffer is damaged: a record was spilled to the file {-base}, which it does "
                f"not know.",
                remedy="copy the buffer to a safe place, then run `surgetank recover --dry-run`.",
            )
        return self._files.value(row[0], row[1], ValueRef.unpack(ref))


class SQLiteSpilling:
    """The role `Spilling`. Values with one of `inline_keys` are never spilled (guards look into
    them)."""

    def __init__(
        self,
        file: BufferFile,
        leases: SQLiteLeases,
        inserter: Inserter,
        *,
        files: SpillFiles,
        inline_keys: frozenset[bytes],
    ) -> None:
        self._file = file
        self._leases = leases
        self._inserter = inserter
        self._inline_keys = inline_keys
        self.files = files

    # -- spilling

    def lease_to_spill(
        self, stream: str, due: SpillDue, *, owner: str, ttl_s: float
    ) -> list[ToSpill]:
        now = self._file.clock()
        chosen = f"SELECT p.id FROM partitions p WHERE stream = :stream AND oldest_at IS NOT NULL AND {_NOT_LEASED}"
        if due.before is not None:
            chosen += (
                " AND (failing_since <= :before OR (:down AND oldest_at <= :before))"
                f" AND (SELECT accepted_at FROM records WHERE id = {_FIRST}) <= :before ORDER BY "
                f"oldest_at LIMIT :limit"
            )
        else:
            chosen += f" AND {_FIRST} IS NOT NULL ORDER BY bytes DESC LIMIT :limit"
        parameters = {
            "stream": stream,
            "now": now,
            "before": due.before,
            "down": due.down,
            "limit": due.limit,
        }
        with self._file.read() as connection:  # a look without the write lock
            if connection.execute(chosen, parameters).fetchone() is None:
                return []
        with self._file.write() as connection:
            ids = [id_ for (id_,) in connection.execute(chosen, parameters)]
            leased = {
                x.lease.partition: x
                for x in self._leases.take(connection, stream, ids, now, owner, ttl_s)
            }
            found = [
                connection.execute(
                    f"SELECT name, {_FIRST} FROM partitions p WHERE id = ?", (id_,)
                ).fetchone()
                for id_ in ids
            ]
        return [ToSpill(leased[name], seq_of(first) - 1) for name, first in found]

    def begin_spill(self, stream: str, *, node: str) -> FileHeader:
        address, now = self.files.address, self._file.clock()
        assert address is not None, "no fallback location is configured"
        with self._file.write() as connection:
            number = connection.execute(
                "INSERT INTO spills (file_id, stream, address, name, state, records, bytes, "
                "created_at, touched_at)"
                " VALUES (?, ?, ?, '', 'writing', 0, 0, ?, ?)",
                (file_id := uuid.uuid4().hex, stream, address, now, now),
            ).lastrowid
            assert number is not None
            header = FileHeader(
                id=file_id,
                buffer_id=self._file.id,
                number=number,
                stream=stream,
                node=node,
                created_at=now,
            )
            connection.execute("UPDATE spills SET name = ? WHERE id = ?", (header.name, number))
        return header

    def stub(self, header: FileHeader, lease: Lease, entries: Sequence[SpilledEntry]) -> bool:
        low, high = id_range(entries[0].entry.seq, entries[-1].entry.seq)
        with self._file.write() as connection:
            self._touch(connection, header)
            partition_id = held(connection, lease)
            if partition_id is None:
                return False
            free(connection, self._file.checker, partition_id, low, high)
            key_range = (partition_id, low, high)
            before = connection.execute(_VALUES, key_range).fetchone()[0]
            names = names_sum(lease.stream, lease.partition)
            stubs = []
            for spilled in entries:
                seeded = seed(names, spilled.entry.accepted_at)
                for i, (record, ref) in enumerate(
                    zip(spilled.entry.records, spilled.refs, strict=True)
                ):
                    if len(record.value) > INLINE and record.key not in self._inline_keys:
                        id_, packed = first_id(spilled.entry.seq) + i, ref.pack()
                        kept = (-header.number, record.key, packed, len(spilled.entry.records))
                        stubs.append(
                            (
                                -header.number,
                                packed,
                                checksum(seeded, id_, *kept),
                                id_,
                                partition_id,
                            )
                        )
            done = connection.executemany(
                "UPDATE records SET base = ?1, value = ?2,"
                f" checksum = {moved_sql('?3', variable_sql('0', 'replays', 'epoch'))}"
                " WHERE id = ?4 AND partition_id = ?5 AND parked = 0 AND (base IS NULL OR base >= "
                "0)",
                stubs,
            ).rowcount
            relieved = before - connection.execute(_VALUES, key_range).fetchone()[0]
            connection.execute(
                "UPDATE spills SET records = records + ? WHERE id = ?",
                (max(0, done), header.number),
            )
            connection.execute(
                "UPDATE partitions SET spilled_to = ? WHERE id = ?", (high, partition_id)
            )
            ledger.grow(connection, partition_id, -relieved)
        self._file.made_space()
        return True

    def keep_spill(self, header: FileHeader, size: int) -> None:
        with self._file.write() as connection:
            self._touch(connection, header)
            connection.execute(
                "UPDATE spills SET state = 'kept', bytes = ? WHERE id = ?", (size, header.number)
            )

    def _touch(self, connection: sqlite3.Connection, header: FileHeader) -> None:
        touched = connection.execute(
            "UPDATE spills SET touched_at = ? WHERE id = ? AND state = 'writing'",
            (self._file.clock(), header.number),
        ).rowcount
        if not touched:
            raise LeaseLost(
                f"The spill file {header.name} took so long that it was given up.",
                remedy="nothing to do: its entries are in the buffer and are spilled again.",
            )

    # -- files

    def spill_files(self) -> list[SpillFile]:
        with self._file.read() as connection:
            return [SpillFile(*row) for row in connection.execute(f"{_FILES} ORDER BY id")]

    def spilled_entries(self) -> int:
        with self._file.read() as connection:  # index records_spilled, which holds the id as well
            (count,) = connection.execute(
                f"SELECT count(DISTINCT {seq_sql('id')}) FROM records WHERE base < 0"
            ).fetchone()
        return int(count)

    def drained_spills(self, *, silent_s: float) -> list[SpillFile]:
        drained = f"{_FILES} WHERE state = 'kept' AND records = 0"
        given_up = "state = 'writing' AND touched_at < ?"
        before = (self._file.clock() - silent_s,)
        with self._file.read() as connection:
            if (
                connection.execute(f"SELECT 1 FROM spills WHERE {given_up}", before).fetchone()
                is None
            ):
                return [SpillFile(*row) for row in connection.execute(drained)]
        with self._file.write() as connection:
            connection.execute(f"UPDATE spills SET state = 'kept' WHERE {given_up}", before)
            return [SpillFile(*row) for row in connection.execute(drained)]

    def forget_spill(self, number: int) -> None:
        with self._file.write() as connection:
            connection.execute(
                "DELETE FROM spills WHERE id = ? AND state = 'kept' AND records = 0", (number,)
            )

    # -- recovering

    def begin_recovery(self, header: FileHeader, address: str, name: str, size: int) -> int | None:
        now = self._file.clock()
        with self._file.write() as connection:
            known = connection.execute(
                "SELECT id, state FROM spills WHERE file_id = ?", (header.id,)
            ).fetchone()
            if known is not None:
                return int(known[0]) if known[1] == "recovering" else None
            return connection.execute(
                "INSERT INTO spills (file_id, stream, address, name, state, records, bytes, "
                "created_at, touched_at)"
                " VALUES (?, ?, ?, ?, 'recovering', 0, ?, ?, ?)",
                (header.id, header.stream, address, name, size, header.created_at, now),
            ).lastrowid

    def take_over(
        self, number: int, header: FileHeader, entries: Sequence[SpilledEntry], elsewhere: Elsewhere
    ) -> Recovered:
        taken = known = deleted = 0
        with self._file.write() as connection:
            for spilled in entries:
                entry = spilled.entry
                new = connection.execute(
                    "INSERT INTO recovered VALUES (?, ?) ON CONFLICT DO NOTHING",
                    (
                        f"{header.buffer_id}/{entry.epoch}" if entry.epoch else header.buffer_id,
                        entry.seq,
                    ),
                ).rowcount
                written = entry.seq <= elsewhere.written.get((entry.partition, entry.epoch), 0)
                here = header.buffer_id == self._file.id and _is_here(connection, spilled)
                if not new or here or (written and not elsewhere.keyed):
                    known += 1
                elif entry.accepted_at < elsewhere.tombstones.get(entry.partition, float("-inf")):
                    deleted += 1
                else:
                    self._take_in(connection, number, spilled, replayed=written or entry.replayed)
                    taken += 1
        return Recovered(taken, known, deleted)

    def pending(self, stream: str, partition: str, key: bytes) -> list[tuple[float, bytes]]:
        with self._file.read() as connection:
            return connection.execute(
                "SELECT r.accepted_at, r.value FROM records r JOIN partitions p ON p.id = "
                "r.partition_id"
                " WHERE p.stream = ? AND p.name = ? AND r.parked = 0 AND r.key = ? ORDER BY r.id",
                (stream, partition, key),
            ).fetchall()

    def relocate_spill(self, file_id: str, address: str, name: str) -> None:
        with self._file.write() as connection:
            connection.execute(
                "UPDATE spills SET address = ?, name = ? WHERE file_id = ?",
                (address, name, file_id),
            )

    def end_recovery(self, number: int) -> None:
        with self._file.write() as connection:
            connection.execute("UPDATE spills SET state = 'kept' WHERE id = ?", (number,))

    def _take_in(
        self, connection: sqlite3.Connection, number: int, spilled: SpilledEntry, *, replayed: bool
    ) -> None:
        """Append one entry at the end of its partition, its values in the file."""
        entry, size, stubs = spilled.entry, 0, 0
        seeded = seed(names_sum(entry.stream, entry.partition), entry.accepted_at)
        rows: list[tuple[int | None, bytes, bytes]] = []
        for record, ref in zip(
            entry.records, spilled.refs or [None] * len(entry.records), strict=True
        ):
            if ref is None or len(record.value) <= INLINE or record.key in self._inline_keys:
                rows.append((None, record.key, record.value))
            else:
                rows.append((-number, record.key, ref.pack()))
                stubs += 1
            size += len(record.key) + len(rows[-1][2])
        limits = self._inserter.limits
        # Of what is in a file bytes don't count: it is small, and the values are not here.
        most = _ANY_SIZE if spilled.refs else limits.max_bytes
        if not ledger.accept(connection, size, most, limits.max_entries):
            raise at_limit(limits)
        seq = ledger.last_seq(connection)
        name = (entry.stream, entry.partition)
        partition_id, _ = ledger.accept_into_any(connection, name, size, entry.accepted_at)
        connection.executemany(
            "INSERT INTO records (id, partition_id, parked, replays, epoch, accepted_at, base, "
            "key, value, checksum)"
            f" VALUES (?1, ?2, 0, ?3, ?4, ?5, ?6, ?7, ?8, "
            f"{moved_sql('?9', variable_sql('0', '?3', '?4'))})",
            [
                (
                    id_,
                    partition_id,
                    replayed,
                    self._inserter.epoch,
                    entry.accepted_at,
                    *row,
                    checksum(seeded, id_, *row, len(rows)),
                )
                for id_, row in enumerate(rows, start=first_id(seq))
            ],
        )
        connection.execute("UPDATE spills SET records = records + ? WHERE id = ?", (stubs, number))


def _is_here(connection: sqlite3.Connection, spilled: SpilledEntry) -> bool:
    """Whether the entry still is in the buffer that it was spilled from (which was brought back
    from a backup)."""
    entry = spilled.entry
    row = connection.execute(
        "SELECT 1 FROM records r JOIN partitions p ON p.id = r.partition_id WHERE r.id = ? AND "
        "p.stream = ?"
        " AND p.name = ? AND r.key = ? AND r.epoch = ?",
        (first_id(entry.seq), entry.stream, entry.partition, entry.records[0].key, entry.epoch),
    ).fetchone()
    return row is not None


def at_limit(limits: BufferLimits) -> BufferFull:
    """What is raised at a limit."""
    return BufferFull(
        f"The buffer is at its limit ({limits.max_entries} entries, {limits.max_bytes} bytes); not all is taken "
        "over.",
        remedy="flush, then do the same again: it goes on where it ended.",
    )
