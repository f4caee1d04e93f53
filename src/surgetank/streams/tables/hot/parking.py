"""Rows that can't be flushed: set aside with the reason, still visible, put back or discarded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from surgetank.buffer.failures import failure_json, failure_of
from surgetank.model import ParkedEntry
from surgetank.streams.tables.definition import SEQ, STREAM, USER, Table
from surgetank.streams.tables.hot.columns import array_of, kept_of, row_json
from surgetank.streams.tables.hot.counting import mark, newest, recount_segments, tally
from surgetank.streams.tables.hot.definitions import definition_of
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.layout import Layout
from surgetank.streams.tables.hot.protocol import OP, Refused
from surgetank.streams.tables.hot.reading import changes
from surgetank.streams.tables.hot.schema import keys_of, rows_of
from surgetank.streams.tables.hot.segments import Range
from surgetank.streams.tables.values import writer


class Parking:
    """The side of `HotTables` that has parked rows."""

    def __init__(self, file: HotFile) -> None:
        self._file = file

    def parked(self) -> list[ParkedEntry]:
        """See `HotTables.parked`."""
        with self._file.read() as connection:
            tables = {table.id: table for table in self._file.tables(connection)}
            rows = connection.execute(
                "SELECT id, table_id, user, version, bytes, at, parked_at, failure, retries"
                " FROM hot_parked ORDER BY id"
            ).fetchall()
        return [
            ParkedEntry(
                id=-id_,
                stream=STREAM,
                partition=tables[table_id].partition(user),
                seq=version,
                bytes=size,
                accepted_at=at,
                parked_at=parked_at,
                failure=failure_of(failure),
                retries=retries,
            )
            for id_, table_id, user, version, size, at, parked_at, failure, retries in rows
            if table_id in tables
        ]

    def parked_row(self, parked_id: int) -> tuple[str, Mapping[str, Any]] | None:
        """See `HotTables.parked_row`. Values are as JSON has them."""
        with self._file.read() as connection:
            row = connection.execute(
                "SELECT t.definition, p.user, p.seq, p.row FROM hot_parked p"
                " JOIN hot_tables t ON t.table_id = p.table_id WHERE p.id = ? AND t.dropped = 0",
                (-parked_id,),
            ).fetchone()
        if row is None:
            return None
        definition, user, seq, text = row
        table, kept = definition_of(definition), json.loads(text)
        shown: dict[str, Any] = {USER: user} if table.by_user else {}
        shown[SEQ] = seq
        for column in table.columns:
            (value,) = array_of(column.type, [kept_of(column, kept)]).to_pylist()
            shown[column.name] = None if value is None else writer(column.type)(value)
        return table.full_name, shown

    def unpark(self, parked_ids: Sequence[int]) -> list[int]:
        """See `HotTables.unpark`."""
        versions: list[int] = []
        for parked_id in parked_ids:
            table = self._table_of(parked_id)
            if table is None:
                continue
            self._file.prepare(table)
            with self._file.write() as connection:
                version = self._put_back(connection, table, -parked_id)
            if version is not None:
                self._file.committed(table.id, version)
                versions.append(version)
        return versions

    def _put_back(self, connection: sqlite3.Connection, table: Table, id_: int) -> int | None:
        row = connection.execute(
            "DELETE FROM hot_parked WHERE id = ? RETURNING user, seq, op, at, retries, row", (id_,)
        ).fetchone()
        if row is None:
            return None
        user, seq, op, at, retries, text = row
        layout, kept = Layout(table), json.loads(text)
        stored = [kept_of(column, kept) for column in table.columns]
        values = [
            array_of(column.type, [value])[0].as_py()
            for column, value in zip(table.columns, stored, strict=True)
        ]
        version = self._file.take_versions(connection, table, 1)
        connection.execute(
            layout.put,
            (version, op, seq, user, at, table.schema_version, *layout.packed(user, values)),
        )
        connection.execute(
            "INSERT INTO hot_retried (table_id, version, parked_id, retries) VALUES (?, ?, ?, ?)",
            (table.id, version, id_, retries + 1),
        )
        _move_key(connection, table, user, values, id_, version)
        tally(connection, table.id)
        recount_segments(connection, table)
        return version

    def discard_parked(self, parked_ids: Sequence[int]) -> None:
        """See `HotTables.discard_parked`."""
        for parked_id in parked_ids:
            table = self._table_of(parked_id)
            if table is None:
                continue
            with self._file.write() as connection:
                row = connection.execute(
                    "DELETE FROM hot_parked WHERE id = ? RETURNING user", (-parked_id,)
                ).fetchone()
                if row is not None:
                    connection.execute(
                        f"DELETE FROM {keys_of(table.id)} WHERE user = ? AND version = ?",
                        (row[0], -parked_id),
                    )
                    recount_segments(connection, table)

    def _table_of(self, parked_id: int) -> Table | None:
        with self._file.read() as connection:
            row = connection.execute(
                "SELECT t.definition FROM hot_parked p JOIN hot_tables t ON t.table_id = p.table_id"
                " WHERE p.id = ? AND t.dropped = 0",
                (-parked_id,),
            ).fetchone()
        return None if row is None else definition_of(row[0])


def park(
    connection: sqlite3.Connection, folder: Path, table: Table, refused: Refused, now: float
) -> bool:
    """Set one change aside. False where it is not there (any more), or where a newer change of its
    row has all that it said."""
    user, version = refused.user, refused.version
    parts = changes(
        connection, folder, table, table.columns, Range(version - 1, version, user)
    )  # fmt: skip
    found = [row for part in parts for row in part.to_pylist()]
    if not found:
        return False
    (row,) = found
    at, size = _accepted(connection, table, user, version)
    _take_out(connection, table, user, version)
    superseded = connection.execute(
        f"SELECT 1 FROM {rows_of(table.id)} WHERE seq = ? AND version > ? AND user = ? LIMIT 1",
        (row[SEQ], version, user),
    ).fetchone()
    if superseded:
        return False
    values = [row[column.name] for column in table.columns]
    text = row_json(table.columns, values)
    again = connection.execute(
        "DELETE FROM hot_retried WHERE table_id = ? AND version = ? RETURNING parked_id, retries",
        (table.id, version),
    ).fetchone()
    id_, retries = again or (None, 0)
    cursor = connection.execute(
        "INSERT INTO hot_parked (id, table_id, user, version, seq, op, bytes, at, parked_at, failure,"
        " retries, schema, row) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (id_, table.id, user, version, row[SEQ], row[OP], size, at, now, failure_json(refused.failure),
         retries, table.schema_version, text),
    )  # fmt: skip
    assert cursor.lastrowid is not None
    _move_key(connection, table, user, values, version, cursor.lastrowid)
    return True


def _move_key(
    connection: sqlite3.Connection, table: Table, user: str, values: Sequence[Any], old: int, new: int
) -> None:  # fmt: skip
    key = Layout(table).key
    if key is not None:
        connection.execute(
            f"UPDATE {keys_of(table.id)} SET version = ? WHERE user = ? AND key = ? AND version = ?",
            (new, user, key(values), old),
        )


def _accepted(
    connection: sqlite3.Connection, table: Table, user: str, version: int
) -> tuple[float, int]:
    row = connection.execute(
        f"SELECT at, bytes FROM {rows_of(table.id)} WHERE user = ? AND version = ?", (user, version)
    ).fetchone()
    if row is None:
        row = connection.execute(
            "SELECT at, bytes / (last - first + 1) FROM hot_segments WHERE table_id = ? AND first <= ?"
            " AND last >= ?",
            (table.id, version, version),
        ).fetchone()
    return float(row[0]), int(row[1])


def _take_out(connection: sqlite3.Connection, table: Table, user: str, version: int) -> None:
    """Remove a change that was counted."""
    last = newest(connection, table.id)
    gone = connection.execute(
        f"DELETE FROM {rows_of(table.id)} WHERE user = ? AND version = ? RETURNING bytes",
        (user, version),
    ).fetchone()
    if gone is None:
        connection.execute(
            "INSERT OR IGNORE INTO hot_skipped (table_id, version) VALUES (?, ?)",
            (table.id, version),
        )
        return
    mark(connection, table.id, last)
    connection.execute(
        "UPDATE hot_tables SET changes = changes - 1, bytes = bytes - ?, removals = removals + 1"
        " WHERE table_id = ?",
        (gone[0], table.id),
    )
