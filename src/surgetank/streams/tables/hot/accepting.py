"""Accepting changes: single rows into the journal, many into a segment; all of a call, or nothing.

One row on its own is one statement. Whatever else there is to check makes it a transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute

from surgetank.exceptions import Conflict, EntryRejected, InvalidRequest
from surgetank.streams.tables.definition import NOBODY, USER, Table
from surgetank.streams.tables.hot import segments
from surgetank.streams.tables.hot.counting import mark, tally
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
    ErasedSince,
    Op,
)
from surgetank.streams.tables.hot.schema import keys_of, rows_of

pc: Any = pyarrow.compute  # its functions are made when it is imported
_KEYS_AT_ONCE = 500


class Accepting:
    """The side of `HotTables` that takes changes in."""

    def __init__(self, file: HotFile, *, row_max_bytes: int) -> None:
        self._file = file
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
        layout, schema = self._file.prepare(table), table.schema_version
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
        now = self._file.clock()
        self._file.admit(sum(size for size, *_ in packed))
        with self._file.write() as connection:
            known = _known_batch(connection, table, batch)
            if known is not None:
                return known
            _refuse_acked(connection, table, unless_acked_since)
            _refuse_erased(connection, unless_erased_since)
            self._refuse_changed(connection, table, changes, unless_newer_than)
            first = self._file.take_versions(connection, table, len(packed))
            connection.executemany(
                layout.put,
                (
                    (version, change.op.value, change.seq, change.user, now, schema, *row)
                    for version, (change, row) in enumerate(
                        zip(changes, packed, strict=True), first
                    )
                ),
            )
            if layout.key is not None:
                _put_keys(connection, layout, changes, first)
            tally(connection, table.id)
            last = first + len(packed) - 1
            _keep_batch(connection, table, batch, first, last, now)
        self._file.committed(table.id, first)
        return Accepted(first, last)

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
        now = self._file.clock()
        name, size = segments.write_file(self._file.segments, table, plain)
        try:
            self._file.admit(size)
            with self._file.write() as connection:
                known = _known_batch(connection, table, batch)
                if known is not None:
                    segments.remove(self._file.segments, [name])
                    return known
                _refuse_acked(connection, table, unless_acked_since)
                _refuse_erased(connection, unless_erased_since)
                first = self._file.take_versions(connection, table, count)
                placed = [
                    segments.Part(part.user, part.start, part.count, first + part.start)
                    for part in parts
                ]
                connection.execute(
                    "INSERT INTO hot_segments (table_id, first, last, bytes, at, file, directory)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        table.id,
                        first,
                        first + count - 1,
                        size,
                        now,
                        name,
                        segments.directory_of(placed),
                    ),
                )
                mark(connection, table.id, first + count - 1)
                connection.execute(
                    "UPDATE hot_tables SET segment_changes = segment_changes + ?1,"
                    " segment_bytes = segment_bytes + ?2,"
                    " segment_oldest_at = coalesce(segment_oldest_at, ?3) WHERE table_id = ?4",
                    (count, size, now, table.id),
                )
                if keys:
                    _put_segment_keys(connection, layout, placed, keys)
                _keep_batch(connection, table, batch, first, first + count - 1, now)
        except BaseException:
            # Also where nobody knows whether it was committed: then its row names it.
            if not self._named(name):
                segments.remove(self._file.segments, [name])
            raise
        self._file.committed(table.id, first)
        return Accepted(first, first + count - 1)

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
            return _known_batch(connection, table, batch)

    def acks(self, table: Table) -> int:
        """See `HotTables.acks`."""
        with self._file.read() as connection:
            return _acks(connection, table)

    def erasures(self) -> int:
        """See `HotTables.erasures`."""
        with self._file.read() as connection:
            return _erasures(connection)

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

    # -- what refuses

    def _refuse_changed(
        self,
        connection: sqlite3.Connection,
        table: Table,
        changes: Sequence[Change],
        newer_than: int | None,
    ) -> None:
        concerned = [change for change in changes if change.seq is not None]
        if not concerned:
            return
        (parked,) = connection.execute(
            "SELECT parked FROM hot_tables WHERE table_id = ?", (table.id,)
        ).fetchone()
        for change in concerned:
            if (
                parked
                and connection.execute(
                    "SELECT 1 FROM hot_parked WHERE table_id = ? AND user = ? AND seq = ?",
                    (table.id, change.user, change.seq),
                ).fetchone()
            ):
                raise Conflict(
                    f"A row of {table.partition(change.user)!r} is parked: it could not be flushed.",
                    remedy="retry or discard it first (`surgetank parked list`).",
                )
            # Its change has its `_seq`; what inserted it has it as its version.
            if (
                newer_than is not None
                and connection.execute(
                    f"SELECT 1 FROM {rows_of(table.id)} WHERE seq = ?1 AND version > ?2 AND user = ?3"
                    f" UNION ALL SELECT 1 FROM {rows_of(table.id)} WHERE version = ?1 AND ?1 > ?2"
                    " AND seq IS NULL AND user = ?3 LIMIT 1",
                    (change.seq, newer_than, change.user),
                ).fetchone()
            ):
                raise Conflict(
                    f"A row of {table.partition(change.user)!r} was changed meanwhile.",
                    remedy="read it again, and repeat the change.",
                )

    def _too_large(self, table: Table, user: str, index: int | None, size: int) -> EntryRejected:
        return EntryRejected(
            partition=table.partition(user),
            path="$" if index is None else f"$[{index}]",
            reason=f"a row of {size} bytes, and {self._row_max_bytes} are the most",
            remedy="store large content elsewhere, or raise SURGETANK_TABLES_ROW_MAX_BYTES.",
        )

    def _named(self, name: str) -> bool:
        try:
            with self._file.read() as connection:
                return connection.execute(
                    "SELECT 1 FROM hot_segments WHERE file = ?", (name,)
                ).fetchone() is not None  # fmt: skip
        except Exception:  # noqa: BLE001 - the error on its way out says why; the file is swept later
            return True


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


def _acks(connection: sqlite3.Connection, table: Table) -> int:
    row = connection.execute(
        "SELECT acks FROM hot_tables WHERE table_id = ?", (table.id,)
    ).fetchone()
    return int(row[0]) if row is not None else 0


def _refuse_acked(connection: sqlite3.Connection, table: Table, since: int | None) -> None:
    if since is not None and _acks(connection, table) != since:
        raise Conflict(
            f"Rows of {table.full_name} were flushed meanwhile.",
            remedy="read again, and repeat the change.",
        )


def _erasures(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT begun FROM hot_erasures").fetchone()
    return int(row[0]) if row is not None else 0


def _refuse_erased(connection: sqlite3.Connection, since: int | None) -> None:
    if since is not None and _erasures(connection) != since:
        raise ErasedSince(
            "A user was erased while the statement read rows, which may have been theirs.",
            remedy="repeat the statement.",
        )


def _known_batch(
    connection: sqlite3.Connection, table: Table, batch: BatchKey | None
) -> Accepted | None:
    if batch is None:
        return None
    row = connection.execute(
        "SELECT digest, first, last FROM hot_batches WHERE table_id = ? AND user = ? AND key = ?",
        (table.id, batch.user, batch.key),
    ).fetchone()
    if row is None:
        return None
    if row[0] != batch.digest:
        raise Conflict(
            f"The idempotency key {batch.key!r:.100} was used for other rows of {table.full_name}.",
            remedy="use a new key for new rows.",
        )
    return Accepted(row[1], row[2], repeated=True)


def _keep_batch(
    connection: sqlite3.Connection, table: Table, batch: BatchKey | None, first: int, last: int, now: float
) -> None:  # fmt: skip
    if batch is not None:
        connection.execute(
            "INSERT INTO hot_batches (table_id, user, key, digest, first, last, at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (table.id, batch.user, batch.key, batch.digest, first, last, now),
        )


def _put_keys(
    connection: sqlite3.Connection, layout: Layout, changes: Sequence[Change], first: int
) -> None:
    assert layout.key is not None
    for version, change in enumerate(changes, first):
        key = layout.key(change.values)
        put = connection.execute(
            layout.put_key, (change.user, key, version, change.seq or version, change.op.value)
        )
        if put.rowcount == 0:
            raise taken(layout.table, change.user, change.values, version - first)


def _keys_of(layout: Layout, rows: pa.Table) -> list[bytes]:
    assert layout.key is not None
    key, table = layout.key, layout.table
    columns = [
        rows.column(column.name).to_pylist() if column.name in table.key else [None] * rows.num_rows
        for column in table.columns
    ]
    return [key(values) for values in zip(*columns, strict=True)]


def _put_segment_keys(
    connection: sqlite3.Connection,
    layout: Layout,
    parts: Sequence[segments.Part],
    keys: Sequence[bytes],
) -> None:
    insert = int(Op.INSERT)
    put = connection.executemany(
        layout.put_key,
        (
            (part.user, keys[part.start + n], part.first + n, part.first + n, insert)
            for part in parts
            for n in range(part.count)
        ),
    )
    if put.rowcount == len(keys):
        return
    for part in parts:  # one of them is another row's: find which
        for n in range(part.count):
            row = connection.execute(
                f"SELECT version FROM {keys_of(layout.table.id)} WHERE user = ? AND key = ?",
                (part.user, keys[part.start + n]),
            ).fetchone()
            if row[0] != part.first + n:
                raise taken(layout.table, part.user, None, None)


def taken(table: Table, user: str, values: Sequence[Any] | None, index: int | None) -> Conflict:
    """The error for a key that another row has."""
    names = [column.name for column in table.columns]
    shown = (
        ""
        if values is None
        else f" ({', '.join(f'{name} = {values[names.index(name)]!r:.60}' for name in table.key)})"
    )
    at = "" if index is None else f" Row {index}:"
    return Conflict(
        f"{at} A row of {table.partition(user)!r} has this PRIMARY KEY already{shown}.".strip(),
        remedy="choose another key, or use ON CONFLICT DO UPDATE or DO NOTHING.",
    )
