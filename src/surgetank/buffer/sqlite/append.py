"""How one append gets into the SQLite buffer: counted, asked its guard, inserted, some of its
values as differences.

Always inside the transaction of a commit group (sqlite.py), which says afterwards whether it was
committed. There is no RETURNING here: SQLite makes a temporary table for it, which costs as much as
the statement itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from surgetank.buffer.log import Guard
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
from surgetank.buffer.sqlite.read import SQLiteSnapshot
from surgetank.exceptions import EntryRejected
from surgetank.model import Record

SLOTS = 65536  # records per entry, at most
_KNOWN_PARTITIONS = 100_000

_COUNT_TOTAL = (
    "UPDATE totals SET next_seq = next_seq + 1, entries = entries + 1, bytes = bytes + ?"
    " WHERE bytes + ? <= ? AND entries < ?"
)
_COUNT_UNGUARDED = (
    "UPDATE partitions SET entries = entries + 1, bytes = bytes + ?, last_seq = (SELECT next_seq - "
    "1 FROM totals)"
    " WHERE id = ? AND oldest_at IS NOT NULL AND guarded = 0"
)
_COUNT_ANY = (
    "INSERT INTO partitions (stream, name, entries, bytes, oldest_at, last_seq)"
    " VALUES (?, ?, 1, ?, ?, (SELECT next_seq - 1 FROM totals))"
    " ON CONFLICT (stream, name) DO UPDATE SET entries = entries + 1, bytes = bytes + "
    "excluded.bytes,"
    " oldest_at = coalesce(oldest_at, excluded.oldest_at), last_seq = excluded.last_seq"
)
# An id is seq * SLOTS + position in the entry; the seq is the one that was just counted.
_COLUMNS = "(id, partition_id, parked, replays, epoch, accepted_at, base, key, value, checksum)"
_INSERT = (
    f"INSERT INTO records {_COLUMNS}"
    f" SELECT (next_seq - 1) * 65536, ?, 0, 0, ?, ?, ?, ?, ?, (((next_seq - 1) * 65536 + ?) & "
    f"{MASK}) + ? FROM totals"
)
_INSERT_NEXT = f"INSERT INTO records {_COLUMNS} VALUES (?, ?, 0, 0, ?, ?, ?, ?, ?, ?)"

Row = tuple[int | None, bytes, bytes, int]  # base, key, value, and their sum


@dataclass(frozen=True, slots=True)
class BufferLimits:
    """How much may wait, and what `append` does at the limit.

    `when_full="block"` waits up to `block_timeout_s` for space, `"reject"` raises at once.
    """

    max_bytes: int = 4 * 1024**3
    max_entries: int = 5_000_000
    when_full: Literal["block", "reject"] = "block"
    block_timeout_s: float = 30.0


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
    # position in the entry, and what it becomes
    links: list[tuple[int, Family, Link]] = field(default_factory=list)
    size: int = 0  # as it is stored
    seq: int = 0
    full: bool = False
    accepted: bool = False
    done: bool = False
    error: Exception | None = None


class Inserter:
    """Inserts appends; knows the ids of partitions and the newest value of each family. Used under
    the write lock."""

    def __init__(
        self,
        limits: BufferLimits,
        checker: Checker,
        *,
        note: Callable[[sqlite3.Connection, int, Mapping[bytes, bytes]], None],
        start_guarding: Callable[[sqlite3.Connection, int], None],
        epoch: int,
    ) -> None:
        self.limits = limits
        self.epoch = epoch
        self.memory = Memory()
        self._checker = checker
        self._note = note
        self._start_guarding = start_guarding
        self._ids: dict[tuple[str, str], int] = {}
        self._fresh: dict[Family, Link] = {}

    def committed(self) -> None:
        """What was inserted since the last call is in the file."""
        if self._fresh:
            self.memory.keep(self._fresh)
            self._fresh = {}

    def rolled_back(self) -> None:
        """What was inserted is not in the file: its ids will be given to others."""
        self._ids.clear()
        self._fresh = {}

    def insert(self, connection: sqlite3.Connection, request: Request, now: float) -> None:
        """Insert one append, or mark it as `full`; `seq` stays 0 when its guard refuses it."""
        rows = self._rows(connection, request, now)
        size, limits = request.size, self.limits
        fits = connection.execute(_COUNT_TOTAL, (size, size, limits.max_bytes, limits.max_entries))
        if not fits.rowcount:
            request.full = True
            return
        partition_id, guarded = self._count_in(connection, request, now)
        if guarded and request.guard is not None:
            refusal = request.guard(
                SQLiteSnapshot(connection, now, self._checker, self.memory.recall, _left_out)
            )
            if refusal is not None:
                _uncount(connection, partition_id, size)
                self._note(connection, partition_id, refusal)
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
            self._fresh[family] = link._replace(id=first + i, partition_id=partition_id)
        request.seq = first // SLOTS

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
                link = self._fresh.get(family) or self.memory.newest(family)
                short = shorten(connection, link, value) if link is not None else None
                if link is not None and short is not None:
                    base, stored = link.id, short
                    request.links.append((i, family, link.extended(key, value, len(short))))
                else:
                    request.links.append((i, family, Link(0, 0, key, value, 0, 0)))
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
        name = (request.stream, request.partition)
        known = self._ids.get(name)
        if (
            known is not None
            and connection.execute(_COUNT_UNGUARDED, (request.size, known)).rowcount
        ):
            return known, 0
        connection.execute(_COUNT_ANY, (*name, request.size, now))
        partition_id, guarded = connection.execute(
            "SELECT id, guarded FROM partitions WHERE stream = ? AND name = ?", name
        ).fetchone()
        if len(self._ids) >= _KNOWN_PARTITIONS:
            self._ids.clear()
        self._ids[name] = partition_id
        return partition_id, guarded


def _left_out(_: sqlite3.Connection, __: int, ___: bytes) -> bytes:
    """In place of a spilled value: guards ask for keys, and no append may wait for a fallback
    location."""
    return b""


def _uncount(connection: sqlite3.Connection, partition_id: int, size: int) -> None:
    """Take back what was counted for an append that a guard refused."""
    connection.execute("UPDATE totals SET entries = entries - 1, bytes = bytes - ?", (size,))
    connection.execute(
        "UPDATE partitions SET entries = entries - 1, bytes = bytes - ?,"
        " oldest_at = CASE WHEN entries > 1 THEN oldest_at END, last_seq = coalesce((SELECT "
        "max(r.id) >> 16"
        " FROM records r WHERE r.partition_id = partitions.id AND r.parked = 0), 0) WHERE id = ?",
        (size, partition_id),
    )
