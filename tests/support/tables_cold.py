"""Cold tables over a database of a test's own, and changes as a hot store gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from surgetank.database.migrate import MigratedDatabase
from surgetank.model import FlushJob, JobStatus
from surgetank.sqlite.shared import SharedFile
from surgetank.streams.tables.cold.mirror import SCRIPT
from surgetank.streams.tables.cold.tables import FileTables
from surgetank.streams.tables.definition import SEQ, USER, Column, Kind, Table
from surgetank.streams.tables.file import TABLES
from surgetank.streams.tables.hot.protocol import OP, VERSION, Op, Progress, TableLease
from surgetank.streams.tables.types import ColumnType

STORE = "0000000001"
NOTES = Table(
    id=7,
    namespace="app",
    name="notes",
    kind=Kind.USER,
    columns=(
        Column(3, "id", ColumnType.parse("BIGINT"), nullable=False),
        Column(4, "text", ColumnType.parse("TEXT")),
    ),
    key=("id",),
)
SHARED = replace(NOTES, id=8, name="rates", kind=Kind.SHARED)
# (operation, user, sequence of the row, version of the change, its values)
Given = tuple[Op, str, int, int, tuple[Any, ...]]


def changes(table: Table, given: Sequence[Given]) -> pa.Table:
    """What `HotTables.take` gives, for these changes."""
    rows = sorted(given, key=lambda each: (each[1], each[3]))
    arrays: dict[str, pa.Array] = {}
    if table.by_user:
        arrays[USER] = pa.array([each[1] for each in rows], pa.string())
    arrays[SEQ] = pa.array([each[2] for each in rows], pa.int64())
    arrays[VERSION] = pa.array([each[3] for each in rows], pa.int64())
    arrays[OP] = pa.array([int(each[0]) for each in rows], pa.int8())
    for at, column in enumerate(table.columns):
        arrays[column.name] = pa.array([each[4][at] for each in rows], column.type.arrow)
    return pa.table(arrays)


def inserts(user: str, first: int, *texts: str | None) -> list[Given]:
    return [(Op.INSERT, user, at, at, (at * 10, text)) for at, text in enumerate(texts, first)]


def lease(table: Table = NOTES, *, token: int = 1, through: int = 1 << 60) -> TableLease:
    return TableLease(table.id, token, "test", expires_at=1e12, through=through, store_id=STORE)


def job(number: int = 1) -> FlushJob:
    return FlushJob(f"job-{number}", "tables", "test", JobStatus.RUNNING, 0.0, "node")


def flush(
    cold: FileTables,
    given: Sequence[Given],
    *,
    table: Table = NOTES,
    token: int = 1,
    store: str = STORE,
    progress: Progress | None = None,
) -> Any:
    """Write changes in one commit, up to the newest of them."""
    reached = progress or Progress(max((each[3] for each in given), default=0))
    rows = changes(table, given)
    return cold.write(
        table, rows, lease=lease(table, token=token), progress=reached, store_id=store, job=job()
    )


@contextmanager
def cold_tables(
    url: str, folder: Path, *, files: Path | None = None, **more: Any
) -> Iterator[FileTables]:
    """Open cold tables, with their files in `folder`/tables or in `files`; the database and all
    files are closed at the end."""
    database = MigratedDatabase(url)
    file = SharedFile(folder / "buffer-tables.db", kind=TABLES, name="table store", script=SCRIPT)
    cold = FileTables(database, files or folder / "tables", file=file, **more)
    try:
        yield cold
    finally:
        cold.close()
        database.close()


def texts(cold: FileTables, table: Table = NOTES, *, user: str | None = None) -> list[Any]:
    """All rows as (user, id, text), in order."""
    found = cold.read(table, cold.live(table, stores=(), user=user), user=user).to_pylist()
    return sorted((row.get(USER, ""), row["id"], row["text"]) for row in found)
