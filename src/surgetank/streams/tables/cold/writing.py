"""One flush of one table: changes to files, and what is committed with them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from surgetank.exceptions import EntryRejected, SinkError
from surgetank.streams.tables.cold.arrays import sample
from surgetank.streams.tables.cold.files import Folder, NewFile, conform, sort_rows
from surgetank.streams.tables.cold.manifest import Commit, Deletes, Standing
from surgetank.streams.tables.cold.protocol import DataFile
from surgetank.streams.tables.cold.reading import Positions, Reader, may_have
from surgetank.streams.tables.cold.resolve import Resolved, resolve
from surgetank.streams.tables.definition import NOBODY, USER, Table
from surgetank.streams.tables.hot.protocol import VERSION, Progress

_MOST_REFUSALS = 500  # that are found at once
_FEW_USERS = 64  # of so many it is asked, of each file, whether it may have one of them


def prepare(
    table: Table,
    changes: pa.Table,
    before: Standing,
    after: Progress,
    *,
    folder: Folder,
    reader: Reader,
) -> Commit:
    """Write the files that these changes need; they are in no manifest yet. Raises
    `EntryRejected`."""
    resolved = resolve(table, changes)
    rows = _conformed(table, resolved.rows)
    deletes, missed = _deletes(table, resolved, before, folder=folder, reader=reader)
    files: list[NewFile] = []
    if rows.num_rows:
        files.append(folder.write(table, sort_rows(rows)))
    return Commit(
        files=files,
        deletes=deletes,
        missed=missed,
        progress=after,
        outcome={
            "changes": resolved.changes,
            "rows": rows.num_rows,
            "bytes": sum(file.bytes for file in files),
            "files": len(files),
            "deleted": sum(each.new.rows - each.file.deleted_rows for each in deletes),
        },
    )


def _conformed(table: Table, rows: pa.Table) -> pa.Table:
    try:
        return conform(table, rows)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise _rejected(table, rows, error) from error


def refusals(table: Table, rows: pa.Table) -> list[EntryRejected]:
    """See `ColdTables.refusals`. Found by halving: a few passes, however many there are."""
    found: list[EntryRejected] = []
    parts = [resolve(table, rows).rows]
    while parts and len(found) < _MOST_REFUSALS:
        part = parts.pop()
        error = _problem(table, part)
        if error is None:
            continue
        if part.num_rows == 1:
            found.append(_refusal(table, part, error))
        else:
            middle = part.num_rows // 2
            parts += [part.slice(middle), part.slice(0, middle)]
    return found


def _rejected(table: Table, rows: pa.Table, error: Exception) -> EntryRejected | SinkError:
    """The refusal of the first row that can't be stored. It is no row's fault where a row of
    ordinary values is refused as well."""
    found = _problem(table, sample(table))
    if found is not None:
        return SinkError(
            f"No row of {table.full_name} can be written: {' '.join(str(found).split())}.",
            remedy="its rows stay in the buffer; report it with the types of the table's columns.",
        )
    while rows.num_rows > 1:
        first = rows.slice(0, rows.num_rows // 2)
        found = _problem(table, first)
        if found is not None:
            rows, error = first, found
        else:
            rows = rows.slice(first.num_rows)
    return _refusal(table, rows, error)


def _problem(table: Table, rows: pa.Table) -> Exception | None:
    try:
        conform(table, rows)
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        return error
    return None


def _refusal(table: Table, row: pa.Table, error: Exception) -> EntryRejected:
    user = row.column(USER)[0].as_py() if table.by_user else NOBODY
    return EntryRejected(
        partition=table.partition(user),
        path="$",
        reason=" ".join(str(error).split()),
        remedy="look at the parked row; correct it with an UPDATE, or discard it.",
        seq=row.column(VERSION)[0].as_py(),
    )


def _deletes(
    table: Table, resolved: Resolved, before: Standing, *, folder: Folder, reader: Reader
) -> tuple[list[Deletes], int]:
    """New deletions of the files that have rows which are to go, and how many were not found."""
    gone = resolved.gone
    if not len(gone):
        return [], 0
    deletes, found = [], 0
    for file in before.files:
        if file.max_seq < gone[0] or file.min_seq > gone[-1]:
            continue
        if table.by_user and not _may_have_any(file, resolved.users):
            continue
        positions = reader.positions(table, file, gone, resolved.users)
        if not len(positions):
            continue
        found += len(positions)
        deletes.append(deletes_of(file, positions, folder=folder, reader=reader))
    return deletes, len(gone) - found


def deletes_of(file: DataFile, positions: Positions, *, folder: Folder, reader: Reader) -> Deletes:
    """Write a file's deleted positions with these added."""
    everything = np.union1d(reader.deleted(file), positions)
    return Deletes(file=file, new=folder.write_deletes(file.table_id, file.path, everything))


def _may_have_any(file: DataFile, users: Sequence[str]) -> bool:
    if len(users) > _FEW_USERS:
        return (
            file.min_user is None
            or file.max_user is None
            or (users[0] <= file.max_user and users[-1] >= file.min_user)
        )
    return any(may_have(file, user) for user in users)
