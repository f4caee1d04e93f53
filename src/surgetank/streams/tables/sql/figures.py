"""How much of a table waits, and how much is in files."""

from __future__ import annotations

from dataclasses import dataclass

from surgetank.streams.tables.cold.protocol import ColdTables
from surgetank.streams.tables.definition import Kind, Table
from surgetank.streams.tables.hot.protocol import HotTables


@dataclass(frozen=True, slots=True)
class TableFigures:
    """How much of a table waits to be flushed (inserts, updates and deletes; `users_held` have
    failed), and how much is in files, as of `snapshot`. `stale`: the database is away, and the
    files are those that were known last."""

    waiting_changes: int = 0
    waiting_bytes: int = 0
    users_held: int = 0
    cold_rows: int = 0
    cold_files: int = 0
    cold_bytes: int = 0
    snapshot: int = 0
    stale: bool = False


def figures_of(table: Table, hot: HotTables, cold: ColdTables) -> TableFigures:
    """The figures of a table. Raises `ColdStateUnavailable`."""
    waiting = next((each for each in hot.waiting() if each.table.id == table.id), None)
    files = cold.live(table, stores=()) if table.kind is not Kind.STREAM else None
    return TableFigures(
        waiting_changes=waiting.changes if waiting is not None else 0,
        waiting_bytes=waiting.bytes if waiting is not None else 0,
        users_held=waiting.held if waiting is not None else 0,
        cold_rows=files.rows if files is not None else 0,
        cold_files=len(files.files) if files is not None else 0,
        cold_bytes=sum(file.bytes for file in files.files) if files is not None else 0,
        snapshot=files.snapshot if files is not None else 0,
        stale=files.stale if files is not None else False,
    )
