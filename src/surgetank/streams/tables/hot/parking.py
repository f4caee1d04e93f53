"""Rows that can't be flushed: set aside with the reason, still visible, put back or discarded."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from surgetank.buffer.failures import failure_json, failure_of
from surgetank.exceptions import Conflict
from surgetank.model import Failure, FailureKind, ParkedEntry
from surgetank.streams.tables.definition import SEQ, STREAM, USER, Table
from surgetank.streams.tables.hot.columns import array_of, kept_of, row_json
from surgetank.streams.tables.hot.counting import EVER, mark, newest, recount_segments, tally
from surgetank.streams.tables.hot.definitions import definition_of
from surgetank.streams.tables.hot.hot_file import HotFile
from surgetank.streams.tables.hot.layout import Layout
from surgetank.streams.tables.hot.parked_keys import (
    ParkedKey,
    find_keys_again,
    following,
    move_key,
    stored_row,
    with_same_key,
)
from surgetank.streams.tables.hot.protocol import OP, VERSION, Op, Refused
from surgetank.streams.tables.hot.reading import changes
from surgetank.streams.tables.hot.schema import rows_of
from surgetank.streams.tables.hot.segment_files import SegmentFiles
from surgetank.streams.tables.hot.segments import Range
from surgetank.streams.tables.values import writer

_AT_ONCE = 500  # rows that are put back in one transaction


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
                "SELECT t.definition, p.user, p.seq, p.op, p.row FROM hot_parked p"
                " JOIN hot_tables t ON t.table_id = p.table_id WHERE p.id = ? AND t.dropped = 0",
                (-parked_id,),
            ).fetchone()
        if row is None:
            return None
        definition, user, seq, op, text = row
        table, kept = definition_of(definition), json.loads(text)
        shown: dict[str, Any] = {USER: user} if table.by_user else {}
        shown[SEQ] = seq
        if op == Op.DELETE:
            shown[OP] = Op.DELETE.name  # its other columns have nothing
        for column in table.columns:
            (value,) = array_of(column.type, [kept_of(column, kept)]).to_pylist()
            shown[column.name] = None if value is None else writer(column.type)(value)
        return table.full_name, shown

    def unpark(self, parked_ids: Sequence[int]) -> list[int]:
        """See `HotTables.unpark`."""
        versions: list[int] = []
        for table, ids in self._by_table(parked_ids):
            self._file.prepare(table)
            for start in range(0, len(ids), _AT_ONCE):
                with self._file.write() as connection:
                    back = [
                        self._put_back(connection, table, each.id)
                        for each in with_same_key(connection, table, ids[start : start + _AT_ONCE])
                    ]
                    if back:
                        tally(connection, table.id)
                        recount_segments(connection, table)
                for version in back:
                    self._file.committed(table.id, version)
                versions += back
        return versions

    def _put_back(self, connection: sqlite3.Connection, table: Table, id_: int) -> int:
        user, seq, op, at, retries, text = connection.execute(
            "DELETE FROM hot_parked WHERE id = ? RETURNING user, seq, op, at, retries, row", (id_,)
        ).fetchone()
        layout, values = Layout(table), stored_row(table, text)
        version = self._file.take_versions(connection, table, 1)
        connection.execute(
            layout.put,
            (version, op, seq, user, at, table.schema_version, *layout.packed(user, values)),
        )
        connection.execute(
            "INSERT INTO hot_retried (table_id, version, parked_id, retries) VALUES (?, ?, ?, ?)",
            (table.id, version, id_, retries + 1),
        )
        move_key(connection, table, user, values, id_, version)
        return version

    def discard_parked(self, parked_ids: Sequence[int]) -> None:
        """See `HotTables.discard_parked`."""
        for table, ids in self._by_table(parked_ids):
            with self._file.write() as connection:
                alike = with_same_key(connection, table, ids)
                chosen = set(ids)
                _refuse_alone(alike, chosen)
                gone = [each for each in alike if each.id in chosen]
                for each in gone:
                    connection.execute("DELETE FROM hot_parked WHERE id = ?", (each.id,))
                find_keys_again(connection, self._file.segments, table, gone)
                recount_segments(connection, table)

    def _by_table(self, parked_ids: Sequence[int]) -> list[tuple[Table, list[int]]]:
        """Numbers of parked rows as they are stored, by table; unknown ones are left out."""
        with self._file.read() as connection:
            rows = connection.execute(
                "SELECT p.id, p.table_id, t.definition FROM hot_parked p"
                " JOIN hot_tables t ON t.table_id = p.table_id"
                " WHERE p.id IN (SELECT -value FROM json_each(?)) AND t.dropped = 0 ORDER BY p.id",
                (json.dumps(list(parked_ids)),),
            ).fetchall()
        found: dict[int, tuple[Table, list[int]]] = {}
        for id_, table_id, definition in rows:
            if table_id not in found:
                found[table_id] = definition_of(definition), []
            found[table_id][1].append(id_)
        return list(found.values())


def _refuse_alone(alike: Sequence[ParkedKey], chosen: Collection[int]) -> None:
    """Raises `Conflict` where a deletion is to be discarded, and a row that has the key of its row is
    not."""
    deletions = {
        (each.user, each.key): each.id
        for each in alike
        if each.key is not None and each.op == Op.DELETE and each.id in chosen
    }
    for each in alike:
        deletion = deletions.get((each.user, each.key)) if each.key is not None else None
        if deletion is not None and each.id not in chosen:
            raise Conflict(
                f"The parked deletion {-deletion} can't be discarded alone: its row would have the PRIMARY"
                f" KEY of the row {-each.id}, which is parked behind it.",
                remedy="discard both, or retry them.",
            )


def park(
    connection: sqlite3.Connection, files: SegmentFiles, table: Table, refused: Refused, now: float
) -> list[tuple[int, bool]]:
    """Set one change aside, and what follows a deletion of the same key: that key is not free before
    the deletion was. The versions that don't wait any more, and whether each is parked: not where
    another change of its row has all that it said. Nothing where it is not there (any more)."""
    user, version = refused.user, refused.version
    found = _found(connection, files, table, Range(version - 1, version, user))
    if not found:
        return []
    parked = _park_one(connection, table, refused, found[0], now)
    done = [(version, parked)]
    if parked and found[0][OP] == Op.DELETE:
        later = _found(connection, files, table, Range(version, EVER, user))
        why = _waits_for(version)
        for row in following(table, found[0], later):
            behind = Refused(user, row[VERSION], why)
            done.append((row[VERSION], _park_one(connection, table, behind, row, now)))
    return done


def _found(
    connection: sqlite3.Connection, files: SegmentFiles, table: Table, chosen: Range
) -> list[dict[str, Any]]:
    parts = changes(connection, files, table, table.columns, chosen)
    return sorted((row for part in parts for row in part.to_pylist()), key=lambda row: row[VERSION])


def _park_one(
    connection: sqlite3.Connection, table: Table, refused: Refused, row: dict[str, Any], now: float
) -> bool:
    user, version = refused.user, refused.version
    at, size = _accepted(connection, table, user, version)
    _take_out(connection, table, user, version)
    again = connection.execute(
        "DELETE FROM hot_retried WHERE table_id = ? AND version = ? RETURNING parked_id, retries",
        (table.id, version),
    ).fetchone()
    # What is parked of a row is its newest change: no other is accepted after it.
    superseded = connection.execute(
        f"SELECT 1 FROM {rows_of(table.id)} WHERE seq = ?1 AND version > ?2 AND user = ?3 UNION ALL"
        " SELECT 1 FROM hot_parked WHERE table_id = ?4 AND user = ?3 AND seq = ?1 LIMIT 1",
        (row[SEQ], version, user, table.id),
    ).fetchone()
    if superseded:
        return False
    values = [row[column.name] for column in table.columns]
    id_, retries = again or (None, 0)
    cursor = connection.execute(
        "INSERT INTO hot_parked (id, table_id, user, version, seq, op, bytes, at, parked_at, failure,"
        " retries, schema, row) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (id_, table.id, user, version, row[SEQ], row[OP], size, at, now, failure_json(refused.failure),
         retries, table.schema_version, row_json(table.columns, values)),
    )  # fmt: skip
    assert cursor.lastrowid is not None
    move_key(connection, table, user, values, version, cursor.lastrowid)
    return True


def _waits_for(version: int) -> Failure:
    return Failure(
        FailureKind.REJECTED,
        f"the change {version}, which deletes the row that had this PRIMARY KEY, is parked",
        "Parked",
        remedy="retry that one: this one is put back with it.",
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
