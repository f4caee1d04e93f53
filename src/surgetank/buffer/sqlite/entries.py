"""Reading waiting entries of one partition out of the SQLite buffer, each record compared with its
checksum."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from functools import partial
from typing import Any

from surgetank.buffer.coordination import ReadFrom
from surgetank.buffer.sqlite.chain import MIN_BYTES, Load, full_value
from surgetank.buffer.sqlite.checks import Checker, names_sum
from surgetank.buffer.sqlite.ids import first_id, seq_of
from surgetank.exceptions import BufferCorrupt, EntryUnreadable, FallbackUnavailable
from surgetank.model import Entry, Record
from surgetank.sqlite.file import translate

# Larger values are read piece by piece into what they become: SQLite would make a copy of its own
# of the whole.
_LARGE = 1024**2


class Gathering:
    """Reads on from one entry, up to a number of entries and bytes."""

    def __init__(
        self, connection: sqlite3.Connection, load: Load, checker: Checker, start: ReadFrom
    ) -> None:
        self._connection = connection
        self._load = load
        self._checker = checker
        self._start = start
        stream, partition = start.lease.stream, start.lease.partition
        self._check = partial(checker.require, stream, partition, names_sum(stream, partition))
        self.entries: list[Entry] = []
        self.bytes = 0
        self._seq = -1
        self._records: list[Record] = []
        self._expected: int | None = None
        # Of the entry that is being read: when it was accepted, whether it is replayed, its epoch.
        self._begun: tuple[float, bool, int] = (0.0, False, 0)
        self._made: dict[int, bytes] = {}  # a difference is mostly from a value that was just made

    def read(self, max_entries: int, max_bytes: int) -> None:
        """Read into `entries`. What can't be read ends it; `EntryUnreadable` is raised for the
        first entry."""
        try:
            for row in self._rows():
                seq = seq_of(row[0])
                if seq != self._seq:
                    self._end_entry()
                    if self.entries and (
                        len(self.entries) >= max_entries or self.bytes >= max_bytes
                    ):
                        return
                    self._seq, self._begun = seq, (row[4], row[2] > 0, row[3])
                self._take(row)
            self._end_entry()
        except (FallbackUnavailable, BufferCorrupt) as error:
            self._unreadable(error)
        except sqlite3.DatabaseError as error:
            problem = translate(error, self._checker.path)
            if not isinstance(problem, BufferCorrupt):
                raise
            self._unreadable(problem)

    def _rows(self) -> Iterable[tuple[Any, ...]]:
        lease = self._start.lease
        return self._connection.execute(
            "SELECT r.id, 0, r.replays, r.epoch, r.accepted_at, r.base, r.key,"
            " CASE WHEN length(r.value) <= ? THEN r.value END, r.checksum"
            " FROM partitions p JOIN records r ON r.partition_id = p.id"
            " WHERE p.stream = ? AND p.name = ? AND r.parked = 0 AND r.id >= ? ORDER BY r.id",
            (_LARGE, lease.stream, lease.partition, first_id(self._start.after_seq + 1)),
        )

    def _take(self, row: tuple[Any, ...]) -> None:
        id_, _, _, _, _, base, key, value, checksum = row
        if value is None:
            with self._connection.blobopen("records", "value", id_, readonly=True) as blob:
                value = blob.read()
            row = (*row[:7], value, checksum)
        count = self._check(row)
        if not self._records:
            if count == 0:
                raise self._incomplete("its first record is missing")
            self._expected = count
        if base is not None:
            if base < 0:
                value = self._load(self._connection, base, value)
            else:
                value = full_value(self._connection, base, value, self._made.get, self._check)
        if len(value) >= MIN_BYTES:
            self._made[id_] = value
        self._records.append(Record(key, value))

    def _end_entry(self) -> None:
        records, self._records = self._records, []
        if not records:
            return
        if self._expected not in (None, len(records)):
            raise self._incomplete(
                f"it has {len(records)} records and was accepted with {self._expected}"
            )
        lease = self._start.lease
        entry = Entry(lease.stream, lease.partition, self._seq, tuple(records), *self._begun)
        self.entries.append(entry)
        self.bytes += entry.size

    def _incomplete(self, why: str) -> BufferCorrupt:
        lease = self._start.lease
        return self._checker.damaged(lease.stream, lease.partition, self._seq, why)

    def _unreadable(self, error: FallbackUnavailable | BufferCorrupt) -> None:
        if not self.entries:
            raise EntryUnreadable(self._start.lease.partition, max(self._seq, 0), error) from error
