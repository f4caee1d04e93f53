"""The PRIMARY KEYs of parked changes.

A row is parked as its newest change says: nobody changes a parked row. So its key is taken, also where the change
deletes it: until the deletion is in files, another row of the key would be there beside the old one. What was accepted
after the deletion is parked behind it, put back with it, and discarded before it. The rows of a key have growing
`_seq`, whatever is parked, put back or parked again.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from surgetank.streams.tables.definition import SEQ, Table
from surgetank.streams.tables.hot.columns import array_of, kept_of
from surgetank.streams.tables.hot.counting import EVER
from surgetank.streams.tables.hot.layout import Layout
from surgetank.streams.tables.hot.protocol import OP, VERSION
from surgetank.streams.tables.hot.reading import changes
from surgetank.streams.tables.hot.schema import keys_of
from surgetank.streams.tables.hot.segment_files import SegmentFiles
from surgetank.streams.tables.hot.segments import Range

_Newest = tuple[int, bool, int, int]  # a change's `_seq`, whether it is parked, its number, its op


@dataclass(frozen=True, slots=True)
class ParkedKey:
    """A parked change: whose, of which row, and the bytes of its key (none without a PRIMARY
    KEY)."""

    id: int
    user: str
    seq: int
    op: int
    key: bytes | None


def key_of(table: Table, values: Sequence[Any]) -> bytes | None:
    """The bytes of a row's key."""
    key = Layout(table).key
    return None if key is None else key(values)


def move_key(
    connection: sqlite3.Connection, table: Table, user: str, values: Sequence[Any], old: int, new: int
) -> None:  # fmt: skip
    """The change that a key was last changed by has another number."""
    key = key_of(table, values)
    if key is not None:
        connection.execute(
            f"UPDATE {keys_of(table.id)} SET version = ? WHERE user = ? AND key = ? AND version = ?",
            (new, user, key, old),
        )


def following(
    table: Table, deletion: dict[str, Any], later: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Of later changes of a user those that have the key which a deletion makes free."""
    key = key_of(table, _of(table, deletion))
    if key is None:
        return []
    return [row for row in later if key_of(table, _of(table, row)) == key]


def with_same_key(
    connection: sqlite3.Connection, table: Table, ids: Sequence[int]
) -> list[ParkedKey]:
    """These parked changes, and those with the key of one of them, in order."""
    asked = json.dumps(list(ids))
    # Several of one key are parked only where one of them deletes a row.
    rows = connection.execute(
        "WITH asked AS (SELECT value FROM json_each(?2)), users AS (SELECT user FROM hot_parked"
        " WHERE table_id = ?1 AND op = 2 AND user IN (SELECT user FROM hot_parked WHERE id IN asked))"
        " SELECT id, user, seq, op, row FROM hot_parked WHERE table_id = ?1"
        " AND (id IN asked OR user IN users) ORDER BY user, seq",
        (table.id, asked),
    ).fetchall()
    parked = [_parked_key(table, row) for row in rows]
    chosen = set(ids)
    keys = {(each.user, each.key) for each in parked if each.id in chosen and each.key is not None}
    return [each for each in parked if each.id in chosen or (each.user, each.key) in keys]


def find_keys_again(
    connection: sqlite3.Connection, files: SegmentFiles, table: Table, gone: Sequence[ParkedKey]
) -> None:
    """Of keys whose newest change was discarded, find what is newest of what is left."""
    lost: dict[str, set[bytes]] = {}
    for each in gone:
        if each.key is None:
            continue
        removed = connection.execute(
            f"DELETE FROM {keys_of(table.id)} WHERE user = ? AND key = ? AND version = ?",
            (each.user, each.key, each.id),
        )
        if removed.rowcount:
            lost.setdefault(each.user, set()).add(each.key)
    for user, keys in lost.items():
        newest: dict[bytes, _Newest] = {}
        for key, found in [
            *_waiting(connection, files, table, user),
            *_parked(connection, table, user),
        ]:
            if key in keys:
                newest[key] = max(newest.get(key, found), found)
        connection.executemany(
            f"INSERT INTO {keys_of(table.id)} (user, key, version, seq, op) VALUES (?, ?, ?, ?, ?)",
            [(user, key, version, seq, op) for key, (seq, _, version, op) in newest.items()],
        )


def _waiting(
    connection: sqlite3.Connection, files: SegmentFiles, table: Table, user: str
) -> list[tuple[bytes | None, _Newest]]:
    parts = changes(connection, files, table, table.columns, Range(0, EVER, user))
    return [
        (key_of(table, _of(table, row)), (row[SEQ], False, row[VERSION], row[OP]))
        for part in parts
        for row in part.to_pylist()
    ]


def _parked(
    connection: sqlite3.Connection, table: Table, user: str
) -> list[tuple[bytes | None, _Newest]]:
    rows = connection.execute(
        "SELECT id, user, seq, op, row FROM hot_parked WHERE table_id = ? AND user = ?",
        (table.id, user),
    )
    found = [_parked_key(table, row) for row in rows]
    return [(each.key, (each.seq, True, each.id, each.op)) for each in found]


def _parked_key(table: Table, row: tuple[int, str, int, int, str]) -> ParkedKey:
    id_, user, seq, op, text = row
    return ParkedKey(id_, user, seq, op, key_of(table, stored_row(table, text)))


def stored_row(table: Table, text: str) -> list[Any]:
    """The values of a parked row."""
    kept = json.loads(text)
    return [array_of(column.type, [kept_of(column, kept)])[0].as_py() for column in table.columns]


def _of(table: Table, row: dict[str, Any]) -> list[Any]:
    return [row[column.name] for column in table.columns]
