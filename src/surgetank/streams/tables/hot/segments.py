"""Segments: many inserted rows of one call in one Arrow file, sorted by user, that its row in the store commits.

A row's version is its user's first in this segment plus its position among that user's rows. The directory, in the
row, has of each user where the rows begin, how many there are, and the first version.
"""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from surgetank.exceptions import BufferCorrupt
from surgetank.streams.tables.definition import NOBODY, SEQ, USER, Column, Table
from surgetank.streams.tables.hot.columns import constant
from surgetank.streams.tables.hot.protocol import OP, VERSION, Op, Progress
from surgetank.streams.tables.hot.segment_files import SegmentFiles

pc: Any = pyarrow.compute  # its functions are made when it is imported
NOTHING = Progress()  # acknowledged
_Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Part:
    """One user's rows in a segment."""

    user: str
    start: int
    count: int
    first: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as its row has it. Versions are from `first` to `last`."""

    id: int
    first: int
    last: int
    bytes: int
    at: float
    file: str
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """How many rows there are in the file."""
        return sum(part.count for part in self.parts)


COLUMNS = "id, first, last, bytes, at, file, directory"


def segment_of(row: Sequence[Any]) -> Segment:
    """A segment, from `COLUMNS`."""
    id_, first, last, size, at, file, directory = row
    return Segment(
        id=id_, first=first, last=last, bytes=size, at=at, file=file, parts=_parts(directory)
    )


@lru_cache(maxsize=256)
def _parts(directory: bytes) -> tuple[Part, ...]:
    users, counts, firsts = json.loads(directory)
    parts, start = [], 0
    for user, count, first in zip(users, counts, firsts, strict=True):
        parts.append(Part(user, start, count, first))
        start += count
    return tuple(parts)


def directory_of(parts: Sequence[Part]) -> bytes:
    """The directory of parts that follow each other."""
    columns = [
        [part.user for part in parts], [part.count for part in parts], [part.first for part in parts],
    ]  # fmt: skip
    return json.dumps(columns, separators=(",", ":"), ensure_ascii=False).encode()


def segments_of(connection: sqlite3.Connection, table: Table) -> list[Segment]:
    """Those of a table, oldest first."""
    rows = connection.execute(
        f"SELECT {COLUMNS} FROM hot_segments WHERE table_id = ? ORDER BY first", (table.id,)
    ).fetchall()
    return [segment_of(row) for row in rows]


def sorted_by_user(table: Table, rows: pa.Table) -> tuple[pa.Table, list[Part]]:
    """The rows, those of each user together and in their order, without the user; `first` of the
    parts counts from 0."""
    if not table.by_user:
        return rows, [Part(NOBODY, 0, rows.num_rows, 0)]
    encoded = rows.column(USER).combine_chunks().dictionary_encode()
    names, plain = encoded.dictionary, rows.drop_columns([USER])
    if len(names) == 1:
        return plain, [Part(names[0].as_py(), 0, rows.num_rows, 0)]
    order = pc.sort_indices(names).to_numpy()
    rank = np.empty(len(order), np.int16 if len(order) < 2**15 else np.int32)
    rank[order] = np.arange(len(order))
    ranks = rank[encoded.indices.to_numpy()]
    plain = plain.take(pa.array(np.argsort(ranks, kind="stable")))
    counts = np.bincount(ranks, minlength=len(order)).tolist()
    parts, start = [], 0
    for user, count in zip(names.take(pa.array(order)).to_pylist(), counts, strict=True):
        parts.append(Part(user, start, count, start))
        start += count
    return plain, parts


def write_file(files: SegmentFiles, table: Table, rows: pa.Table) -> tuple[str, int]:
    """Write the columns into a file that survives a power cut: its name, and its bytes."""
    columns = [column for column in table.columns if column.name in rows.column_names]
    named = pa.table(
        [rows.column(column.name) for column in columns],
        names=[f"c_{column.id}" for column in columns],
    )
    return write_stored(files, table, named)


def write_stored(files: SegmentFiles, table: Table, named: pa.Table) -> tuple[str, int]:
    """Write columns that have the names of the file."""
    name = f"{table.id}-{uuid.uuid4().hex}.arrow"
    return name, files.store(name, named)


def read_file(files: SegmentFiles, segment: Segment) -> pa.Table:
    """The columns of a segment, mapped into memory. Raises `BufferCorrupt`."""
    found = files.open(segment.file)
    if found.num_rows != segment.rows:
        raise BufferCorrupt(
            f"The segment {segment.file} has {found.num_rows} rows instead of {segment.rows}.",
            remedy="put the file back from a copy of the home.",
        )
    return found


@dataclass(frozen=True, slots=True)
class Range:
    """Which changes: newer than `after`, at most `up_to`, of `user`, none of users `without`, and
    none of what `progress` covers."""

    after: int
    up_to: int
    user: str | None = None
    without: Collection[str] = ()
    progress: Progress = NOTHING

    def slices(self, segment: Segment) -> Iterator[tuple[Part, int, int]]:
        """Of a segment each part, from which of its rows, and how many."""
        if segment.last <= self.after or segment.first > self.up_to:
            return
        for part in segment.parts:
            if self.user not in (None, part.user) or part.user in self.without:
                continue
            reached = self.progress.held.get(part.user, self.progress.through)
            low = max(0, max(self.after, reached) - part.first + 1)
            high = min(part.count, self.up_to - part.first + 1)
            if low < high:
                yield part, low, high - low


def rows_of_segment(
    files: SegmentFiles, table: Table, segment: Segment, columns: Sequence[Column], chosen: Range
) -> pa.Table | None:
    """Its changes in a range, with the hidden columns."""
    slices = list(chosen.slices(segment))
    if not slices:
        return None
    stored = read_file(files, segment)
    count = sum(size for _, _, size in slices)
    if count == stored.num_rows:
        picked = stored
    else:
        runs = _joined(slices)
        picked = pa.concat_tables([stored.slice(start, size) for start, size in runs])
    versions: _Numbers = np.concatenate(
        [np.arange(part.first + low, part.first + low + size) for part, low, size in slices]
    )
    found: dict[str, Any] = {}
    if table.by_user:
        repeats = np.repeat(np.arange(len(slices)), [size for _, _, size in slices])
        names = pa.array([part.user for part, _, _ in slices], pa.string())
        found[USER] = names.take(pa.array(repeats))
    found[SEQ] = found[VERSION] = pa.array(versions)
    found[OP] = pa.array(np.full(count, int(Op.INSERT), np.int8))
    for column in columns:
        stem = f"c_{column.id}"
        found[column.name] = (
            picked.column(stem)
            if stem in picked.column_names
            else constant(column.type, column.initial, count)
        )
    return pa.table(found)


def _joined(slices: Sequence[tuple[Part, int, int]]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for part, low, size in slices:
        start = part.start + low
        if runs and sum(runs[-1]) == start:
            runs[-1] = (runs[-1][0], runs[-1][1] + size)
        else:
            runs.append((start, size))
    return runs
