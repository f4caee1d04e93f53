"""What a call accepts is written: all of it in one transaction, or nothing."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from surgetank.exceptions import Conflict
from surgetank.streams.tables.definition import Table
from surgetank.streams.tables.hot import segments
from surgetank.streams.tables.hot.counting import mark, tally
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.layout import Layout
from surgetank.streams.tables.hot.protocol import Accepted, BatchKey, ErasedSince, Op
from surgetank.streams.tables.hot.schema import keys_of, rows_of


@dataclass(frozen=True, slots=True)
class Rows:
    """The changes of a call, as they are stored; `keys` in a table that has a PRIMARY KEY."""

    users: Sequence[str]
    ops: Sequence[int]
    seqs: Sequence[int | None]
    packed: Sequence[Sequence[Any]]
    keys: Sequence[bytes] = ()


@dataclass(frozen=True, slots=True)
class Stored:
    """A segment whose file is stored. `first` of its parts counts from 0; `keys` are those of its
    rows."""

    file: str
    size: int
    parts: Sequence[segments.Part]
    keys: Sequence[bytes] = ()

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return sum(part.count for part in self.parts)


@dataclass(frozen=True, slots=True)
class Unless:
    """What else a call said: see `HotTables.accept`."""

    batch: BatchKey | None = None
    newer_than: int | None = None
    acked_since: int | None = None
    erased_since: int | None = None


class KeyTaken(Exception):
    """Another row has the PRIMARY KEY of the row with this index."""

    def __init__(self, index: int) -> None:
        super().__init__(index)
        self.index = index


class Puts(Protocol):
    """Who writes what a call accepts. Raises `KeyTaken`, and what `HotTables.accept` raises."""

    def put(self, layout: Layout, rows: Rows, unless: Unless) -> Accepted:
        """Write rows."""
        ...

    def put_segment(self, layout: Layout, stored: Stored, unless: Unless) -> Accepted:
        """Write that a segment is there."""
        ...

    def may_name(self, file: str) -> bool:
        """Whether it was, or may have been, written that this segment is there."""
        ...


class Putting:
    """Writes into the file."""

    def __init__(self, file: HotFile) -> None:
        self._file = file

    def put(self, layout: Layout, rows: Rows, unless: Unless) -> Accepted:
        table, schema, now = layout.table, layout.table.schema_version, self._file.clock()
        with self._file.write() as connection:
            known = known_batch(connection, table, unless.batch)
            if known is not None:
                return known
            _refuse_acked(connection, table, unless.acked_since)
            _refuse_erased(connection, unless.erased_since)
            _refuse_changed(connection, table, rows, unless.newer_than)
            first = self._file.take_versions(connection, table, len(rows.packed))
            connection.executemany(
                layout.put,
                (
                    (first + n, rows.ops[n], rows.seqs[n], rows.users[n], now, schema, *row)
                    for n, row in enumerate(rows.packed)
                ),
            )
            if rows.keys:
                _put_keys(connection, layout, rows, first)
            tally(connection, table.id)
            last = first + len(rows.packed) - 1
            _keep_batch(connection, table, unless.batch, first, last, now)
        self._file.committed(table.id, first)
        return Accepted(first, last)

    def put_segment(self, layout: Layout, stored: Stored, unless: Unless) -> Accepted:
        table, count, now = layout.table, stored.rows, self._file.clock()
        with self._file.write() as connection:
            known = known_batch(connection, table, unless.batch)
            if known is not None:
                return known
            _refuse_acked(connection, table, unless.acked_since)
            _refuse_erased(connection, unless.erased_since)
            first = self._file.take_versions(connection, table, count)
            last = first + count - 1
            placed = [
                segments.Part(part.user, part.start, part.count, first + part.start)
                for part in stored.parts
            ]
            connection.execute(
                "INSERT INTO hot_segments (table_id, first, last, bytes, at, file, directory)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (table.id, first, last, stored.size, now, stored.file, segments.directory_of(placed)),
            )  # fmt: skip
            mark(connection, table.id, last)
            connection.execute(
                "UPDATE hot_tables SET segment_changes = segment_changes + ?1,"
                " segment_bytes = segment_bytes + ?2,"
                " segment_oldest_at = coalesce(segment_oldest_at, ?3) WHERE table_id = ?4",
                (count, stored.size, now, table.id),
            )
            if stored.keys:
                _put_segment_keys(connection, layout, placed, stored.keys)
            _keep_batch(connection, table, unless.batch, first, last, now)
        self._file.committed(table.id, first)
        return Accepted(first, last)

    def may_name(self, file: str) -> bool:
        try:
            with self._file.read() as connection:
                named = connection.execute("SELECT 1 FROM hot_segments WHERE file = ?", (file,))
                return named.fetchone() is not None
        except Exception:  # noqa: BLE001 - the error on its way out says why; the file is swept later
            return True


def _refuse_changed(
    connection: sqlite3.Connection,
    table: Table,
    rows: Rows,
    newer_than: int | None,
) -> None:
    concerned = [each for each in zip(rows.users, rows.seqs, strict=True) if each[1] is not None]
    if not concerned:
        return
    (parked,) = connection.execute(
        "SELECT parked FROM hot_tables WHERE table_id = ?", (table.id,)
    ).fetchone()
    for user, seq in concerned:
        if (
            parked
            and connection.execute(
                "SELECT 1 FROM hot_parked WHERE table_id = ? AND user = ? AND seq = ?",
                (table.id, user, seq),
            ).fetchone()
        ):
            raise Conflict(
                f"A row of {table.partition(user)!r} is parked: it could not be flushed.",
                remedy="retry or discard it first (`surgetank parked list`).",
            )
        # Its change has its `_seq`; what inserted it has it as its version.
        if (
            newer_than is not None
            and connection.execute(
                f"SELECT 1 FROM {rows_of(table.id)} WHERE seq = ?1 AND version > ?2 AND user = ?3"
                f" UNION ALL SELECT 1 FROM {rows_of(table.id)} WHERE version = ?1 AND ?1 > ?2"
                " AND seq IS NULL AND user = ?3 LIMIT 1",
                (seq, newer_than, user),
            ).fetchone()
        ):
            raise Conflict(
                f"A row of {table.partition(user)!r} was changed meanwhile.",
                remedy="read it again, and repeat the change.",
            )


def acks_of(connection: sqlite3.Connection, table: Table) -> int:
    row = connection.execute(
        "SELECT acks FROM hot_tables WHERE table_id = ?", (table.id,)
    ).fetchone()
    return int(row[0]) if row is not None else 0


def _refuse_acked(connection: sqlite3.Connection, table: Table, since: int | None) -> None:
    if since is not None and acks_of(connection, table) != since:
        raise Conflict(
            f"Rows of {table.full_name} were flushed meanwhile.",
            remedy="read again, and repeat the change.",
        )


def erasures_of(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT begun FROM hot_erasures").fetchone()
    return int(row[0]) if row is not None else 0


def _refuse_erased(connection: sqlite3.Connection, since: int | None) -> None:
    if since is not None and erasures_of(connection) != since:
        raise ErasedSince(
            "A user was erased while the statement read rows, which may have been theirs.",
            remedy="repeat the statement.",
        )


def known_batch(
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


def _put_keys(connection: sqlite3.Connection, layout: Layout, rows: Rows, first: int) -> None:
    for n, (user, key) in enumerate(zip(rows.users, rows.keys, strict=True)):
        version = first + n
        put = connection.execute(
            layout.put_key, (user, key, version, rows.seqs[n] or version, rows.ops[n])
        )
        if put.rowcount == 0:
            raise KeyTaken(n)


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
                raise KeyTaken(part.start + n)


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
