"""How far each partition is written: the fence that every PostgreSQL sink passes inside its transaction.

It refuses a worker that lost its lease and leaves out entries that an interrupted flush had written already, which is
what makes a repeated flush leave the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson
from psycopg import Cursor
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from surgetank.database.queries import queries
from surgetank.encode.jsontext import preview
from surgetank.exceptions import EntryRejected, LeaseLost
from surgetank.model import Entry, Record
from surgetank.sinks.protocol import Slice

SQL = queries("flush")

Rows = Cursor[dict[str, Any]]


def fetch_tuples(
    cursor: Rows, query: str, items: Sequence[tuple[Any, ...]], **arguments: Any
) -> list[tuple[Any, ...]]:
    """Run a query of `flush.sql` on items given as one JSON array: for thousands of them far cheaper than arrays."""
    with cursor.connection.cursor(binary=True, row_factory=tuple_row) as plain:
        return plain.execute(SQL[query], {"items": Jsonb(items, dumps=orjson.dumps), **arguments}).fetchall()


def unreadable(partition: str, entry: Entry, record: Record, error: ValueError) -> EntryRejected:
    """The refusal of an entry whose bytes mean nothing to this version: it is parked, its neighbours go through."""
    return EntryRejected(
        partition=partition, path="$", seq=entry.seq,
        reason=f"{error}: {len(record.value)} bytes that begin with {preview(record.value)!r}",
        remedy="flush with the Surgetank version that wrote it; `surgetank parked export` has its bytes.",
    )  # fmt: skip


def fence(cursor: Rows, slices: Sequence[Slice], buffer_id: str) -> list[tuple[str, list[Entry]]]:
    """Take the partitions and move them on; returns each with the entries that are not yet written.

    Raises `LeaseLost`.
    """
    items = [(s.lease.stream, s.lease.partition, s.lease.token, s.entries[-1].seq) for s in slices]
    written: dict[str, int] = dict(fetch_tuples(cursor, "fence", items, buffer_id=buffer_id))
    lost = [s.lease.partition for s in slices if s.lease.partition not in written]
    if lost:
        raise LeaseLost(
            f"A newer lease of {lost[0]!r} has written to the database.",
            remedy="nothing to do: whoever holds the partition now flushes it.",
        )
    return [(s.lease.partition, [e for e in s.entries if e.seq > written[s.lease.partition]]) for s in slices]
