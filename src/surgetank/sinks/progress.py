"""How far each partition is written: the fence that every PostgreSQL sink passes inside its transaction.

It refuses a worker that lost its lease and leaves out entries that an interrupted flush had written already, which is
what makes a repeated flush leave the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Cursor

from surgetank.database.queries import queries
from surgetank.exceptions import LeaseLost
from surgetank.model import Entry
from surgetank.sinks.protocol import Slice

SQL = queries("flush")

Rows = Cursor[dict[str, Any]]


def fence(cursor: Rows, slices: Sequence[Slice], buffer_id: str) -> list[tuple[str, list[Entry]]]:
    """Take the partitions and move them on; returns each with the entries that are not yet written.

    Raises `LeaseLost`.
    """
    cursor.execute(
        SQL["fence"],
        {
            "buffer_id": buffer_id,
            "streams": [s.lease.stream for s in slices],
            "partitions": [s.lease.partition for s in slices],
            "tokens": [s.lease.token for s in slices],
            "seqs": [s.entries[-1].seq for s in slices],
        },
    )
    written = {row["partition"]: row["seq_before"] for row in cursor.fetchall()}
    lost = [s.lease.partition for s in slices if s.lease.partition not in written]
    if lost:
        raise LeaseLost(
            f"A newer lease of {lost[0]!r} has written to the database.",
            remedy="nothing to do: whoever holds the partition now flushes it.",
        )
    return [(s.lease.partition, [e for e in s.entries if e.seq > written[s.lease.partition]]) for s in slices]
