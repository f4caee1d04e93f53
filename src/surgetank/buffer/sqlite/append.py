"""How one append gets into the SQLite buffer: counted, asked its guard, inserted, some of its
values as differences.

Always inside the transaction of a commit group (log.py), which says afterwards whether it was
committed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from surgetank.buffer.limits import BufferLimits
from surgetank.buffer.log import Guard
from surgetank.buffer.sqlite import ledger, writers
from surgetank.buffer.sqlite.chain import MIN_BYTES, Family, Link, Memory, shorten
from surgetank.buffer.sqlite.checks import (
    MASK,
    Checker,
    counted,
    epoch_sum,
    names_sum,
    record_sum,
    seed,
)
from surgetank.buffer.sqlite.copies import CopyTables
from surgetank.buffer.sqlite.discard import discard_all_parked
from surgetank.buffer.sqlite.ids import first_id_sql, seq_of
from surgetank.buffer.sqlite.notes import note_passing
from surgetank.buffer.sqlite.read import SQLiteSnapshot
from surgetank.exceptions import EntryRejected
from surgetank.model import Record

_KNOWN_PARTITIONS = 100_000

# The seq is the one that was just counted.
_COLUMNS = "(id, partition_id, parked, replays, epoch, accepted_at, base, key, value, checksum)"
_INSERT = (
    f"INSERT INTO records {_COLUMNS}"
    f" SELECT {first_id_sql('next_seq - 1')}, ?, 0, 0, ?, ?, ?, ?, ?,"
    f" (({first_id_sql('next_seq - 1')} + ?) & {MASK}) + ? FROM totals"
)
_INSERT_NEXT = f"INSERT INTO records {_COLUMNS} VALUES (?, ?, 0, 0, ?, ?, ?, ?, ?, ?)"

Row = tuple[int | None, bytes, bytes, int]  # base, key, value, and their sum


@dataclass(slots=True, eq=False)
class Request:
    """One append on its way through the group commit. `accepted` only becomes true after the
    commit, so that whoever is interrupted anywhere never leaves another append believing in an
    entry that is not there.
    """

    stream: str
    partition: str
    records: Sequence[Record]
    guard: Guard | None
    start_guarding: bool = False
    ask_guards: bool = False
    fence: int | None = None
    tenant: str = ""
    # position in the entry, and what it becomes
    links: list[tuple[int, Family, Link]] = field(default_factory=list)
    size: int = 0  # as it is stored
    seq: int = 0
    full: bool = False
    outdated: bool = False  # its partition has a newer writer
    accepted: bool = False
    done: bool = False
    error: Exception | None = None

    @property
    def name(self) -> tuple[str, str]:
        """Its stream and partition."""
        return (self.stream, self.partition)


class Inserter:
    """Inserts appends, in a transaction of the caller's. Used under the write lock.

    `epoch` is the name of what this handle accepts.
    """

    def __init__(
        self,
        limits: BufferLimits,
        memory: Memory,
        checker: Checker,
        *,
        copies: CopyTables,
        epoch: int,
    ) -> None:
        self.limits = limits
        self.epoch = epoch
        self._memory = memory
        self._checker = checker
        self._copies = copies

    def insert(self, connection: sqlite3.Connection, request: Request, now: float) -> None:
        """Insert one append, or mark it as `full` or `outdated`; `seq` stays 0 when its guard
        refuses it."""
        fence = request.fence
        newest = 0 if fence is None else writers.newest(connection, *request.name)
        request.outdated = fence is not None and fence < newest
        if request.outdated:
            return
        rows = self._rows(connection, request, now)
        size, limits = request.size, self.limits
        if not ledger.accept(connection, size, limits.max_bytes, limits.max_entries):
            request.full = True
            return
        partition_id, guarded = self._count_in(connection, request, now)
        if request.tenant:
            ledger.give_to(connection, partition_id, request.tenant)
        if fence is not None and fence > newest:
            writers.keep(connection, partition_id, fence, now)
        if guarded and request.guard is not None:
            refusal = request.guard(
                SQLiteSnapshot(connection, now, self._checker, self._memory.recall, _left_out)
            )
            if refusal is not None:
                ledger.take_back(connection, partition_id, size)
                note_passing(connection, partition_id, refusal, now)
                return
        epoch = self.epoch
        first = connection.execute(
            _INSERT, (partition_id, epoch, now, *rows[0], counted(len(rows)))
        ).lastrowid
        assert first is not None
        if len(rows) > 1:
            connection.executemany(
                _INSERT_NEXT,
                [
                    (id_, partition_id, epoch, now, base, key, value, (id_ + sum_) & MASK)
                    for id_, (base, key, value, sum_) in enumerate(rows[1:], start=first + 1)
                ],
            )
        if request.ask_guards:
            connection.execute("UPDATE partitions SET guarded = 1 WHERE id = ?", (partition_id,))
        if request.start_guarding:
            self._start_guarding(connection, partition_id)
        for i, family, link in request.links:
            self._memory.write(family, link._replace(id=first + i, partition_id=partition_id))
        request.seq = seq_of(first)

    def _rows(self, connection: sqlite3.Connection, request: Request, now: float) -> list[Row]:
        """Base, key, value and sum of each record as they are stored."""
        rows: list[Row] = []
        request.links = []
        size = 0
        seeded, of_epoch = (
            seed(names_sum(request.stream, request.partition), now),
            epoch_sum(self.epoch),
        )
        for i, (key, value, name) in enumerate(request.records):
            base, stored = None, value
            if name and len(value) >= MIN_BYTES:
                family = (request.stream, request.partition, name)
                link = self._memory.newest(family)
                short = shorten(connection, link, value) if link is not None else None
                if link is not None and short is not None:
                    base, stored = link.id, short
                    request.links.append((i, family, link.extended(key, value, len(short))))
                else:
                    request.links.append(
                        (
                            i,
                            family,
                            Link(
                                id=0, partition_id=0, key=key, value=value, depth=0, chain_bytes=0
                            ),
                        )
                    )
            try:
                rows.append((base, key, stored, record_sum(seeded, base, key, stored) + of_epoch))
            except TypeError as error:
                raise EntryRejected(
                    partition=request.partition, path="$", reason=f"no bytes ({error})"
                ) from error
            size += len(key) + len(stored)
        request.size = size
        return rows

    def _count_in(
        self, connection: sqlite3.Connection, request: Request, now: float
    ) -> tuple[int, int]:
        """Add one entry to its partition's counters, making it if it is new; returns its id and the
        guarded flag."""
        name = request.name
        ids = self._memory.ids
        known = ids.get(name)
        if known is not None and ledger.accept_into(connection, known, request.size):
            return known, 0
        partition_id, guarded = ledger.accept_into_any(connection, name, request.size, now)
        if len(ids) >= _KNOWN_PARTITIONS:
            ids.clear()
        ids[name] = partition_id
        return partition_id, guarded

    def _start_guarding(self, connection: sqlite3.Connection, partition_id: int) -> None:
        """Remove a partition's parked entries and its copy (its owner deleted the data they belong
        to); ask guards from now on.
        """
        connection.execute("UPDATE partitions SET guarded = 1 WHERE id = ?", (partition_id,))
        discard_all_parked(connection, partition_id)
        self._copies.remove(connection, [partition_id])


def _left_out(_: sqlite3.Connection, __: int, ___: bytes) -> bytes:
    """In place of a spilled value: guards ask for keys, and no append may wait for a fallback
    location."""
    return b""
