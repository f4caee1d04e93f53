"""Notes: small values that stay with a partition after its entries are gone."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from surgetank.buffer.coordination import NOTE_TTL_S, Ack
from surgetank.buffer.sqlite.read import after


def note_acks(connection: sqlite3.Connection, held: Sequence[tuple[int, Ack]], now: float) -> None:
    """Keep what acknowledgements say of their partitions (by id)."""
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
            note_passing(connection, id_, ack.passing, now)


def note_passing(
    connection: sqlite3.Connection, partition_id: int, passing: Mapping[bytes, bytes], now: float
) -> None:
    """Keep notes for `NOTE_TTL_S`."""
    connection.executemany(
        "INSERT OR REPLACE INTO notes (partition_id, key, value, noted_at, expires_at)"
        " VALUES (?, ?, ?, ?, ?)",
        [(partition_id, key, value, now, now + NOTE_TTL_S) for key, value in passing.items()],
    )


def replace_notes(
    connection: sqlite3.Connection, partition_id: int, notes: Mapping[bytes, bytes], now: float
) -> None:
    """Keep these in the stead of older ones."""
    connection.executemany(
        "INSERT OR REPLACE INTO notes (partition_id, key, value, noted_at) VALUES (?, ?, ?, ?)",
        [(partition_id, key, value, now) for key, value in notes.items()],
    )
