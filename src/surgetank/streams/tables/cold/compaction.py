"""Merging small files, and applying deletions to files that have many.

The smallest files are merged where a table has too many: files are opened for each query of a user. Deletions that were
committed while a compaction read are found again in the new files, under the manifest's lock.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from surgetank.streams.tables.cold.files import Folder, NewFile, conform, sort_rows, split
from surgetank.streams.tables.cold.manifest import Deleted
from surgetank.streams.tables.cold.protocol import DataFile
from surgetank.streams.tables.cold.reading import Reader
from surgetank.streams.tables.definition import SEQ, Table

_TARGET = 32 * 1024**2  # bytes of a new file
_LARGE = 16 * 1024**2  # what is as large isn't merged again
_MOST_FILES = 4  # of a table, for each bucket that its bytes fill
_MOST_BYTES = 128 * 1024**2  # that are read at once
_ALIKE = 2  # a file is merged with smaller ones unless it is so many times as large as all of them
_DELETED = 0.25  # share of deleted rows from which a file is written again


def choose(files: Sequence[DataFile]) -> list[DataFile]:
    """The files to write again: those with many deletions, and where there are more than may be,
    the smallest, with all that are of alike size: so a row is written again only some times (10 where
    ten flushes come between two rounds, and 5 where 50 do)."""
    chosen = {file.id: file for file in files if file.deleted_rows > file.rows * _DELETED}
    buckets = max(1, sum(file.bytes for file in files) // _TARGET)
    if len(files) > _MOST_FILES * buckets:
        left, size = len(files), 0
        for file in sorted(files, key=lambda file: file.bytes):
            if file.bytes >= _LARGE or (
                left < _MOST_FILES * buckets and file.bytes > _ALIKE * size
            ):
                break
            chosen[file.id] = file
            left, size = left - 1, size + file.bytes
    taken: list[DataFile] = []
    space = _MOST_BYTES
    for file in chosen.values():
        space -= file.bytes
        if taken and space < 0:
            break
        taken.append(file)
    return taken if len(taken) > 1 or any(file.deleted_rows for file in taken) else []


def merge(
    table: Table, inputs: Sequence[DataFile], *, folder: Folder, reader: Reader
) -> tuple[list[NewFile], Deleted]:
    """Write the live rows of files into others, and say how deletions that come meanwhile are found
    in them."""
    parts = [
        rows for file in inputs for _, rows in reader.parts(table, file, columns=table.columns)
    ]
    if not parts:
        return [], lambda _: {}
    rows = sort_rows(conform(table, pa.concat_tables(parts)))
    buckets = max(1, sum(file.bytes for file in inputs) // _TARGET) if table.by_user else 1
    made = [
        (folder.write(table, part, bucket=bucket, buckets=buckets), part.column(SEQ).to_numpy())
        for bucket, part in split(rows, buckets)
    ]
    before = {file.id: file for file in inputs}

    def deleted(changed: Sequence[DataFile]) -> dict[str, NewFile]:
        gone = [
            reader.seqs_at(
                table, file, np.setdiff1d(reader.deleted(file), reader.deleted(before[file.id]))
            )
            for file in changed
        ]
        if not gone:
            return {}
        seqs = np.concatenate(gone)
        found = {new.path: np.flatnonzero(np.isin(of_new, seqs)) for new, of_new in made}
        return {
            path: folder.write_deletes(table.id, path, positions)
            for path, positions in found.items()
            if len(positions)
        }

    return [new for new, _ in made], deleted
