"""Removing threads, and whatever holds a word, from the event log's file."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from surgetank.encode.spelled import forms


def erase_words_of(
    connection: sqlite3.Connection, threads: Iterable[str], words: Sequence[str]
) -> int:
    """Remove threads from the event log's file, and from it and the alert book whatever holds one
    of the words."""
    for thread in threads:
        connection.execute("DELETE FROM events WHERE thread_id = ?", (thread,))
        connection.execute("DELETE FROM threads WHERE thread_id = ?", (thread,))
        connection.execute("DELETE FROM originals WHERE partition = ?", (thread,))
        connection.execute("DELETE FROM incidents WHERE thread_id = ?", (thread,))
    gone = 0
    texts = {
        "events": (
            "CASE thread_id WHEN '' THEN CAST(body AS TEXT) ELSE '' END",
        ),  # other threads' are theirs
        "incidents": ("message", "detail", "key"),
        "alert_claims": ("subject",),
        "alert_outbox": ("title", "body"),
        "alert_log": ("title", "error"),
    }
    there = {
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
    }
    for table, columns in texts.items():
        found = " OR ".join(f"instr({column}, ?1) > 0" for column in columns)
        for form in forms(words) if table in there else ():
            gone += connection.execute(f"DELETE FROM {table} WHERE {found}", (form,)).rowcount
    for table in {"public_causes", "affected"} & there:
        connection.execute(f"DELETE FROM {table} WHERE key NOT IN (SELECT key FROM incidents)")
    return gone
