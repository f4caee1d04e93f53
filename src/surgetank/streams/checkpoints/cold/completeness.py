"""A checkpoint is only stored when all its values are, or come with it.

A put writes the values that changed; the others lie with an earlier checkpoint. When that one was
pruned meanwhile (by another process, another buffer), they are gone, and what is left would be read
as a smaller state than the one that was put. Such a checkpoint is refused, and so parked with its
reason. A value that still waits in the buffer, or is parked there, is no loss: readers find it
there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from psycopg import Cursor

from surgetank.database.queries import queries
from surgetank.exceptions import EntryRejected
from surgetank.sinks.protocol import HotRecords
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold.chains import Thread
from surgetank.streams.checkpoints.cold.rows import Batch
from surgetank.streams.checkpoints.cold.small import Contents
from surgetank.streams.checkpoints.refs import CheckpointRef

SQL = queries("streams/checkpoints/cold/flush.sql")

Rows = Cursor[dict[str, Any]]


def check(
    cursor: Rows,
    batch: Batch,
    threads: Mapping[str, Thread],
    found: Mapping[CheckpointRef, Contents],
    hot: HotRecords | None,
) -> None:
    """Raise `EntryRejected` for a checkpoint of the batch that has lost values. `found` is what is
    known at level 2."""
    missing = (
        ((key, {c: own.versions[c] for c in own.missing()}) for key, own in found.items())
        if batch.versions
        else _looked_up(cursor, batch, threads)
    )
    for key, versions in missing:
        thread_id, ns, checkpoint_id = key
        for channel, version in versions.items():
            if (
                hot is not None
                and hot.latest(thread_id, envelope.blob_key(ns, channel, version)) is not None
            ):
                continue
            raise EntryRejected(
                partition=thread_id, path=f"$.channel_values.{channel}", seq=batch.seqs.get(key),
                reason=f"the checkpoint {checkpoint_id} did not change it, and the one that has it"
                " was pruned meanwhile",
                remedy="run the graph again from the thread's newest checkpoint; what was parked "
                "can be exported.",
            )  # fmt: skip


def _looked_up(
    cursor: Rows, batch: Batch, threads: Mapping[str, Thread]
) -> Iterator[tuple[CheckpointRef, dict[str, str]]]:
    """At level 1: checkpoints whose parent is gone, with those of their values that are stored
    nowhere."""
    written = {key for key, _ in batch.blobs}
    roots = {
        key: (threads[key[0]].ns_pks[key[1]], record.parent_id or "")
        for key, record in batch.checkpoints.items()
        if (key[0], key[1], record.parent_id) not in batch.checkpoints
    }
    pairs = sorted(
        {at for key, at in roots.items() if at[1] and at[0] not in threads[key[0]].fresh},
    )
    parents: set[tuple[int, str]] = set()
    if pairs:
        arguments = {"ns_pks": [p[0] for p in pairs], "ids": [p[1] for p in pairs]}
        rows = cursor.execute(SQL["existing_checkpoints"], arguments).fetchall()
        parents = {(row["ns_pk"], row["checkpoint_id"]) for row in rows}
    for key, at in roots.items():
        if at in parents:
            continue
        versions = envelope.present_versions(batch.checkpoints[key], key[2])
        yield (
            key,
            {
                channel: version
                for channel, version in versions.items()
                if (key[0], key[1], channel, version) not in written
                and not _is_stored(cursor, at[0], channel, version)
            },
        )


def _is_stored(cursor: Rows, ns_pk: int, channel: str, version: str) -> bool:
    arguments = {"ns_pk": ns_pk, "channel": channel, "version": version}
    return cursor.execute(SQL["stored_version"], arguments).fetchone() is not None
