"""Accepting changes: single rows into the journal, many into a segment; all of a call, or nothing.

One row on its own is one statement. Whatever else there is to check makes it a transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from surgetank.exceptions import EntryRejected, InvalidRequest
from surgetank.streams.tables.definition import NOBODY, USER, Table
from surgetank.streams.tables.hot import segments
from surgetank.streams.tables.hot.covering import uncovered
from surgetank.streams.tables.hot.hot_file import MOST, HotFile
from surgetank.streams.tables.hot.layout import Layout
from surgetank.streams.tables.hot.progress import progress_of
from surgetank.streams.tables.hot.protocol import (
    DELETED,
    DELETION_PARKED,
    ORIGIN_SHIFT,
    Accepted,
    BatchKey,
    Change,
    Op,
)
from surgetank.streams.tables.hot.putting import (
    KeyTaken,
    Puts,
    Rows,
    Stored,
    Unless,
    acks_of,
    erasures_of,
    known_batch,
    taken,
)
from surgetank.streams.tables.hot.schema import keys_of

pc: Any = pyarrow.compute  # its functions are made when it is imported
_KEYS_AT_ONCE = 500


class Accepting:
    """The side of `HotTables` that takes changes in."""

    def __init__(self, file: HotFile, putting: Puts, *, row_max_bytes: int) -> None:
        self._file, self._putting = file, putting
        self._row_max_bytes = row_max_bytes

    def accept(
        self,
        table: Table,
        changes: Sequence[Change],
        *,
        batch: BatchKey | None = None,
        unless_newer_than: int | None = None,
        unless_acked_since: int | None = None,
        unless_erased_since: int | None = None,
    ) -> Accepted:
        """See `HotTables.accept`."""
        if not changes:
            raise InvalidRequest("There is no change to accept.")
        layout = self._file.prepare(table)
        plain = batch is None and layout.key is None
        plain = plain and unless_acked_since is None and unless_erased_since is None
        if plain and len(changes) == 1 and changes[0].seq is None:
            accepted = self._accept_one(layout, changes[0])
            if accepted is not None:
                return accepted
        if any(change.seq is None and change.op for change in changes):
            raise InvalidRequest("A change of a row has to name the row, by its _seq.")
        _refuse_users(table, {change.user for change in changes})
        packed = [layout.packed(change.user, change.values) for change in changes]
        for index, (size, *_) in enumerate(packed):
            if size > self._row_max_bytes:
                at = index if len(packed) > 1 else None
                raise self._too_large(table, changes[index].user, at, size)
        self._file.admit(sum(size for size, *_ in packed))
        rows = Rows(
            [change.user for change in changes],
            [change.op.value for change in changes],
            [change.seq for change in changes],
            packed,
            [layout.key(change.values) for change in changes] if layout.key is not None else (),
        )
        try:
            return self._putting.put(
                layout,
                rows,
                Unless(batch, unless_newer_than, unless_acked_since, unless_erased_since),
            )
        except KeyTaken as error:
            change = changes[error.index]
            raise taken(table, change.user, change.values, error.index) from None

    def _accept_one(self, layout: Layout, change: Change) -> Accepted | None:
        """A row that nothing else depends on. None where it takes a transaction."""
        table, user = layout.table, change.user
        if "\0" in user:
            _refuse_users(table, [user])
        packed = layout.packed(user, change.values)
        size = packed[0]
        if size > self._row_max_bytes:
            raise self._too_large(table, user, None, size)
        row = (user, self._file.clock(), table.schema_version, *packed)
        version = self._file.insert(layout, size, row)
        return None if version is None else Accepted(version, version)

    def accept_arrow(
        self,
        table: Table,
        rows: pa.Table,
        *,
        batch: BatchKey | None = None,
        unless_acked_since: int | None = None,
        unless_erased_since: int | None = None,
    ) -> Accepted:
        """See `HotTables.accept_arrow`."""
        count = rows.num_rows
        if not 0 < count <= MOST:
            raise InvalidRequest(
                f"One call inserts 1 to {MOST} rows, not {count}.", remedy="insert them in parts."
            )
        layout = self._file.prepare(table)
        known = self.repeated(table, batch) if batch is not None else None
        if known is not None:
            return known
        for error in self.large_rows(table, rows):
            raise error
        plain, parts = segments.sorted_by_user(table, rows)
        _refuse_users(table, {part.user for part in parts})
        keys = _keys_of(layout, plain) if layout.key is not None else []
        name, size = segments.write_file(self._file.segments, table, plain)
        try:
            self._file.admit(size)
            stored = Stored(name, size, parts, keys)
            accepted = self._putting.put_segment(
                layout, stored, Unless(batch, None, unless_acked_since, unless_erased_since)
            )
        except KeyTaken as error:
            self._file.segments.remove([name])
            owner = next(p.user for p in reversed(parts) if p.start <= error.index)
            raise taken(table, owner, None, None) from None
        except BaseException:
            # Also where nobody knows whether it was committed: then its row names it.
            if not self._putting.may_name(name):
                self._file.segments.remove([name])
            raise
        if accepted.repeated:
            self._file.segments.remove([name])
        return accepted

    def too_large(
        self, table: Table, user: str, values: Sequence[Any], index: int
    ) -> EntryRejected | None:
        """See `HotTables.too_large`."""
        layout = self._file.prepare(table)
        if not layout.may_have(self._row_max_bytes, user, values):
            return None
        size = layout.packed(user, values)[0]
        if size <= self._row_max_bytes:
            return None
        return self._too_large(table, user, index, size)

    def large_rows(self, table: Table, rows: pa.Table) -> list[EntryRejected]:
        """See `HotTables.large_rows`."""
        if rows.nbytes <= self._row_max_bytes:
            return []
        sizes: Any = None
        for column in rows.columns:
            kind = column.type.storage_type if hasattr(column.type, "storage_type") else column.type
            plain = column.cast(kind) if kind is not column.type else column
            if pa.types.is_string(kind) or pa.types.is_binary(kind):
                length = pc.fill_null(pc.binary_length(plain), 0)
                sizes = length if sizes is None else pc.add(sizes, length)
        most = pc.max(sizes).as_py() if sizes is not None else 0
        if most <= self._row_max_bytes:
            return []
        at = pc.index(sizes, most).as_py()
        owner = str(rows.column(USER)[at].as_py()) if table.by_user else NOBODY
        return [self._too_large(table, owner, at, most)]

    def repeated(self, table: Table, batch: BatchKey) -> Accepted | None:
        """See `HotTables.repeated`."""
        with self._file.read() as connection:
            return known_batch(connection, table, batch)

    def acks(self, table: Table) -> int:
        """See `HotTables.acks`."""
        with self._file.read() as connection:
            return acks_of(connection, table)

    def erasures(self) -> int:
        """See `HotTables.erasures`."""
        with self._file.read() as connection:
            return erasures_of(connection)

    def known_keys(self, table: Table, user: str, keys: Sequence[bytes]) -> dict[bytes, int]:
        """See `HotTables.known_keys`."""
        self._file.prepare(table)
        found: dict[bytes, int] = {}
        with self._file.read() as connection:
            where, values = uncovered(progress_of(connection, table.id))
            for start in range(0, len(keys), _KEYS_AT_ONCE):
                some = keys[start : start + _KEYS_AT_ONCE]
                rows = connection.execute(
                    f"SELECT key, seq, op, version FROM {keys_of(table.id)} WHERE user = ? AND key IN"
                    f" ({', '.join('?' * len(some))}) AND {where}",
                    (user if table.by_user else NOBODY, *some, *values),
                )
                found |= {key: _known(*known) for key, *known in rows}
        return found

    def _too_large(self, table: Table, user: str, index: int | None, size: int) -> EntryRejected:
        return EntryRejected(
            partition=table.partition(user),
            path="$" if index is None else f"$[{index}]",
            reason=f"a row of {size} bytes, and {self._row_max_bytes} are the most",
            remedy="store large content elsewhere, or raise SURGETANK_TABLES_ROW_MAX_BYTES.",
        )


def _known(seq: int, op: int, version: int) -> int:
    if op != Op.DELETE:
        return seq
    return DELETED if version >> ORIGIN_SHIFT else DELETION_PARKED


def _refuse_users(table: Table, users: Iterable[str]) -> None:
    """The manifest names users, and PostgreSQL's text has no NUL: one such name would hold up all
    others of its flush."""
    for user in users:
        if "\0" in user:
            raise EntryRejected(
                partition=table.full_name,
                path="$._user",
                reason=f"a user can't be called {user!r:.80}: the name has the character NUL",
                remedy="use another name.",
            )


def _keys_of(layout: Layout, rows: pa.Table) -> list[bytes]:
    assert layout.key is not None
    key, table = layout.key, layout.table
    columns = [
        rows.column(column.name).to_pylist() if column.name in table.key else [None] * rows.num_rows
        for column in table.columns
    ]
    return [key(values) for values in zip(*columns, strict=True)]
