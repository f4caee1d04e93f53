"""Bit rot in the SQLite buffer: a checksum with each record, and what a ledger says against what is
there.

A record's checksum covers the names of its partition, when it was accepted, its base, key and
value. Added to that are its id, its epoch, how often it was replayed and whether it is parked, so
that those can change without its value being read. That is in the lower 46 bits; above them stands,
with the first record of an entry, how many records the entry has. Entries that format 3 accepted
have none; what one of its processes wrote anew has ones in all lower bits.

SQLite looks at none of that: a changed byte in a page is mostly a changed value to it. What it does
notice ("malformed") is `BufferCorrupt` as well.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from surgetank.buffer.sqlite.ids import first_id, position_of, position_sql, seq_of, seq_sql
from surgetank.exceptions import BufferCorrupt

# what a checksum grows by when its record is parked; twice that when it is replayed
_PARKED = 1 << 32
_COUNT_BITS = 46
MASK = (1 << _COUNT_BITS) - 1
_NEXT_PARTITION = (
    "SELECT min(partition_id) FROM records INDEXED BY records_waiting WHERE parked = 0"
)
_PRIME = 4_294_967_291  # no single bit is lost in a remainder by it
# What is kept after it was acknowledged counts as not parked, although format 3 is to take it for
# that.
STORED = "id, parked > kept, replays, epoch, accepted_at, base, key, value, checksum"
REMEDY = "the rest goes on by itself. Look at the disk; `surgetank doctor --salvage FOLDER` copies all that is whole."


def names_sum(stream: str, partition: str) -> int:
    """What the checksums of a partition's records begin with."""
    return crc32(f"{stream}\0{partition}".encode())


def seed(names: int, accepted_at: float) -> int:
    """What the checksums of an entry begin with."""
    return names + int(accepted_at * 1024)


def record_sum(seeded: int, base: int | None, key: bytes, value: bytes) -> int:
    """The sum over what never changes unless the value is written anew."""
    return crc32(value, crc32(key, (seeded + 3 * (base or 0)) % _PRIME))


def epoch_sum(epoch: int) -> int:
    """What a record's epoch adds to its checksum."""
    return epoch % _PRIME


def counted(records: int) -> int:
    """What stands above the sum in the checksum of an entry's first record."""
    return records << _COUNT_BITS


def checksum(
    seeded: int, id_: int, base: int | None, key: bytes, value: bytes, records: int
) -> int:
    """What is stored with a record that was never replayed, is not parked and has no epoch, of an
    entry of so many."""
    low = (id_ + record_sum(seeded, base, key, value)) & MASK
    return low if position_of(id_) else low + counted(records)


def moved(stored: int, by: int) -> int:
    """A checksum after its sum grew by so much."""
    return (stored & ~MASK) + ((stored + by) & MASK)


def moved_sql(stored: str, by: str) -> str:
    """`moved` as an expression of SQL."""
    return f"(({stored}) & ~{MASK}) + ((({stored}) + ({by})) & {MASK})"


def variable_sql(parked: str, replays: str, epoch: str) -> str:
    """What parts that may change add to a checksum, as an expression of SQL."""
    return f"((2 * {replays} + {parked}) << 32) + {epoch} % {_PRIME}"


def damaged(
    path: Path, stream: str, partition: str, seq: int, why: str, key: bytes | None = None
) -> BufferCorrupt:
    """The error for one entry that is not as it was accepted."""
    named = f", key {key!r}" if key is not None else ""
    return BufferCorrupt(
        f"Entry {seq} of {stream}/{partition}{named} in the buffer {path} is damaged: {why}.",
        remedy=REMEDY, partition=partition, seq=seq, key=key,
    )  # fmt: skip


class Checker:
    """Compares records with their checksums. `checked_from`: entries from this number on have
    one."""

    def __init__(self, path: Path, checked_from: int) -> None:
        self.path = path
        self._unchecked = first_id(checked_from)

    def count(self, names: int, row: Sequence[Any]) -> int | None:
        """How many records the entry has that this first one begins, 0 for one that is not the
        first; None if it has no checksum. Raises `ValueError` for a damaged one. `row` is `STORED`.
        """
        id_, parked, replays, epoch, accepted_at, base, key, value, stored = row
        if stored is None:
            if id_ >= self._unchecked:
                raise ValueError("its checksum is missing")
            return None
        try:
            low, count = stored & MASK, stored >> _COUNT_BITS
            if low == MASK:  # written anew by a process of format 3
                return count or None
            known = record_sum(names + int(accepted_at * 1024), base, key, value) + epoch_sum(epoch)
            known += id_ + (2 * replays + parked) * _PARKED
        except (TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"it has a field of a wrong kind ({error})") from error
        if low != known & MASK or (count > 0) is (position_of(id_) > 0):
            raise ValueError("its checksum differs")
        return int(count)

    def require(self, stream: str, partition: str, names: int, row: Sequence[Any]) -> int | None:
        """`count`, but raises `BufferCorrupt` that says what is affected."""
        try:
            return self.count(names, row)
        except ValueError as error:
            raise self.damaged(stream, partition, seq_of(row[0]), str(error), row[6]) from error

    def require_entry(
        self, stream: str, partition: str, seq: int, rows: Sequence[Sequence[Any]]
    ) -> None:
        """Raise `BufferCorrupt` unless these are all records of the entry, as they were
        accepted."""
        names = names_sum(stream, partition)
        counts = [self.require(stream, partition, names, row) for row in rows]
        if not counts or counts[0] not in (None, len(rows)):
            raise self.damaged(stream, partition, seq, f"{len(rows)} of its records are there")

    def damaged(
        self, stream: str, partition: str, seq: int, why: str, key: bytes | None = None
    ) -> BufferCorrupt:
        """The error for an entry of this buffer."""
        return damaged(self.path, stream, partition, seq, why, key)


def ledger_problem(connection: sqlite3.Connection, partition_id: int) -> str | None:
    """What the ledger of a partition says that is not so: entries that are gone, or can't be found
    by key."""
    loose = connection.execute(
        "SELECT r.id, r.base FROM records r INDEXED BY records_waiting WHERE r.partition_id = ? "
        "AND r.parked = 0"
        " AND r.base >= 0 AND NOT EXISTS (SELECT 1 FROM records b WHERE b.id = r.base) LIMIT 1",
        (partition_id,),
    ).fetchone()
    if loose is not None:
        return f"entry {seq_of(loose[0])} builds on the record {loose[1]}, which is not there"
    row = connection.execute(
        "SELECT p.entries, p.last_seq,"
        f" (SELECT count(DISTINCT {seq_sql('r.id')}) FROM records r WHERE r.partition_id = p.id AND "
        "r.parked = 0),"
        f" (SELECT {seq_sql('coalesce(max(r.id), 0)')} FROM records r WHERE r.partition_id = p.id AND "
        "r.parked = 0)"
        " FROM partitions p WHERE p.id = ?",
        (partition_id,),
    ).fetchone()
    if row is None:
        return None
    entries, last, there, newest = row
    torn = connection.execute(
        f"SELECT {seq_sql('r.id')} AS seq FROM records r"
        " WHERE r.partition_id = ? AND r.parked = 0 GROUP BY seq"
        f" HAVING min({position_sql('r.id')}) > 0 OR (max(r.checksum) > {MASK} AND max(r.checksum) >> "
        f"{_COUNT_BITS} <> count(*))"
        " LIMIT 1",
        (partition_id,),
    ).fetchone()
    if torn is not None:
        return f"records of entry {torn[0]} are missing"
    if entries != there:
        return f"{entries} entries wait by its ledger, {there} are there"
    if there and last != newest:
        return f"its newest entry is {last} by its ledger, {newest} is there"
    lost = connection.execute(
        "SELECT r.id FROM records r INDEXED BY records_waiting WHERE r.partition_id = ?1 AND "
        "r.parked = 0"
        " AND NOT EXISTS (SELECT 1 FROM records k INDEXED BY records_by_key WHERE k.partition_id = "
        "?1"
        " AND k.key = r.key AND k.id = r.id AND k.kept = 0) LIMIT 1",
        (partition_id,),
    ).fetchone()
    return f"entry {seq_of(lost[0])} can't be found by its key" if lost is not None else None


def file_problems(connection: sqlite3.Connection) -> list[str]:
    """What concerns no partition alone: names that can't be found, numbers that would be given
    twice."""
    problems = []
    (lost,) = connection.execute(
        "SELECT count(*) FROM partitions p NOT INDEXED WHERE NOT EXISTS (SELECT 1 FROM partitions q"
        " INDEXED BY sqlite_autoindex_partitions_1 WHERE q.stream = p.stream AND q.name = p.name "
        "AND q.id = p.id)"
        " OR (p.oldest_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM partitions w INDEXED BY "
        "partitions_waiting"
        " WHERE w.stream = p.stream AND w.oldest_at = p.oldest_at AND w.id = p.id))"
    ).fetchone()
    if lost:
        problems.append(f"{lost} partitions can't be found by their names")
    (nameless,) = connection.execute(  # from one partition to the next, not from record to record
        f"WITH RECURSIVE r(id) AS ({_NEXT_PARTITION} UNION ALL SELECT ({_NEXT_PARTITION} AND "
        f"partition_id > r.id)"
        " FROM r WHERE r.id IS NOT NULL)"
        " SELECT count(r.id) FROM r WHERE NOT EXISTS (SELECT 1 FROM partitions p WHERE p.id = r.id)"
    ).fetchone()
    if nameless:
        problems.append(f"entries of {nameless} partitions have no ledger")
    next_seq, last = connection.execute(
        "SELECT next_seq, (SELECT coalesce(max(last_seq), 0) FROM partitions) FROM totals"
    ).fetchone()
    (newest,) = connection.execute(
        f"SELECT {seq_sql('coalesce(max(id), 0)')} FROM records"
    ).fetchone()
    if not isinstance(next_seq, int) or next_seq <= max(last, newest):
        problems.append(f"the next number is {next_seq}, but {max(last, newest)} was given already")
    return problems
