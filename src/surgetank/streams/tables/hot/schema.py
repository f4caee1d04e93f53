"""The tables of the hot store in the file of tables. Each user table has two of its own: its rows, and its keys.

The row table is a journal: a row's version is its rowid, so that SQLite numbers it, one statement accepts it, and what
came after a version is found without an index. A row without a user, and without bytes, is a mark: it holds the largest
version where no row does, so that no number is given twice. `head` has the values of fixed size, as `Layout` packs
them; only the others have columns, so that a flush joins them to Arrow's buffers without an object for each value.

In `hot_tables` a table's `changes`, `bytes` and `oldest_at` are of its rows up to the version `tallied`: those that
came later are counted when somebody asks, and added from time to time, so that an insert writes no counter.
"""

from __future__ import annotations

import sqlite3

from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot.slots import slot_of

SCRIPT = """
CREATE TABLE IF NOT EXISTS hot_tables (
    table_id INTEGER PRIMARY KEY,
    definition TEXT NOT NULL DEFAULT '',
    schema_version INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0,
    tallied INTEGER NOT NULL DEFAULT 0,
    changes INTEGER NOT NULL DEFAULT 0,
    bytes INTEGER NOT NULL DEFAULT 0,
    oldest_at REAL,
    segment_changes INTEGER NOT NULL DEFAULT 0,
    segment_bytes INTEGER NOT NULL DEFAULT 0,
    segment_oldest_at REAL,
    acks INTEGER NOT NULL DEFAULT 0,
    removals INTEGER NOT NULL DEFAULT 0,
    parked INTEGER NOT NULL DEFAULT 0,
    failure TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    next_attempt_at REAL NOT NULL DEFAULT 0,
    failing_since REAL,
    token INTEGER NOT NULL DEFAULT 0,
    owner TEXT,
    lease_until REAL NOT NULL DEFAULT 0,
    lease TEXT
) STRICT;
CREATE TABLE IF NOT EXISTS hot_progress (
    table_id INTEGER NOT NULL, origin INTEGER NOT NULL, through INTEGER NOT NULL DEFAULT 0,
    held TEXT NOT NULL DEFAULT '{}', PRIMARY KEY (table_id, origin)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hot_failing (
    table_id INTEGER NOT NULL, user TEXT NOT NULL, failure TEXT NOT NULL, attempts INTEGER NOT NULL,
    next_attempt_at REAL NOT NULL, failing_since REAL NOT NULL, PRIMARY KEY (table_id, user)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hot_segments (
    id INTEGER PRIMARY KEY AUTOINCREMENT, table_id INTEGER NOT NULL, first INTEGER NOT NULL,
    last INTEGER NOT NULL, bytes INTEGER NOT NULL, at REAL NOT NULL, file TEXT NOT NULL, directory BLOB NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS hot_segments_of ON hot_segments (table_id, first);
CREATE TABLE IF NOT EXISTS hot_retired (file TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hot_skipped (
    table_id INTEGER NOT NULL, version INTEGER NOT NULL, PRIMARY KEY (table_id, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hot_parked (
    id INTEGER PRIMARY KEY AUTOINCREMENT, table_id INTEGER NOT NULL, user TEXT NOT NULL, version INTEGER NOT NULL,
    seq INTEGER NOT NULL, op INTEGER NOT NULL, bytes INTEGER NOT NULL, at REAL NOT NULL, parked_at REAL NOT NULL,
    failure TEXT NOT NULL, retries INTEGER NOT NULL DEFAULT 0, schema INTEGER NOT NULL, row TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS hot_parked_of ON hot_parked (table_id, user, seq);
CREATE TABLE IF NOT EXISTS hot_retried (
    table_id INTEGER NOT NULL, version INTEGER NOT NULL, parked_id INTEGER NOT NULL, retries INTEGER NOT NULL,
    PRIMARY KEY (table_id, version)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hot_erasures (id INTEGER PRIMARY KEY CHECK (id = 1), begun INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS hot_batches (
    table_id INTEGER NOT NULL, user TEXT NOT NULL, key TEXT NOT NULL, digest BLOB NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, at REAL NOT NULL, PRIMARY KEY (table_id, user, key)
) STRICT, WITHOUT ROWID;
"""


def rows_of(table_id: int) -> str:
    """The name of the table of a table's rows."""
    return f"hot_rows_{int(table_id)}"


def keys_of(table_id: int) -> str:
    """The name of the table of its keys: to each the newest hot change."""
    return f"hot_keys_{int(table_id)}"


def created(table: Table) -> tuple[str, ...]:
    """The statements that make both, empty of columns of their own."""
    rows, keys = rows_of(table.id), keys_of(table.id)
    return (
        (
            f"CREATE TABLE IF NOT EXISTS {rows} (version INTEGER PRIMARY KEY, bytes INTEGER,"
            " op INTEGER NOT NULL DEFAULT 0, seq INTEGER, schema INTEGER, at REAL, user TEXT, head BLOB)"
        ),
        (
            f"CREATE TABLE IF NOT EXISTS {keys} (user TEXT NOT NULL, key BLOB NOT NULL,"
            " version INTEGER NOT NULL, seq INTEGER NOT NULL, op INTEGER NOT NULL, PRIMARY KEY (user, key))"
            " WITHOUT ROWID"
        ),
        # Of updates and deletes alone: an insert does not touch it.
        f"CREATE INDEX IF NOT EXISTS hot_changed_{int(table.id)} ON {rows} (seq) WHERE seq IS NOT NULL",
    )


def added(table: Table, known: frozenset[str]) -> tuple[str, ...]:
    """The statements that add columns, for values whose size differs, where they are missing."""
    return tuple(
        f"ALTER TABLE {rows_of(table.id)} ADD COLUMN c_{int(column.id)} {column.type.sqlite}"
        for column in table.columns
        if slot_of(column.type) is None and f"c_{column.id}" not in known
    )


def columns_of(connection: sqlite3.Connection, table_id: int) -> frozenset[str]:
    """The columns that the table of a table's rows has; none where there is no such table."""
    name = rows_of(table_id)
    return frozenset(
        column for (column,) in connection.execute("SELECT name FROM pragma_table_info(?)", (name,))
    )
