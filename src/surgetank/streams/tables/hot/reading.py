"""Hot changes as Arrow: from the journal, from segments, and parked ones."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from surgetank.streams.tables.definition import SEQ, USER, Column, Kind, Table
from surgetank.streams.tables.hot.columns import array_of, kept_of
from surgetank.streams.tables.hot.counting import EVER, newest, oldest, skipped_of
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.journal import journal_rows
from surgetank.streams.tables.hot.mapped import InsertedRows
from surgetank.streams.tables.hot.progress import progress_of
from surgetank.streams.tables.hot.protocol import (
    OP,
    ORIGIN_SHIFT,
    VERSION,
    Pending,
    Progress,
    store_of,
)
from surgetank.streams.tables.hot.segment_files import SegmentFiles
from surgetank.streams.tables.hot.segments import NOTHING, Range, rows_of_segment, segments_of

pc: Any = pyarrow.compute  # its functions are made when it is imported
_LONG = 10_000  # versions; a journal of fewer is read quicker than looked up in


class Snapshots:
    """Consistent views of the hot rows."""

    def __init__(self, file: HotFile) -> None:
        self._file = file

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `HotTables.snapshot`. While it is open, nothing that it shows is unlinked: that needs a
        moment in which nobody reads an older state."""
        with self._file.read() as connection:
            yield Snapshot(connection, self._file)


class Snapshot:
    """What one read transaction sees."""

    def __init__(self, connection: sqlite3.Connection, file: HotFile) -> None:
        self._connection, self._files, self._clock = connection, file.segments, file.clock
        self._mapped, self._whose = file.mapped, file.whose
        connection.execute("SELECT 1 FROM hot_tables LIMIT 1").fetchone()  # from now on it is seen

    def through(self, table: Table) -> int:
        """See `HotSnapshot.through`."""
        return newest(self._connection, table.id)

    def stores(self, table: Table) -> tuple[str, ...]:
        """See `HotSnapshot.stores`."""
        rows = self._connection.execute(
            "SELECT origin FROM hot_progress WHERE table_id = ? ORDER BY origin", (table.id,)
        )
        return tuple(store_of(origin << ORIGIN_SHIFT) for (origin,) in rows)

    def rows(
        self,
        table: Table,
        *,
        user: str | None = None,
        columns: Sequence[str] | None = None,
        after: int = 0,
        up_to: int | None = None,
    ) -> pa.Table:
        """See `HotSnapshot.rows`."""
        shown = [
            column
            for column in table.columns
            if columns is None or column.name in columns
        ]  # fmt: skip
        chosen = Range(after, EVER if up_to is None else up_to, user if table.by_user else None)
        since = self._since(table)
        parts = [
            *self._single(table, shown, chosen, since),
            *inserted(self._connection, self._files, table, shown, chosen, since),
            *parked_rows(self._connection, table, shown, chosen),
        ]
        return in_order(table, shown, parts)

    def pending(
        self, table: Table, *, user: str | None, columns: Sequence[str], hidden: Sequence[str]
    ) -> Pending:
        """See `HotSnapshot.pending`."""
        connection = self._connection
        shown = [column for column in table.columns if column.name in columns]
        owner = user if table.by_user else None
        since = self._since(table)
        chosen = Range(0, EVER, owner)
        single = [
            *self._single(table, shown, chosen, since),
            *parked_rows(connection, table, shown, chosen),
        ]
        segments = self._mapped.of(connection, table, since or 0.0)
        progress = progress_of(connection, table.id) if segments else {}
        skipped = skipped_of(connection, table.id) if segments else []
        return Pending(
            pa.concat_tables(single) if single else in_order(table, shown, []),
            tuple(
                InsertedRows(
                    segment=segment,
                    table=table,
                    user=owner,
                    columns=shown,
                    hidden=hidden,
                    acknowledged=progress.get(segment.first >> ORIGIN_SHIFT, NOTHING),
                    skipped=skipped,
                )
                for segment in segments
            ),
        )

    def _single(
        self, table: Table, columns: Sequence[Column], chosen: Range, since: float | None
    ) -> Iterator[pa.Table]:
        """Rows of the journal. Of a long one those of a user are looked up."""
        connection, listed = self._connection, None
        progress = progress_of(connection, table.id)
        if chosen.user is not None:
            first = max(chosen.after, oldest(connection, table.id))
            if min(newest(connection, table.id), chosen.up_to) - first > _LONG:
                listed = self._whose.versions(connection, table, chosen.user, progress)
        return journal_rows(
            connection, table, columns, chosen, progress=progress, since=since, listed=listed
        )

    def _since(self, table: Table) -> float | None:
        """When what is visible was accepted at the earliest."""
        if table.kind is Kind.STREAM and table.ttl_s is not None:
            return self._clock() - table.ttl_s
        return None


def changes(
    connection: sqlite3.Connection,
    files: SegmentFiles,
    table: Table,
    columns: Sequence[Column],
    chosen: Range,
    since: float | None = None,
) -> list[pa.Table]:
    """The changes of a table in a range that were not acknowledged, as they lie: accepted after
    `since`."""
    progress = progress_of(connection, table.id)
    return [
        *journal_rows(connection, table, columns, chosen, progress=progress, since=since),
        *inserted(connection, files, table, columns, chosen, since),
    ]


def inserted(
    connection: sqlite3.Connection,
    files: SegmentFiles,
    table: Table,
    columns: Sequence[Column],
    chosen: Range,
    since: float | None = None,
) -> list[pa.Table]:
    """Those of them that are in segments."""
    progress, parts = progress_of(connection, table.id), list[pa.Table]()
    skipped: list[int] | None = None
    for segment in segments_of(connection, table):
        if since is not None and segment.at <= since:
            continue
        reached = progress.get(segment.first >> ORIGIN_SHIFT, Progress())
        own = Range(chosen.after, chosen.up_to, chosen.user, chosen.without, reached)
        found = rows_of_segment(files, table, segment, columns, own)
        if found is None:
            continue
        if skipped is None:
            skipped = skipped_of(connection, table.id)
        if skipped:
            gone = pc.is_in(found.column(VERSION), value_set=pa.array(skipped, pa.int64()))
            found = found.filter(pc.invert(gone))
        parts.append(found)
    return parts


def in_order(
    table: Table, columns: Sequence[Column], parts: Sequence[pa.Table], *, encoded: bool = False
) -> pa.Table:
    """Parts as one, in the order of user and version. With `encoded` users are a dictionary, as
    files have them."""
    filled = [part for part in parts if part.num_rows]
    if not filled:
        return _table(table, columns, [], [], [], [], [array_of(each.type, []) for each in columns])
    joined = pa.concat_tables(filled)
    versions = joined.column(VERSION).to_numpy()
    if table.by_user:
        users = joined.column(USER).combine_chunks().dictionary_encode()
        ranks = np.empty(
            len(users.dictionary), np.int16 if len(users.dictionary) < 2**15 else np.int32
        )
        ranks[pc.sort_indices(users.dictionary).to_numpy()] = np.arange(len(ranks))
        by_user = ranks[users.indices.to_numpy()]
        if encoded:
            joined = joined.set_column(0, USER, users)
    else:
        by_user = np.zeros(len(versions), np.int16)
    if bool(np.all(versions[1:] > versions[:-1])):
        if bool(np.all(by_user[1:] >= by_user[:-1])):
            return joined
        order = np.argsort(by_user, kind="stable")  # of small numbers: without comparing
    else:
        order = np.lexsort((versions, by_user))
        if bool(np.all(order[1:] > order[:-1])):
            return joined
    return joined.take(pa.array(order))


def _table(
    table: Table,
    columns: Sequence[Column],
    users: Sequence[str],
    seqs: Sequence[int],
    versions: Sequence[int],
    ops: Sequence[int],
    arrays: Sequence[pa.Array],
) -> pa.Table:
    found: dict[str, Any] = {USER: pa.array(users, pa.string())} if table.by_user else {}
    found[SEQ] = pa.array(seqs, pa.int64())
    found[VERSION] = pa.array(versions, pa.int64())
    found[OP] = pa.array(ops, pa.int8())
    found.update(zip([column.name for column in columns], arrays, strict=True))
    return pa.table(found)


def parked_rows(
    connection: sqlite3.Connection, table: Table, columns: Sequence[Column], chosen: Range
) -> list[pa.Table]:
    """Parked rows of a range: their versions are their own, of no store."""
    rows = connection.execute(
        "SELECT user, seq, id, op, row FROM hot_parked WHERE table_id = ? AND id > ? AND id <= ?"
        " AND (? IS NULL OR user = ?) ORDER BY user, id",
        (table.id, chosen.after, chosen.up_to, chosen.user, chosen.user),
    ).fetchall()
    if not rows:
        return []
    users, seqs, ids, ops, texts = zip(*rows, strict=True)
    kept = [json.loads(text) for text in texts]
    arrays = [array_of(column.type, [kept_of(column, row) for row in kept]) for column in columns]
    return [_table(table, columns, users, seqs, ids, ops, arrays)]
