"""How far an event log has heard of the audit: of each chain the last row, and the position of the
reader. Written in the transaction that writes the events, so that each is written once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from surgetank.events.types import Forwarded

_KEPT_S = 2 * 86_400.0  # twice as long as rows are forwarded

SCHEMA = """
CREATE TABLE IF NOT EXISTS forwarded_chains (
    chain INTEGER PRIMARY KEY, nth INTEGER NOT NULL, updated_at REAL NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS forwarded_chains_by_age ON forwarded_chains (updated_at);
CREATE TABLE IF NOT EXISTS forward_position (
    id INTEGER PRIMARY KEY CHECK (id = 1), position TEXT NOT NULL
) STRICT;
"""


def position(reader: sqlite3.Connection) -> str | None:
    """Where the reader of the audit goes on."""
    row = reader.execute("SELECT position FROM forward_position").fetchone()
    return str(row[0]) if row else None


def chains(reader: sqlite3.Connection, numbers: Sequence[int]) -> dict[int, int]:
    """The last row of each chain that was forwarded."""
    found: dict[int, int] = {}
    for number in numbers:
        row = reader.execute(
            "SELECT nth FROM forwarded_chains WHERE chain = ?", (number,)
        ).fetchone()
        if row:
            found[number] = int(row[0])
    return found


def advance(
    writer: sqlite3.Connection, rows: Sequence[Forwarded], where: str, *, anew: bool, now: float
) -> list[Forwarded]:
    """Move on over these rows; those that no other process of this home has forwarded meanwhile."""
    if anew:
        writer.execute("DELETE FROM forwarded_chains")
    fresh: list[Forwarded] = []
    for row in rows:
        moved = writer.execute(
            "INSERT INTO forwarded_chains VALUES (?1, ?2, ?3) ON CONFLICT (chain) DO UPDATE"
            " SET nth = ?2, updated_at = ?3 WHERE nth < ?2",
            (row.chain, row.nth, now),
        )
        if moved.rowcount:
            fresh.append(row)
    writer.execute("INSERT OR REPLACE INTO forward_position VALUES (1, ?)", (where,))
    return fresh


def forget_old(writer: sqlite3.Connection, now: float) -> None:
    """Forget chains in which nothing has happened for long."""
    writer.execute("DELETE FROM forwarded_chains WHERE updated_at < ?", (now - _KEPT_S,))
