"""The live files of tables, copied beside the buffer: what is read while the database is away.

A flusher copies what it committed before it acknowledges, so that no row is missing from both: what left the hot
store is in the copy.
"""

from __future__ import annotations

from collections.abc import Iterable

from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.cold.manifest import Standing

SCRIPT = """
CREATE TABLE IF NOT EXISTS cold_tables (
    table_id INTEGER PRIMARY KEY,
    snapshot INTEGER NOT NULL,
    stamp TEXT NOT NULL,
    document TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS cold_writing (
    path TEXT PRIMARY KEY,  -- a file that is in no manifest yet
    at REAL NOT NULL
) STRICT;
"""
_KEEP = """
INSERT INTO cold_tables (table_id, snapshot, stamp, document) VALUES (?, ?, ?, ?)
ON CONFLICT (table_id) DO UPDATE SET snapshot = excluded.snapshot, stamp = excluded.stamp,
    document = excluded.document
WHERE excluded.snapshot >= cold_tables.snapshot
"""


class Mirror:
    """Copies of standings in the file of tables, which it shares with others: made with `SCRIPT`."""

    def __init__(self, file: SharedFile) -> None:
        self._file = file

    def keep(self, table_id: int, standing: Standing) -> None:
        """Copy a standing, unless a newer one is there. Raises `BufferUnavailable`."""
        with self._file.read() as connection:
            row = connection.execute(
                "SELECT snapshot, stamp FROM cold_tables WHERE table_id = ?", (table_id,)
            ).fetchone()
        if row is not None and (row[0] > standing.snapshot or row[1] == standing.stamp):
            return
        values = (table_id, standing.snapshot, standing.stamp, standing.document)
        with self._file.write() as connection:
            connection.execute(_KEEP, values)

    def find(self, table_id: int) -> Standing | None:
        """What was copied last."""
        with self._file.read() as connection:
            row = connection.execute(
                "SELECT snapshot, stamp, document FROM cold_tables WHERE table_id = ?", (table_id,)
            ).fetchone()
        return Standing.parsed(table_id, *row) if row is not None else None

    def forget(self, table_id: int) -> None:
        """Remove the copy of a table that is gone."""
        with self._file.write() as connection:
            connection.execute("DELETE FROM cold_tables WHERE table_id = ?", (table_id,))

    # -- files that are being written

    def begins(self, path: str, at: float) -> None:
        """A file is about to be written. If nothing says how it ended, its writer was interrupted."""
        with self._file.write() as connection:
            connection.execute("INSERT OR REPLACE INTO cold_writing VALUES (?, ?)", (path, at))

    def ends(self, paths: Iterable[str]) -> None:
        """Files are in the manifest, or gone. What was acknowledged is never among those that an
        interruption left, so these may be unlinked whatever database there is."""
        with self._file.write() as connection:
            connection.executemany(
                "DELETE FROM cold_writing WHERE path = ?", [(path,) for path in paths]
            )

    def writing(self) -> dict[str, float]:
        """Files that were begun, and when."""
        with self._file.read() as connection:
            return dict(connection.execute("SELECT path, at FROM cold_writing").fetchall())

    def close(self) -> None:
        """Close the file. Idempotent."""
        self._file.close()
