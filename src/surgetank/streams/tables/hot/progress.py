"""What was acknowledged of each table, by origin: as the file keeps it."""

from __future__ import annotations

import json
import sqlite3

from surgetank.streams.tables.hot.protocol import Progress


def progress_of(connection: sqlite3.Connection, table_id: int) -> dict[int, Progress]:
    """Of a table, by origin, oldest first."""
    rows = connection.execute(
        "SELECT origin, through, held FROM hot_progress WHERE table_id = ? ORDER BY origin",
        (table_id,),
    )
    return {origin: Progress(through, json.loads(held)) for origin, through, held in rows}


def keep_progress(
    connection: sqlite3.Connection, table_id: int, origin: int, progress: Progress
) -> None:
    """Keep it, as the newest."""
    connection.execute(
        "INSERT INTO hot_progress (table_id, origin, through, held) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (table_id, origin) DO UPDATE SET through = excluded.through, held = excluded.held",
        (table_id, origin, progress.through, json.dumps(dict(progress.held))),
    )
