"""The cold part of a thread: what PostgreSQL says about its checkpoints. All methods block.

`Cold` is what reading asks of any durable store; `any_saver/cold.py` answers it from a LangGraph saver.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, Protocol

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode.differences import patch
from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import StateCorrupt
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold.bodies import unpack_body
from surgetank.streams.checkpoints.cold.many import read_many, writes_of_row
from surgetank.streams.checkpoints.envelope import CheckpointRecord
from surgetank.streams.checkpoints.raw import RawCheckpoint, RawWrite
from surgetank.streams.checkpoints.refs import CheckpointRef

SQL = queries("streams/checkpoints/cold/read.sql")
_WRITE, _MARK = 1, 3  # kinds of rows: 0 the checkpoint, 1 a write, 2 a blob, 3 the thread's mark


class Cold(Protocol):
    """A durable store as `Reader` and `Maintenance` see it. Every method may raise
    `DatabaseUnavailable`."""

    page_size: int

    def checkpoint(
        self, thread_id: str, ns: str, checkpoint_id: str, *, values: bool = False
    ) -> RawCheckpoint | None:
        """One checkpoint with its writes; with `values` those that come along at no cost, too."""
        ...

    def latest(
        self, thread_id: str, ns: str, hidden: Sequence[str], *, values: bool = False
    ) -> RawCheckpoint | None:
        """The newest checkpoint of the namespace that is not among the hidden ones; `values` as in
        `checkpoint`."""
        ...

    def mark(self, thread_id: str) -> bytes | None:
        """Which state the thread is in, if the store can tell: nothing of it has changed while this
        is the same."""
        ...

    def marks(self, threads: Sequence[str]) -> dict[str, bytes] | None:
        """The marks of those of the threads that are there; None when the store can't tell."""
        ...

    def deleted(self, threads: Sequence[str]) -> set[str]:
        """Those of the threads that were deleted lately."""
        ...

    def writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[RawWrite]:
        """The writes of a checkpoint that is itself still hot."""
        ...

    def blobs(
        self, thread_id: str, ns: str, versions: Mapping[str, str]
    ) -> dict[str, tuple[str, bytes]]:
        """The values of channel versions that are stored; others are missing from the result."""
        ...

    def projections(self, thread_id: str, ns: str, checkpoint_id: str) -> tuple[bytes, bytes]:
        """The JSON projections of a checkpoint's metadata and scalars; empty objects when it is
        gone."""
        ...

    def still_there(self, thread_id: str, ns: str, checkpoint_id: str) -> bool:
        """Whether the checkpoint was not deleted meanwhile."""
        ...

    def page(
        self,
        thread_id: str | None,
        ns: str | None,
        *,
        before: str | None,
        metadata: Mapping[str, Any] | None,
        last: CheckpointRef | None,
        limit: int,
    ) -> list[CheckpointRef]:
        """Places, newest first, after `last`. Fewer than `limit` only at the end."""
        ...

    def many(self, thread_id: str, ns: str, ids: Sequence[str]) -> dict[str, RawCheckpoint]:
        """Several checkpoints at once, where that is cheaper than one by one; what is missing is
        read singly."""
        ...

    def run_checkpoints(self, run_ids: Sequence[str]) -> list[CheckpointRef]:
        """References of the checkpoints that belong to runs."""
        ...


class ColdReader:
    """Reads checkpoints from PostgreSQL. Raises `DatabaseUnavailable`, `StateCorrupt`."""

    page_size = 200

    def __init__(self, database: Database) -> None:
        self._database = database

    def _query(self, name: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        with (
            self._database.reading() as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[name], arguments).fetchall()

    def _call(self, name: str, *arguments: Any) -> list[tuple[Any, ...]]:
        with self._database.reading() as connection, connection.cursor(binary=True) as cursor:
            return cursor.execute(SQL[name], arguments).fetchall()

    def checkpoint(
        self, thread_id: str, ns: str, checkpoint_id: str, *, values: bool = False
    ) -> RawCheckpoint | None:
        """One checkpoint with its writes; with `values` those that come along at no cost, too."""
        return self._one(thread_id, ns, checkpoint_id, [], values)

    def latest(
        self, thread_id: str, ns: str, hidden: Sequence[str], *, values: bool = False
    ) -> RawCheckpoint | None:
        """The newest checkpoint of the namespace that is not among the hidden ones; `values` as in
        `checkpoint`."""
        return self._one(thread_id, ns, None, list(hidden), values)

    def mark(self, thread_id: str) -> bytes | None:
        """Which state the thread is in (`streams.checkpoints.copies.layout.Mark`); None when it
        isn't there."""
        rows = self._call("mark", thread_id)
        return str(rows[0][0]).encode() if rows else None

    def marks(self, threads: Sequence[str]) -> dict[str, bytes]:
        """The marks of those of the threads that are there."""
        return {
            row["thread_id"]: row["mark"].encode()
            for row in self._query("marks", {"threads": list(threads)})
        }

    def deleted(self, threads: Sequence[str]) -> set[str]:
        """Those of the threads that were deleted lately."""
        return {row["thread_id"] for row in self._query("deleted", {"threads": list(threads)})}

    def _one(
        self, thread_id: str, ns: str, checkpoint_id: str | None, hidden: list[str], values: bool
    ) -> RawCheckpoint | None:
        arguments = {
            "thread_id": thread_id,
            "ns": ns,
            "id": checkpoint_id,
            "hidden": hidden,
            "values": values,
        }
        with self._database.reading() as connection, connection.cursor(binary=True) as cursor:
            rows = cursor.execute(SQL["checkpoint"], arguments).fetchall()
        mark = rows.pop(0)[1].encode() if rows and rows[0][0] == _MARK else None
        if not rows:
            return None
        _, found_id, parent_id, _, _, _, codec, _, _, body = rows[0]
        record = _record(thread_id, parent_id, codec, body)
        raw = RawCheckpoint(thread_id, ns, found_id, record, parent_id, mark=mark)
        blobs = []
        for kind, a, b, c, n, base_n, codec, raw_bytes, type_, data in rows[1:]:
            if kind == _WRITE:
                others = data[len(data) - base_n :] if base_n is not None else None
                own = data[: len(data) - base_n] if base_n is not None else data
                raw.writes += writes_of_row(thread_id, a, n, b, c, codec, type_, own, others)
            else:
                blobs.append((a, n, base_n, codec, raw_bytes, b, type_, data))
        if record.small is not None:
            raw.blobs = dict(record.small)
        if blobs:
            raw.blobs |= _values(thread_id, blobs, raw.versions())
        return raw

    def writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[RawWrite]:
        """The writes of a checkpoint that is itself still hot."""
        arguments = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        rows = self._query("writes", arguments)
        return [w for row in rows for w in writes_of_row(thread_id, *row.values())]

    def blobs(
        self, thread_id: str, ns: str, versions: Mapping[str, str]
    ) -> dict[str, tuple[str, bytes]]:
        """The values of channel versions that are stored; others are missing from the result."""
        if not versions:
            return {}
        rows = self._call("blobs", thread_id, ns, list(versions), list(versions.values()))
        found = _values(thread_id, [row for row in rows if row[0] is not None], versions)
        newest = next((row for row in rows if row[0] is None), None)
        if newest is not None:
            _, _, _, codec, _, checkpoint_id, _, body = newest
            _add_small(thread_id, found, versions, checkpoint_id, codec, body)
            self._search(found, thread_id, ns, versions, checkpoint_id)
        return found

    def _search(
        self,
        found: dict[str, tuple[str, bytes]],
        thread_id: str,
        ns: str,
        versions: Mapping[str, str],
        before: str,
    ) -> None:
        """Look through older checkpoints for small values: a hot one may descend from any of
        them."""
        while len(found) < len(versions):
            arguments = {
                "thread_id": thread_id,
                "checkpoint_ns": ns,
                "before": before,
                "limit": self.page_size,
            }
            rows = self._query("bodies_before", arguments)
            for row in rows:
                before = row["checkpoint_id"]
                _add_small(thread_id, found, versions, before, row["codec"], row["body"])
            if len(rows) < self.page_size:
                return

    def projections(self, thread_id: str, ns: str, checkpoint_id: str) -> tuple[bytes, bytes]:
        """The JSON projections of a checkpoint's metadata and scalars; empty objects when it is
        gone."""
        arguments = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        for row in self._query("projections", arguments):
            return row["metadata"].encode(), row["scalars"].encode()
        return b"{}", b"{}"

    def still_there(self, thread_id: str, ns: str, checkpoint_id: str) -> bool:
        """Whether the checkpoint was not deleted meanwhile."""
        arguments = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        return bool(self._query("still_there", arguments)[0]["there"])

    def page(
        self,
        thread_id: str | None,
        ns: str | None,
        *,
        before: str | None,
        metadata: Mapping[str, Any] | None,
        last: CheckpointRef | None,
        limit: int,
    ) -> list[CheckpointRef]:
        """References of checkpoints, newest first, after `last`. `metadata` narrows them where SQL can
        tell."""
        last_thread, last_ns, last_id = last or (None, None, None)
        rows = self._query(
            "page",
            {
                "thread_id": thread_id, "checkpoint_ns": ns, "before": before, "limit": limit,
                "metadata": Jsonb(metadata, dumps=_json) if metadata else None,
                "last_id": last_id, "last_thread": last_thread, "last_ns": last_ns,
            },
        )  # fmt: skip
        return [
            CheckpointRef(row["thread_id"], row["checkpoint_ns"], row["checkpoint_id"])
            for row in rows
        ]

    def many(self, thread_id: str, ns: str, ids: Sequence[str]) -> dict[str, RawCheckpoint]:
        """Several checkpoints at once, where that is cheaper than one by one; what is missing is
        read singly."""
        return read_many(self._database, thread_id, ns, ids)

    def threads(self) -> list[str]:
        """All thread ids, in order."""
        return [row["thread_id"] for row in self._query("threads", {})]

    def run_checkpoints(self, run_ids: Sequence[str]) -> list[CheckpointRef]:
        """References of the checkpoints that belong to runs."""
        rows = self._query("run_checkpoints", {"run_ids": list(run_ids)})
        return [
            CheckpointRef(row["thread_id"], row["checkpoint_ns"], row["checkpoint_id"])
            for row in rows
        ]


def _json(value: Any) -> bytes:
    return dumps_jsonb(value)[0]


def _values(
    thread_id: str, rows: Sequence[tuple[Any, ...]], versions: Mapping[str, str]
) -> dict[str, tuple[str, bytes]]:
    """The values behind rows of `blob_paths`: of each channel the path of its bases, then the
    wanted version."""
    values: dict[str, tuple[str, bytes]] = {}
    for channel, group in groupby(rows, key=itemgetter(0)):
        path = list(group)
        _, n, _, _, _, version, type_, _ = path[-1]
        if versions.get(channel) == version:
            blobs = [patch.stored(row[1], row[2], 0, row[3], row[4], row[7]) for row in path]
            try:
                values[channel] = (type_, patch.decode_all(blobs, {n})[n])
            except StateCorrupt as error:
                raise error.of(thread_id, channel) from error
    return values


def _record(thread_id: str, parent_id: str | None, codec: int, body: bytes) -> CheckpointRecord:
    try:
        return unpack_body(parent_id, codec, body)
    except StateCorrupt as error:
        raise error.of(thread_id) from error


def _add_small(
    thread_id: str,
    found: dict[str, tuple[str, bytes]],
    versions: Mapping[str, str],
    checkpoint_id: str,
    codec: int,
    body: bytes,
) -> None:
    """Take the values that are wanted from a checkpoint's body."""
    record = _record(thread_id, None, codec, body)
    if not record.small:
        return
    has = envelope.present_versions(record, checkpoint_id)
    for channel, value in record.small.items():
        if channel not in found and channel in versions and versions[channel] == has.get(channel):
            found[channel] = value
