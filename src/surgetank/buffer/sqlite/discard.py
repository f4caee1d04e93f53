"""Removing parked entries of the SQLite buffer for good."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.chain import let_go
from surgetank.buffer.sqlite.ids import id_range


def discard_parked(connection: sqlite3.Connection, parked_ids: Iterable[int]) -> None:
    """Remove parked entries for good, in a transaction of the caller's."""
    for parked_id in parked_ids:
        row = connection.execute(
            "DELETE FROM parked WHERE id = ? RETURNING partition_id, seq, bytes", (parked_id,)
        ).fetchone()
        if row is None:
            continue
        partition_id, seq, size = row
        bounds = (partition_id, *id_range(seq))
        which = "partition_id = ? AND parked = 1 AND id >= ? AND id < ?"
        let_go(connection, which, [bounds])
        connection.execute(f"DELETE FROM records WHERE {which}", bounds)
        ledger.discard(connection, 1, size)


def discard_all_parked(connection: sqlite3.Connection, partition_id: int) -> None:
    """Remove all parked entries of a partition for good, in a transaction of the caller's."""
    count, size = connection.execute(
        "SELECT count(*), coalesce(sum(bytes), 0) FROM parked WHERE partition_id = ?",
        (partition_id,),
    ).fetchone()
    if count:
        which = "partition_id = ? AND parked = 1 AND kept = 0"
        let_go(connection, which, [(partition_id,)])
        connection.execute(f"DELETE FROM records WHERE {which}", (partition_id,))
        connection.execute("DELETE FROM parked WHERE partition_id = ?", (partition_id,))
        ledger.discard(connection, count, size)
