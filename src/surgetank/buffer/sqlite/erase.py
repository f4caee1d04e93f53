"""Removing partitions from a buffer's file so that no byte of them is left in it, its WAL, or the
event log beside it.

Deleting a row leaves its bytes in the page, and the WAL has them too. The file is rewritten
(VACUUM), then the WAL is moved into it and cut to nothing. That needs a moment without readers of
older states; it is tried for a while.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from surgetank.buffer.sqlite import ledger
from surgetank.buffer.sqlite.chain import let_go
from surgetank.buffer.sqlite.copies import CopyTables
from surgetank.buffer.sqlite.discard import discard_all_parked
from surgetank.buffer.stored_jobs import without
from surgetank.encode.spelled import forms


def erase_partitions(
    connection: sqlite3.Connection,
    names: Iterable[str],
    copies: CopyTables,
) -> tuple[int, list[str]]:
    """Remove partitions of which nothing waits, whatever the stream, with all that is kept of them.

    In a transaction of the caller's. Returns how many went, and the names of those that still wait.
    """
    gone, waiting = 0, list[str]()
    for name in names:
        rows = connection.execute(
            "SELECT id, oldest_at FROM partitions WHERE name = ?", (name,)
        ).fetchall()
        if any(oldest is not None for _, oldest in rows):
            waiting.append(name)
            continue
        for id_, _ in rows:
            discard_all_parked(connection, id_)
            let_go(connection, "partition_id = ?", [(id_,)])
            (kept,) = connection.execute(
                "SELECT coalesce(sum(bytes), 0) FROM kept WHERE partition_id = ?", (id_,)
            ).fetchone()
            copies.remove(connection, [id_])
            for table in _with_column(connection, "partition_id"):
                connection.execute(f"DELETE FROM {table} WHERE partition_id = ?", (id_,))
            ledger.forget_kept(connection, kept)
            connection.execute("DELETE FROM partitions WHERE id = ?", (id_,))
            gone += 1
        for table in _with_column(connection, "partition"):
            connection.execute(f"DELETE FROM {table} WHERE partition = ?", (name,))
    return gone, sorted(set(waiting))


def erase_words(connection: sqlite3.Connection, words: Sequence[str]) -> int:
    """Take what flush jobs say about any of these words, and all originals, out of their records;
    how many changed."""
    changed, spelled = 0, forms(words)
    for id_, body in connection.execute("SELECT id, body FROM jobs").fetchall():
        cleaned = without(body, spelled)
        if cleaned is not None:
            connection.execute("UPDATE jobs SET body = ? WHERE id = ?", (cleaned, id_))
            changed += 1
    return changed


def _with_column(connection: sqlite3.Connection, column: str) -> list[str]:
    rows = connection.execute(
        "SELECT s.name FROM sqlite_schema s, pragma_table_info(s.name) c WHERE s.type = 'table' "
        "AND c.name = ?",
        (column,),
    ).fetchall()
    return [name for (name,) in rows]
