"""The ledger: how many entries and bytes wait, per partition and in sum. All statements that count
stand here.

- A partition counts its waiting entries, when the oldest of them was accepted, and the last one's
  seq.
- The sum counts waiting and parked entries. What is kept after it was acknowledged, and copies, are
  counted in the sum by bytes alone.
- A record counts with the bytes of its key and value as they are stored: a difference, or the
  address of a spilled value, counts as such.

Every call is part of a write transaction of the caller's, beside the change that it counts.
There is no RETURNING where an append counts: SQLite makes a temporary table for it, which costs as
much as the statement itself.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from surgetank.buffer.sqlite.ids import seq_sql

_COUNT_SUM = (
    "UPDATE totals SET next_seq = next_seq + 1, entries = entries + 1, bytes = bytes + ?"
    " WHERE bytes + ? <= ? AND entries < ?"
)
_COUNT_KNOWN = (
    "UPDATE partitions SET entries = entries + 1, bytes = bytes + ?, last_seq ="
    " (SELECT next_seq - 1 FROM totals) WHERE id = ? AND oldest_at IS NOT NULL AND guarded = 0"
)
_COUNT_ANY = (
    "INSERT INTO partitions (stream, name, entries, bytes, oldest_at, last_seq)"
    " VALUES (?, ?, 1, ?, ?, (SELECT next_seq - 1 FROM totals))"
    " ON CONFLICT (stream, name) DO UPDATE SET entries = entries + 1,"
    " bytes = bytes + excluded.bytes, oldest_at = coalesce(oldest_at, excluded.oldest_at),"
    " last_seq = excluded.last_seq"
)
_LAST_SEQ = (
    f"coalesce((SELECT max({seq_sql('r.id')}) FROM records r"
    " WHERE r.partition_id = partitions.id AND r.parked = 0), 0)"
)
_COUNT_OUT = (
    "UPDATE partitions SET entries = entries - ?2, bytes = bytes - ?3, oldest_at ="
    " (SELECT accepted_at FROM records WHERE partition_id = ?1 AND parked = 0 ORDER BY id LIMIT 1)"
)


class Acknowledged(NamedTuple):
    """What is acknowledged of one partition, and the last entry of it."""

    partition_id: int
    entries: int
    bytes: int
    epoch: int
    seq: int
    digest: int
    at: float


class Totals(NamedTuple):
    """The sums over the buffer."""

    entries: int
    bytes: int
    copied: int  # bytes of all copies
    kept_bytes: int  # of acknowledged records that are kept a while


def totals(connection: sqlite3.Connection) -> Totals:
    """The sums as of now."""
    return Totals(
        *connection.execute("SELECT entries, bytes, copied, kept_bytes FROM totals").fetchone()
    )


# -- numbers


def take_seqs(connection: sqlite3.Connection, count: int = 1, *, beyond: int = 0) -> int:
    """Give so many seqs away, all of them above `beyond`; returns the first."""
    (next_seq,) = connection.execute(
        "UPDATE totals SET next_seq = max(next_seq, ?) + ? RETURNING next_seq", (beyond + 1, count)
    ).fetchone()
    return int(next_seq) - count


def take_tokens(connection: sqlite3.Connection, count: int = 1, *, beyond: int = 0) -> int:
    """Give so many fencing tokens away, all of them above `beyond`; returns the first."""
    (next_token,) = connection.execute(
        "UPDATE totals SET next_token = max(next_token, ?) + ? RETURNING next_token",
        (beyond + 1, count),
    ).fetchone()
    return int(next_token) - count


# -- entries that come


def accept(connection: sqlite3.Connection, size: int, max_bytes: int, max_entries: int) -> bool:
    """Count one entry in the sum, and give it the next seq; False, and nothing is counted, at a
    limit."""
    counted = connection.execute(_COUNT_SUM, (size, size, max_bytes, max_entries))
    return counted.rowcount > 0


def last_seq(connection: sqlite3.Connection) -> int:
    """The seq that was given last."""
    (seq,) = connection.execute("SELECT next_seq - 1 FROM totals").fetchone()
    return int(seq)


def accept_into(connection: sqlite3.Connection, partition_id: int, size: int) -> bool:
    """Count that entry in its partition; False where nothing waits in it, or guards are asked."""
    return connection.execute(_COUNT_KNOWN, (size, partition_id)).rowcount > 0


def accept_into_any(
    connection: sqlite3.Connection, name: tuple[str, str], size: int, accepted_at: float
) -> tuple[int, int]:
    """Count that entry in its partition, which is made if it is new; returns its id and whether
    guards are asked."""
    connection.execute(_COUNT_ANY, (*name, size, accepted_at))
    partition_id, guarded = connection.execute(
        "SELECT id, guarded FROM partitions WHERE stream = ? AND name = ?", name
    ).fetchone()
    return partition_id, guarded


def has_tenants(connection: sqlite3.Connection) -> bool:
    """Whether any partition is known to be a tenant's."""
    found = connection.execute("SELECT 1 FROM partitions WHERE tenant <> '' LIMIT 1").fetchone()
    return found is not None


def give_to(connection: sqlite3.Connection, partition_id: int, tenant: str) -> None:
    """Say whose partition it is from now on."""
    connection.execute(
        "UPDATE partitions SET tenant = ?1 WHERE id = ?2 AND tenant <> ?1", (tenant, partition_id)
    )


def take_back(connection: sqlite3.Connection, partition_id: int, size: int) -> None:
    """Undo what was counted of one entry that a guard refused."""
    discard(connection, 1, size)
    connection.execute(
        "UPDATE partitions SET entries = entries - 1, bytes = bytes - ?,"
        f" oldest_at = CASE WHEN entries > 1 THEN oldest_at END, last_seq = {_LAST_SEQ}"
        " WHERE id = ?",
        (size, partition_id),
    )


# -- entries that go


def acknowledge(connection: sqlite3.Connection, rows: Sequence[Acknowledged]) -> None:
    """Count acknowledged entries out, whose records are not there any more; they are no failure any
    more, and the last one is the partition's mark."""
    connection.executemany(
        f"{_COUNT_OUT}, attempts = 0, next_attempt_at = 0, failing_since = NULL, failure = NULL,"
        " mark_epoch = ?4, mark_seq = ?5, mark_digest = ?6, mark_at = ?7 WHERE id = ?1",
        rows,
    )
    discard(connection, sum(row.entries for row in rows), sum(row.bytes for row in rows))


def discard(connection: sqlite3.Connection, entries: int, size: int) -> None:
    """Count entries out of the sum alone: no partition counts them (parked ones, say). Negative
    numbers count them in."""
    connection.execute(
        "UPDATE totals SET entries = entries - ?, bytes = bytes - ?", (entries, size)
    )


def park(connection: sqlite3.Connection, partition_id: int, size: int) -> None:
    """One entry, whose records are marked as parked, waits no more; the sum goes on counting it."""
    connection.execute(f"{_COUNT_OUT} WHERE id = ?1", (partition_id, 1, size))


def unpark(connection: sqlite3.Connection, partition_id: int, size: int, now: float) -> None:
    """One entry that was parked waits again."""
    connection.execute(
        "UPDATE partitions SET entries = entries + 1, bytes = bytes + ?,"
        " oldest_at = coalesce(oldest_at, ?) WHERE id = ?",
        (size, now, partition_id),
    )


def take_in(
    connection: sqlite3.Connection, partition_id: int, size: int, *, accepted_at: float, seq: int
) -> None:
    """One entry waits in a partition under the seq that it has; the sum counts it already."""
    connection.execute(
        "UPDATE partitions SET entries = entries + 1, bytes = bytes + ?,"
        " oldest_at = coalesce(oldest_at, ?), last_seq = max(last_seq, ?) WHERE id = ?",
        (size, accepted_at, seq, partition_id),
    )


def renumber(connection: sqlite3.Connection, partition_id: int, newest: int) -> None:
    """The waiting entries of a partition have other seqs, up to this one."""
    connection.execute("UPDATE partitions SET last_seq = ? WHERE id = ?", (newest, partition_id))


# -- bytes that change


def grow(connection: sqlite3.Connection, partition_id: int, by: int) -> None:
    """Waiting records of a partition take so many more bytes (fewer: a negative number)."""
    connection.execute("UPDATE totals SET bytes = bytes + ?", (by,))
    connection.execute("UPDATE partitions SET bytes = bytes + ? WHERE id = ?", (by, partition_id))


def correct(
    connection: sqlite3.Connection,
    partition_id: int,
    *,
    entries: tuple[int, int],
    size: tuple[int, int],
) -> None:
    """A partition was counted wrong, because records vanished: the numbers before, and those that
    are so."""
    connection.execute(
        "UPDATE partitions SET entries = ?, bytes = ? WHERE id = ?",
        (entries[1], size[1], partition_id),
    )
    discard(connection, entries[0] - entries[1], size[0] - size[1])


# -- what is kept, and copies


def keep(connection: sqlite3.Connection, size: int) -> int:
    """So many bytes are kept after they were acknowledged; returns how many there are now."""
    (kept,) = connection.execute(
        "UPDATE totals SET kept_bytes = kept_bytes + ? RETURNING kept_bytes", (size,)
    ).fetchone()
    return int(kept)


def forget_kept(connection: sqlite3.Connection, size: int) -> None:
    """So many bytes are not kept any more; none, where no acknowledgement is."""
    connection.execute(
        "UPDATE totals SET kept_bytes = (SELECT CASE WHEN EXISTS (SELECT 1 FROM kept)"
        " THEN max(0, kept_bytes - ?) ELSE 0 END)",
        (size,),
    )


def rewind(
    connection: sqlite3.Connection,
    partition_id: int,
    entries: int,
    size: int,
    *,
    oldest_at: float,
    newest: int,
) -> None:
    """Entries that were kept wait again."""
    connection.execute(
        "UPDATE partitions SET entries = entries + ?, bytes = bytes + ?, oldest_at = ?,"
        " spilled_to = 0, last_seq = max(last_seq, ?) WHERE id = ?",
        (entries, size, oldest_at, newest, partition_id),
    )
    discard(connection, -entries, -size)
    forget_kept(connection, size)


def copied(connection: sqlite3.Connection, by: int) -> None:
    """Copies take so many more bytes (fewer: a negative number)."""
    connection.execute("UPDATE totals SET copied = copied + ?", (by,))


def no_copies(connection: sqlite3.Connection) -> None:
    """There are no copies any more."""
    connection.execute("UPDATE totals SET copied = 0")


# -- whether it is so


class _Check(NamedTuple):
    """A query for whose count differs, and the numbers in the sentence that says so."""

    what: str
    sentence: str
    query: str


_STORED = "sum(length(r.key) + length(r.value))"
_CHECKS: tuple[_Check, ...] = (
    _Check(
        "partition",
        "counts {} entries and {} bytes; {} and {} are there",
        f"SELECT p.stream || '/' || p.name, p.entries, p.bytes,"
        f" (SELECT count(DISTINCT {seq_sql('r.id')}) FROM records r"
        " WHERE r.partition_id = p.id AND r.parked = 0) AS n,"
        f" (SELECT coalesce({_STORED}, 0) FROM records r"
        " WHERE r.partition_id = p.id AND r.parked = 0) AS size"
        " FROM partitions p WHERE p.entries <> n OR p.bytes <> size",
    ),
    _Check(
        "partition",
        "counts {} entries, the oldest of {}",
        "SELECT stream || '/' || name, entries, oldest_at FROM partitions"
        " WHERE (entries > 0) <> (oldest_at IS NOT NULL)",
    ),
    _Check(
        "partition",
        "has {} as its last seq; {} is there",
        f"SELECT stream || '/' || name, last_seq, {_LAST_SEQ} AS newest FROM partitions"
        " WHERE entries > 0 AND last_seq <> newest",
    ),
    _Check(
        "partition",
        "has the parked entry {} of {} bytes; {} are there",
        f"SELECT p.stream || '/' || p.name, k.seq, k.bytes, (SELECT coalesce({_STORED}, 0)"
        " FROM records r WHERE r.partition_id = p.id AND r.parked = 1 AND r.kept = 0"
        f" AND {seq_sql('r.id')} = k.seq) AS size"
        " FROM parked k JOIN partitions p ON p.id = k.partition_id WHERE k.bytes <> size",
    ),
    _Check(
        "sum",
        "counts {} entries and {} bytes; {} and {} are there",
        "SELECT '', entries, bytes,"
        " (SELECT coalesce(sum(entries), 0) FROM partitions) + (SELECT count(*) FROM parked) AS n,"
        " (SELECT coalesce(sum(bytes), 0) FROM partitions)"
        " + (SELECT coalesce(sum(bytes), 0) FROM parked) AS size"
        " FROM totals WHERE entries <> n OR bytes <> size",
    ),
    _Check(
        "sum",
        "counts {} bytes of copies; {} are there",
        "SELECT '', copied, (SELECT coalesce(sum(bytes), 0) FROM copies) AS size FROM totals"
        " WHERE copied <> size",
    ),
    _Check(
        "sum",
        "counts {} bytes that are kept; {} are",
        "SELECT '', kept_bytes, (SELECT coalesce(sum(bytes), 0) FROM kept) AS size FROM totals"
        " WHERE kept_bytes <> size",
    ),
    _Check(
        "file",
        "counts {} records; {} refer to it",
        "SELECT s.name, s.records, (SELECT count(*) FROM records r WHERE r.base = -s.id) AS n"
        " FROM spills s WHERE s.records <> n",
    ),
)


def verify(connection: sqlite3.Connection) -> list[str]:
    """What is counted wrong, as sentences; empty when all is as it is counted. For tests: it reads
    everything."""
    return [
        f"{check.what} {whose} {check.sentence.format(*numbers)}"
        for check in _CHECKS
        for whose, *numbers in connection.execute(check.query)
    ]
