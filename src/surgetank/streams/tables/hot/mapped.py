"""Segments as readers see them: mapped into memory and kept so, with their directories as arrays.

A segment never changes: it is known by the name of its file. While it is kept, the pages of a file that was unlinked
are still there; so upkeep and erasure let all of them go.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from surgetank.bounded import BoundedMap
from surgetank.streams.tables.definition import SEQ, USER, Column, Table
from surgetank.streams.tables.hot.columns import constant
from surgetank.streams.tables.hot.protocol import Progress, store_of
from surgetank.streams.tables.hot.segment_files import SegmentFiles
from surgetank.streams.tables.hot.segments import COLUMNS, Segment, read_file, segment_of

_Numbers = np.ndarray[Any, np.dtype[np.int64]]
_Mask = np.ndarray[Any, np.dtype[np.bool_]]
_MOST_BYTES = 1024**3  # of files: pages that the system takes back when it needs them
_MOST = 2000
_NONE: _Numbers = np.empty(0, np.int64)


class MappedSegment:
    """A segment with its rows, which are in the order of users."""

    def __init__(self, segment: Segment, stored: pa.Table) -> None:
        parts = segment.parts
        self.rows = stored.num_rows
        self.columns = dict(zip(stored.column_names, stored.columns, strict=True))
        self.store = store_of(segment.first)
        self.first, self.last, self.bytes = segment.first, segment.last, segment.bytes
        self._parts = {part.user: part for part in parts}
        self._counts: _Numbers = np.array([part.count for part in parts], np.int64)
        self._firsts: _Numbers = np.array([part.first for part in parts], np.int64)
        starts = np.array([part.start for part in parts], np.int64)
        # Versions follow each other as the rows do, until a user is erased.
        self._in_order = bool(np.all(self._firsts == self.first + starts))

    def versions(self) -> _Numbers:
        """The version of each row."""
        if self._in_order:
            return np.arange(self.first, self.first + self.rows)
        return np.concatenate([np.arange(p.first, p.first + p.count) for p in self._parts.values()])

    def users(self) -> pa.Array:
        """The user of each row."""
        repeated = np.repeat(np.arange(len(self._counts), dtype=np.int32), self._counts)
        return pa.array(list(self._parts), pa.string()).take(pa.array(repeated))

    def of_user(self, user: str, reached: Sequence[Progress]) -> tuple[int, int, int] | None:
        """Of a user's rows that are not covered: where they begin, how many, and the first
        version."""
        part = self._parts.get(user)
        if part is None:
            return None
        through = max((each.held.get(user, each.through) for each in reached), default=0)
        low = max(0, through - part.first + 1)
        return (part.start + low, part.count - low, part.first + low) if low < part.count else None

    def uncovered(self, reached: Sequence[Progress]) -> _Mask | None:
        """Which rows are not covered; None: all."""
        if all(each.through < self.first for each in reached):
            return None  # who is held is behind all others
        through = np.zeros(len(self._counts), np.int64)
        for each in reached:
            mine = [each.held.get(user, each.through) for user in self._parts]
            through = np.maximum(through, mine)
        return self.versions() > np.repeat(through, self._counts)


class MappedSegments:
    """The segments of one file that were read last. For any number of threads."""

    def __init__(self, files: SegmentFiles) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._known: BoundedMap[str, MappedSegment] = BoundedMap(
            _MOST, most_weight=_MOST_BYTES, weigh=lambda each: each.bytes
        )

    def of(self, connection: sqlite3.Connection, table: Table, since: float) -> list[MappedSegment]:
        """Those of a table that were accepted after `since`, oldest first. Raises `BufferCorrupt`."""
        rows = connection.execute(
            "SELECT id, file FROM hot_segments WHERE table_id = ? AND at > ? ORDER BY first",
            (table.id, since),
        ).fetchall()
        return [self._one(connection, id_, name) for id_, name in rows]

    def forget(self) -> None:
        """Let all of them go: their files may be unlinked."""
        with self._lock:
            self._known.clear()

    def _one(self, connection: sqlite3.Connection, id_: int, name: str) -> MappedSegment:
        with self._lock:
            known = self._known.use(name)
        if known is None:
            row = connection.execute(
                f"SELECT {COLUMNS} FROM hot_segments WHERE id = ?", (id_,)
            ).fetchone()
            segment = segment_of(row)
            known = MappedSegment(segment, read_file(self._files, segment))
            with self._lock:
                self._known[name] = known
        return known


@dataclass(frozen=True, slots=True)
class InsertedRows:
    """Implements `Inserted`: rows of one segment, of one user or of all."""

    segment: MappedSegment
    table: Table
    user: str | None
    columns: Sequence[Column]
    hidden: Sequence[str]
    acknowledged: Progress
    skipped: Sequence[int]

    @property
    def store(self) -> str:
        """See `Inserted.store`."""
        return self.segment.store

    def rows(self, progress: Progress | None, changed: _Numbers) -> pa.Table | None:
        """See `Inserted.rows`."""
        reached = [self.acknowledged] if progress is None else [self.acknowledged, progress]
        segment, mask = self.segment, None
        start, count, first = 0, segment.rows, None
        if self.user is None:
            mask = segment.uncovered(reached)
        else:
            found = segment.of_user(self.user, reached)
            if found is None:
                return None
            start, count, first = found
        gone, versions = self._gone(changed), _NONE
        if SEQ in self.hidden or len(gone):
            versions = segment.versions() if first is None else np.arange(first, first + count)
        if len(gone):
            there = ~np.isin(versions, gone)
            mask = there if mask is None else mask & there
        if mask is not None and not mask.any():
            return None
        found_columns: dict[str, Any] = {}
        if USER in self.hidden:
            names = self.segment.users() if self.user is None else _repeated(self.user, count)
            found_columns[USER] = names
        if SEQ in self.hidden:
            found_columns[SEQ] = pa.array(versions)
        for column in self.columns:
            stored = segment.columns.get(f"c_{column.id}")
            found_columns[column.name] = (
                stored.slice(start, count)
                if stored is not None
                else constant(column.type, column.initial, count)
            )
        rows = pa.table(found_columns)
        return rows if mask is None else rows.filter(pa.array(mask))

    def _gone(self, changed: _Numbers) -> _Numbers:
        """Versions in the segment that are not to be shown."""
        first, last = self.segment.first, self.segment.last
        inside = changed[(changed >= first) & (changed <= last)]
        more = [version for version in self.skipped if first <= version <= last]
        return np.concatenate([inside, np.array(more, np.int64)]) if more else inside


def _repeated(user: str, count: int) -> pa.Array:
    return pa.array([user], pa.string()).take(pa.array(np.zeros(count, np.int32)))
