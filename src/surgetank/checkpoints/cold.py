"""The cold part of a thread: what PostgreSQL says about its checkpoints. All methods block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.checkpoints.raw import RawCheckpoint, RawWrite
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import patch
from surgetank.encode.envelope import WriteRecord
from surgetank.encode.patch import Blob
from surgetank.sinks.rows import unpack_body

SQL = queries("cold")
Place = tuple[str, str, str]  # thread, namespace, checkpoint id


class ColdReader:
    """Reads checkpoints from PostgreSQL. Raises `DatabaseUnavailable`, `StateCorrupt`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def _query(self, name: str, arguments: Mapping[str, Any]) -> list[dict[str, Any]]:
        with (
            self._database.connection() as connection,
            connection.cursor(binary=True, row_factory=dict_row) as cursor,
        ):
            return cursor.execute(SQL[name], arguments).fetchall()

    def checkpoint(self, thread_id: str, ns: str, checkpoint_id: str) -> RawCheckpoint | None:
        """One checkpoint with its writes, without its values."""
        place = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        return self._one("checkpoint", thread_id, ns, place)

    def latest(self, thread_id: str, ns: str, hidden: Sequence[str]) -> RawCheckpoint | None:
        """The newest checkpoint of the namespace that is not among the hidden ones."""
        place = {"thread_id": thread_id, "checkpoint_ns": ns, "hidden": list(hidden)}
        return self._one("latest", thread_id, ns, place)

    def _one(self, name: str, thread_id: str, ns: str, arguments: Mapping[str, Any]) -> RawCheckpoint | None:
        rows = self._query(name, arguments)
        if not rows:
            return None
        row = rows[0]
        record = unpack_body(row["parent_id"], row["codec"], row["body"])
        raw = RawCheckpoint(thread_id, ns, row["checkpoint_id"], record, row["parent_id"])
        raw.writes = [_write(*w) for w in row["writes"] or ()]
        return raw

    def writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[RawWrite]:
        """The writes of a checkpoint that is itself still hot."""
        arguments = {"thread_id": thread_id, "checkpoint_ns": ns, "checkpoint_id": checkpoint_id}
        return [_write(*row.values()) for row in self._query("writes", arguments)]

    def blobs(self, thread_id: str, ns: str, versions: Mapping[str, str]) -> dict[str, tuple[str, bytes]]:
        """The values of channel versions that are stored; others are missing from the result."""
        if not versions:
            return {}
        arguments = {
            "thread_id": thread_id, "checkpoint_ns": ns,
            "channels": list(versions), "versions": list(versions.values()),
        }  # fmt: skip
        channels: dict[str, list[dict[str, Any]]] = {}
        for row in self._query("blobs", arguments):
            channels.setdefault(row["channel"], []).append(row)
        values: dict[str, tuple[str, bytes]] = {}
        for channel, rows in channels.items():
            wanted = next(row for row in rows if row["is_wanted"])
            path = [
                Blob(r["n"], r["base_n"], r["position"], r["codec"], r["raw_bytes"], r["data"]) for r in rows
            ]
            values[channel] = (wanted["type"], patch.decode_all(path, {wanted["n"]})[wanted["n"]])
        return values

    def projections(self, thread_id: str, ns: str, checkpoint_id: str) -> tuple[bytes, bytes]:
        """The JSON projections of a checkpoint's metadata and scalars; empty objects when it is gone."""
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
        metadata: Mapping[str, str] | None,
        last: Place | None,
        limit: int,
    ) -> list[Place]:
        """Places of checkpoints, newest first, after `last`. `metadata` narrows them where SQL can tell."""
        last_thread, last_ns, last_id = last or (None, None, None)
        rows = self._query(
            "page",
            {
                "thread_id": thread_id, "checkpoint_ns": ns, "before": before, "limit": limit,
                "metadata": Jsonb(metadata, dumps=orjson.dumps) if metadata else None,
                "last_id": last_id, "last_thread": last_thread, "last_ns": last_ns,
            },
        )  # fmt: skip
        return [(row["thread_id"], row["checkpoint_ns"], row["checkpoint_id"]) for row in rows]

    def run_checkpoints(self, run_ids: Sequence[str]) -> list[Place]:
        """Places of the checkpoints that belong to runs."""
        rows = self._query("run_checkpoints", {"run_ids": list(run_ids)})
        return [(row["thread_id"], row["checkpoint_ns"], row["checkpoint_id"]) for row in rows]


def _write(
    task_id: str, idx: int, task_path: str, channel: str, codec: int, type_: str, data: bytes
) -> RawWrite:
    return RawWrite(task_id, idx, WriteRecord(channel, task_path, type_, patch.decompress(codec, data)))
