"""What is stored of a thread, hot and cold: the contents that retention and the storage report
judge.

The buffer is looked at first and the database second, like every reader does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import Cursor

from surgetank.buffer.log import Log
from surgetank.database.queries import queries
from surgetank.encode import jsontext
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold.bodies import unpack_body
from surgetank.streams.checkpoints.envelope import STREAM, CheckpointRecord
from surgetank.streams.checkpoints.hot import HotThread
from surgetank.streams.checkpoints.raw import RawCheckpoint
from surgetank.streams.checkpoints.refs import LocalRef
from surgetank.streams.checkpoints.retention.plan import Contents, Stored, StoredBlob

SQL = queries("streams/checkpoints/retention/retention.sql")
COUNTERS = "counters_since_delta_snapshot"

Rows = Cursor[dict[str, Any]]
BlobKey = tuple[int, str, str]  # namespace number, channel, version


class Inventory:
    """Loads threads with one buffer and one cursor."""

    def __init__(self, buffer: Log, cursor: Rows) -> None:
        self._buffer = buffer
        self._cursor = cursor

    def load(self, thread_id: str, *, values: bool) -> Contents | None:
        """A thread's contents; None when all of it is about to be deleted.

        Without `values` nothing is loaded that only sizes need. Raises `StateCorrupt` for a
        checkpoint that can't be read: the sink could not prune beside it either.
        """
        with self._buffer.snapshot() as snapshot:
            hot = HotThread(snapshot, thread_id)
            if hot.cold_is_deleted:
                return None
            raws = list(_hot_checkpoints(hot, thread_id))
            pinned = {
                envelope.split_write_key(f.key)[:2]
                for f in snapshot.scan(STREAM, thread_id, b"w\x00", keys_only=True)
            }
            hidden = hot.hidden_refs()
        arguments = {"thread_id": thread_id}
        outline = self._cursor.execute(SQL["outline"], arguments).fetchall()
        bodies = self._bodies(arguments)
        blobs, numbers, writes = self._values(arguments) if values else ([], {}, {})
        ns_pks = {row["checkpoint_ns"]: row["ns_pk"] for row in outline}
        found: dict[LocalRef, Stored] = {}
        for row in outline:
            row_key = (row["ns_pk"], row["checkpoint_id"])
            key = (row["checkpoint_ns"], row["checkpoint_id"])
            if key in hidden:
                continue
            raw = bodies.get(row_key)
            found[key] = Stored(
                *key,
                row["parent_id"],
                age_s=row["age_s"],
                size=row["size"] + writes.get(row_key, 0),
                delta_channels=frozenset(row["delta"] or ()),
                present=frozenset(raw.record.present) if raw else frozenset(),
                blobs=_numbers(numbers, row["ns_pk"], raw),
            )
        for raw in raws:
            counters = jsontext.loads(raw.record.metadata_json).get(COUNTERS) or {}
            key = (raw.checkpoint_ns, raw.checkpoint_id)
            found[key] = Stored(
                *key,
                raw.parent_id,
                delta_channels=frozenset(counters),
                present=frozenset(raw.record.present),
                blobs=_numbers(numbers, ns_pks.get(raw.checkpoint_ns, 0), raw),
                hot=True,
            )
        return Contents(thread_id, tuple(found.values()), blobs, frozenset(pinned), values)

    def _bodies(self, arguments: Mapping[str, Any]) -> dict[tuple[int, str], RawCheckpoint]:
        return {
            (row["ns_pk"], row["checkpoint_id"]): RawCheckpoint(
                "", "", row["checkpoint_id"], unpack_body(None, row["codec"], row["body"]), None
            )
            for row in self._cursor.execute(SQL["bodies"], arguments)
        }

    def _values(
        self, arguments: Mapping[str, Any]
    ) -> tuple[list[StoredBlob], dict[BlobKey, int], dict[tuple[int, str], int]]:
        positions: dict[tuple[int, str, int], int] = {}
        numbers: dict[BlobKey, int] = {}
        blobs: list[StoredBlob] = []
        # in the order of n: bases come first
        for row in self._cursor.execute(SQL["blobs"], arguments):
            ns_pk, channel = row["ns_pk"], row["channel"]
            base = (
                positions.get((ns_pk, channel, row["base_n"]))
                if row["base_n"] is not None
                else None
            )
            positions[ns_pk, channel, row["n"]] = len(blobs)
            # of a version stored twice the later counts
            numbers[ns_pk, channel, row["version"]] = len(blobs)
            blobs.append(StoredBlob(channel, base, row["raw_bytes"], row["size"]))
        writes = {
            (row["ns_pk"], row["checkpoint_id"]): row["size"]
            for row in self._cursor.execute(SQL["writes"], arguments)
        }
        return blobs, numbers, writes


def _hot_checkpoints(hot: HotThread, thread_id: str) -> list[RawCheckpoint]:
    found = []
    for ns, checkpoint_id in hot.ids(None):
        record = hot.find(ns, checkpoint_id)
        assert record is not None, "one snapshot, one answer"
        unpacked = CheckpointRecord.unpack(record.value)
        found.append(RawCheckpoint(thread_id, ns, checkpoint_id, unpacked, unpacked.parent_id))
    return found


def _numbers(
    numbers: Mapping[BlobKey, int], ns_pk: int, raw: RawCheckpoint | None
) -> tuple[int, ...]:
    if raw is None or not numbers:
        return ()
    referred = envelope.referred_versions(raw.structure, raw.record.present, raw.checkpoint_id)
    found = (numbers.get((ns_pk, channel, version)) for channel, version in referred)
    return tuple(sorted(number for number in found if number is not None))
