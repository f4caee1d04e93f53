"""Merging small files, and applying deletions to files that have many.

Files of alike size are merged, some at a time, so that a row is written again only a few times. Deletions that were
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

_TIERS = (128 * 1024, 1024**2, 16 * 1024**2)  # sizes under which files are alike
_LEAST = 8  # files of one tier that are merged
_MOST_BYTES = 128 * 1024**2  # that are read at once
_TARGET = 32 * 1024**2  # bytes of a new file
_DELETED = 0.25  # share of deleted rows from which a file is written again


def choose(files: Sequence[DataFile]) -> list[DataFile]:
    """The files to write again: those with many deletions, and those of the first tier that has
    enough."""
    chosen = {file.id: file for file in files if file.deleted_rows > file.rows * _DELETED}
    low = 0
    for high in _TIERS:
        alike = [file for file in files if low <= file.bytes < high]
        if len(alike) >= _LEAST:
            chosen |= {file.id: file for file in alike}
            break
        low = high
    taken: list[DataFile] = []
    left = _MOST_BYTES
    for file in chosen.values():
        left -= file.bytes
        if taken and left < 0:
            break
        taken.append(file)
    return taken


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
