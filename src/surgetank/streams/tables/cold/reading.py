"""Reading the Parquet files of tables: the row groups that may have what is wanted, without deleted rows.

Files never change, so what was learned of one (its footer, its deleted positions) is remembered by its
name.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq

from surgetank.bounded import BoundedMap
from surgetank.exceptions import StateCorrupt
from surgetank.streams.tables.cold.arrays import repeated
from surgetank.streams.tables.cold.files import Folder, cast, field_ids, hash_of
from surgetank.streams.tables.cold.protocol import DataFile
from surgetank.streams.tables.definition import (
    HIDDEN,
    SEQ,
    SEQ_ID,
    USER,
    USER_ID,
    Column,
    Table,
)

pc: Any = pyarrow.compute  # its functions are made when it is imported

Positions = np.ndarray[Any, np.dtype[np.int64]]
NONE: Positions = np.empty(0, np.int64)
_MANY = 10_000  # rows from which several threads decode them sooner than one


def may_have(file: DataFile, user: str) -> bool:
    """Whether a file may have rows of a user."""
    if file.min_user is None or file.max_user is None:
        return True
    there = file.min_user <= user <= file.max_user
    return there and hash_of(user) % file.buckets == file.bucket


def columns_of(table: Table, names: Sequence[str] | None) -> list[Column]:
    """Columns by name, in the order asked for; all without names."""
    if names is None:
        return list(table.columns)
    found = [table.column(name) for name in names]
    return [column for column in found if column is not None]


def read_schema(
    table: Table, columns: Sequence[Column], hidden: Sequence[str] = HIDDEN
) -> pa.Schema:
    """What rows look like: as declared, hidden columns first."""
    first = [pa.field(USER, pa.string())] if table.by_user and USER in hidden else []
    if SEQ in hidden:
        first.append(pa.field(SEQ, pa.int64()))
    return pa.schema([*first, *(pa.field(c.name, c.type.arrow) for c in columns)])


class _Footer:
    """What is known of a file from its end: names of columns by field id, and of each row group the
    position of its first row, how many there are, and its first and last user (where known)."""

    def __init__(self, opened: pq.ParquetFile) -> None:
        self.metadata = opened.metadata
        self.names = field_ids(opened.schema_arrow)
        counts = [self.metadata.row_group(at).num_rows for at in range(opened.num_row_groups)]
        self.counts, self.starts = counts, list(accumulate(counts, initial=0))
        self._bounds = [self._users(at) for at in range(len(counts))]

    def groups(self, users: Sequence[str] | None = None) -> Iterator[int]:
        """The row groups that may have rows of these users (in order); all without users."""
        for at, bounds in enumerate(self._bounds):
            if users is None or bounds is None:
                yield at
                continue
            next_one = bisect_left(users, bounds[0])
            if next_one < len(users) and users[next_one] <= bounds[1]:
                yield at

    def _users(self, at: int) -> tuple[str, str] | None:
        found = self.metadata.row_group(at).column(0).statistics
        if found is None or not found.has_min_max or not isinstance(found.min, str):
            return None
        return found.min, found.max


class Reader:
    """Reads the files of a folder."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._footers: BoundedMap[str, _Footer] = BoundedMap(
            most_weight=64 * 1024**2, weigh=lambda footer: 8 * footer.metadata.serialized_size
        )
        self._deleted: BoundedMap[str, Positions] = BoundedMap(
            most_weight=64 * 1024**2, weigh=lambda positions: positions.nbytes
        )

    def parts(
        self,
        table: Table,
        file: DataFile,
        *,
        user: str | None = None,
        columns: Sequence[Column],
        hidden: Sequence[str] = HIDDEN,
    ) -> Iterator[tuple[int, pa.Table]]:
        """The live rows of a file, a row group at a time, with the position of the first row of the
        group."""
        gone = self.deleted(file)
        schema = read_schema(table, columns, hidden)
        with self._open(table, file) as (opened, footer):
            names = footer.names
            wanted = [column.id for column in columns]
            if table.by_user and (user is not None or USER in hidden):
                wanted.append(USER_ID)
            if SEQ in hidden or not any(each in names for each in wanted):
                wanted.append(SEQ_ID)
            stored = [names[each] for each in wanted if each in names]
            for at in footer.groups(None if user is None else (user,)):
                first, count = footer.starts[at], footer.counts[at]
                rows = opened.read_row_group(
                    at, columns=stored, use_threads=user is None and count > _MANY
                )
                keep = _live(first, rows.num_rows, gone)
                start, rows = (
                    _of_user(rows, names[USER_ID], user) if user is not None else (0, rows)
                )
                if keep is not None:
                    rows = rows.filter(pa.array(keep[start : start + rows.num_rows]))
                if rows.num_rows:
                    yield first, _declared(rows, names, columns, schema)

    def positions(
        self, table: Table, file: DataFile, seqs: Positions, users: Sequence[str]
    ) -> Positions:
        """Where rows with these sequences are in a file, deleted ones left out. `users` are those
        that they may belong to, in order."""
        inside = seqs[(seqs >= file.min_seq) & (seqs <= file.max_seq)]
        if not len(inside):
            return NONE
        found = []
        with self._open(table, file) as (opened, footer):
            seq = footer.names[SEQ_ID]
            for at in footer.groups(users if table.by_user and users else None):
                values = opened.read_row_group(at, columns=[seq]).column(seq).to_numpy()
                found.append(np.flatnonzero(np.isin(values, inside)) + footer.starts[at])
        everything = np.concatenate(found) if found else NONE
        return np.setdiff1d(everything, self.deleted(file))

    def seqs_at(self, table: Table, file: DataFile, positions: Positions) -> Positions:
        """The sequences at these positions of a file."""
        with self._open(table, file) as (opened, footer):
            seq = footer.names[SEQ_ID]
            values = opened.read(columns=[seq]).column(seq).to_numpy()
        return np.asarray(values, np.int64)[positions]

    def has_rows_of(self, table: Table, file: DataFile, user: str) -> bool:
        """Whether a file has rows of a user, deleted ones too."""
        with self._open(table, file) as (opened, footer):
            name = footer.names[USER_ID]
            return any(
                _of_user(opened.read_row_group(at, columns=[name]), name, user)[1].num_rows
                for at in footer.groups((user,))
            )

    def stored(self, table: Table, file: DataFile) -> pa.Table:
        """All rows of a file as they are stored, deleted ones too."""
        with self._open(table, file) as (opened, _):
            return opened.read()

    def deleted(self, file: DataFile) -> Positions:
        """The deleted positions of a file, in order."""
        name = file.delete_path
        if name is None:
            return NONE
        with self._lock:
            known = self._deleted.use(name)
        if known is None:
            with self._named(name), self._folder.location.open(name) as opened:
                rows = pq.read_table(opened, columns=["pos"])
            known = np.asarray(rows.column("pos").to_numpy(), np.int64)
            with self._lock:
                self._deleted[name] = known
        return known

    @contextmanager
    def _open(self, table: Table, file: DataFile) -> Iterator[tuple[pq.ParquetFile, _Footer]]:
        with self._lock:
            footer = self._footers.use(file.path)
        with (
            self._named(file.path),
            self._folder.location.open(file.path) as source,
            pq.ParquetFile(
                source,
                metadata=footer.metadata if footer is not None else None,
                read_dictionary=[USER] if table.by_user else None,
            ) as opened,
        ):
            if footer is None:
                footer = _Footer(opened)
                with self._lock:
                    self._footers[file.path] = footer
            yield opened, footer

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Turn what is raised for a file that is missing or damaged into the family's error."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            self._folder.location.distrust(name)
            raise StateCorrupt(
                f"The table file {self._folder.address(name)} can't be read ({error}).",
                remedy="restore it from a backup; rows in other files are not concerned.",
            ) from error


def _live(first: int, count: int, gone: Positions) -> np.ndarray[Any, Any] | None:
    """Which of the rows from `first` on are not deleted; None: all."""
    start, end = np.searchsorted(gone, [first, first + count])
    if start == end:
        return None
    keep = np.ones(count, dtype=bool)
    keep[gone[start:end] - first] = False
    return keep


def _of_user(rows: pa.Table, name: str, user: str) -> tuple[int, pa.Table]:
    """The rows of one user, which stand together, and where they begin."""
    start = end = passed = 0
    for chunk in rows.column(name).chunks:
        code = chunk.dictionary.index(user).as_py()
        if code >= 0:
            hits = np.flatnonzero(chunk.indices.to_numpy() == code)
            if len(hits):
                start = passed + int(hits[0]) if end == 0 else start
                end = passed + int(hits[-1]) + 1
        passed += len(chunk)
    return start, rows.slice(start, end - start)


def _declared(
    rows: pa.Table, names: dict[int, str], columns: Sequence[Column], schema: pa.Schema
) -> pa.Table:
    """Stored rows with the columns and types that are declared."""
    found: list[Any] = []
    if USER in schema.names:
        found.append(rows.column(names[USER_ID]).cast(pa.string()))
    if SEQ in schema.names:
        found.append(rows.column(names[SEQ_ID]))
    for column in columns:
        if column.id in names:
            values = rows.column(names[column.id])
            kind = column.type.arrow
            found.append(values if values.type == kind else cast(values, kind))
        else:
            found.append(repeated(column, rows.num_rows))
    return pa.table(found, schema=schema)
