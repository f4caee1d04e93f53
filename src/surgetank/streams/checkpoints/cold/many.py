"""Many cold checkpoints of a namespace at once, for listings: three queries, and each stored blob
is decoded once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg.rows import tuple_row

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode.differences import patch
from surgetank.exceptions import StateCorrupt
from surgetank.streams.checkpoints.cold.bodies import unpack_body, unpack_others
from surgetank.streams.checkpoints.envelope import WriteRecord
from surgetank.streams.checkpoints.raw import RawCheckpoint, RawWrite

SQL = queries("streams/checkpoints/cold/read.sql")
_Version = tuple[str, int]  # a channel and the number of its blob


def read_many(
    database: Database, thread_id: str, ns: str, ids: Sequence[str]
) -> dict[str, RawCheckpoint]:
    """Those of the checkpoints that are there, with writes and values. One whose values are not all
    there comes without them. Raises `DatabaseUnavailable`, `StateCorrupt`.
    """
    where = {"thread_id": thread_id, "checkpoint_ns": ns, "ids": list(ids)}
    with (
        database.reading() as connection,
        connection.cursor(binary=True, row_factory=tuple_row) as cursor,
    ):
        found: dict[str, RawCheckpoint] = {}
        wanted: dict[str, dict[str, int]] = {}
        older: dict[str, dict[str, str]] = {}
        for checkpoint_id, parent_id, codec, body, numbers in cursor.execute(
            SQL["many"], where
        ).fetchall():
            raw = _checkpoint(thread_id, ns, checkpoint_id, parent_id, codec, body)
            found[checkpoint_id] = raw
            if numbers is None:
                older[checkpoint_id] = {
                    c: v for c, v in raw.versions().items() if c not in raw.blobs
                }
            else:
                wanted[checkpoint_id] = numbers
        if older:
            wanted |= _numbers_of(cursor, where, older)
        for checkpoint_id, *write in cursor.execute(SQL["many_writes"], where).fetchall():
            if checkpoint_id in found:
                found[checkpoint_id].writes += writes_of_row(thread_id, *write)
        values = _values(cursor, thread_id, where, {v for n in wanted.values() for v in n.items()})
    for checkpoint_id, versions in wanted.items():
        blobs = found[checkpoint_id].blobs
        blobs |= {
            channel: values[channel, n] for channel, n in versions.items() if (channel, n) in values
        }
    return found


def _checkpoint(
    thread_id: str, ns: str, checkpoint_id: str, parent_id: str | None, codec: int, body: bytes
) -> RawCheckpoint:
    try:
        record = unpack_body(parent_id, codec, body)
    except StateCorrupt as error:
        raise error.of(thread_id) from error
    raw = RawCheckpoint(thread_id, ns, checkpoint_id, record, parent_id)
    raw.blobs = dict(record.small or {})
    return raw


def writes_of_row(
    thread_id: str,
    task_id: str,
    idx: int,
    task_path: str,
    channel: str,
    codec: int,
    type_: str,
    data: bytes,
    others: bytes | None,
) -> list[RawWrite]:
    """The write of a row, and those that lie beside it."""
    try:
        found = [(idx, WriteRecord(channel, task_path, type_, patch.decompress(codec, data)))]
        if others is not None:
            found += unpack_others(task_path, others)
    except StateCorrupt as error:
        raise error.of(thread_id, channel) from error
    return [RawWrite(task_id, number, record) for number, record in found]


def _numbers_of(
    cursor: Any, where: Mapping[str, Any], older: Mapping[str, Mapping[str, str]]
) -> dict[str, dict[str, int]]:
    """The blobs of checkpoints that were stored without their numbers, by the versions of their
    channels."""
    pairs = sorted({pair for versions in older.values() for pair in versions.items()})
    arguments = {**where, "channels": [c for c, _ in pairs], "versions": [v for _, v in pairs]}
    numbers = {(c, v): n for c, v, n in cursor.execute(SQL["many_numbers"], arguments).fetchall()}
    return {
        checkpoint_id: {c: numbers[c, v] for c, v in versions.items() if (c, v) in numbers}
        for checkpoint_id, versions in older.items()
    }


def _values(
    cursor: Any, thread_id: str, where: Mapping[str, Any], wanted: Iterable[_Version]
) -> dict[_Version, tuple[str, bytes]]:
    numbers: dict[str, set[int]] = {}
    for channel, n in wanted:
        numbers.setdefault(channel, set()).add(n)
    if not numbers:
        return {}
    pairs = [(channel, n) for channel, of_channel in numbers.items() for n in of_channel]
    arguments = {**where, "channels": [c for c, _ in pairs], "numbers": [n for _, n in pairs]}
    rows: dict[str, list[Any]] = {}
    for row in cursor.execute(SQL["many_values"], arguments).fetchall():
        rows.setdefault(row[0], []).append(row)
    values: dict[_Version, tuple[str, bytes]] = {}
    for channel, of_channel in rows.items():
        blobs = [
            patch.stored(n, base, 0, codec, size, data)
            for _, n, base, codec, size, _, data in of_channel
        ]
        types = {row[1]: row[5] for row in of_channel}
        try:
            decoded = patch.decode_all(blobs, numbers[channel] & types.keys())
        except StateCorrupt as error:
            raise error.of(thread_id, channel) from error
        values |= {(channel, n): (types[n], data) for n, data in decoded.items()}
    return values
