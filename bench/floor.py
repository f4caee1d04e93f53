"""The least that SQLite takes for what an append must do: the floor under `put` and `put_writes`.

One transaction counts in the total and in the partition and inserts the records with the two
indexes that readers and the flush need. No statement of it is about safety beyond that: no epoch,
no checksum, no guard, no reserve.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

NAME = "the floor"
_SCHEMA = """
PRAGMA journal_mode = WAL;
PRAGMA synchronous = NORMAL;
PRAGMA wal_autocheckpoint = 65536;
CREATE TABLE totals (id INTEGER PRIMARY KEY, next_seq INTEGER, entries INTEGER, bytes INTEGER);
CREATE TABLE partitions (id INTEGER PRIMARY KEY, entries INTEGER, bytes INTEGER, last_seq INTEGER);
CREATE TABLE records (id INTEGER PRIMARY KEY, partition_id INTEGER, key BLOB, value BLOB);
CREATE INDEX records_by_place ON records (partition_id, id);
CREATE INDEX records_by_key ON records (partition_id, key);
INSERT INTO totals VALUES (1, 1, 0, 0);
INSERT INTO partitions VALUES (1, 0, 0, 0);
"""


class BareSQLite:
    """A file with the tables of a buffer, reduced to what an append can't do without."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.executescript(_SCHEMA)
        self._next = 0

    def append(self, records: list[tuple[bytes, bytes]]) -> None:
        """One transaction."""
        execute = self._connection.execute
        size = sum(len(key) + len(value) for key, value in records)
        execute("BEGIN IMMEDIATE")
        execute(
            "UPDATE totals SET next_seq = next_seq + 1, entries = entries + 1, bytes = bytes + ?",
            (size,),
        )
        execute(
            "UPDATE partitions SET entries = entries + 1, bytes = bytes + ?, last_seq = ? WHERE id = 1",
            (size, self._next),
        )
        for key, value in records:
            self._next += 1
            execute("INSERT INTO records VALUES (?, 1, ?, ?)", (self._next, key, value))
        execute("COMMIT")

    def close(self) -> None:
        """Close the file."""
        self._connection.close()
