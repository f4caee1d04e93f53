"""Level 2 of the storage format: a checkpoint's row has its small values, and the numbers of the
blobs with the others.

Most values of a graph are flags, counters and short words, and a row of their own with two index
entries weighs ten times what they do. So a value of at most `SMALL_BYTES` lies in the body of every
checkpoint that has it, also where it didn't change: then nothing has to be looked for, and deleting
a checkpoint takes nothing away from another one. What did not change is taken over from the parent,
which is in the batch, remembered, or read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ormsgpack
from psycopg import Cursor

from surgetank.database.queries import queries
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold.bodies import unpack_body
from surgetank.streams.checkpoints.cold.chains import Thread
from surgetank.streams.checkpoints.cold.rows import Batch, BlobKey
from surgetank.streams.checkpoints.refs import CheckpointRef

SQL = queries("streams/checkpoints/cold/flush.sql")
_PAGE = 200

Rows = Cursor[dict[str, Any]]
Value = tuple[str, bytes]


@dataclass(slots=True)
class Contents:
    """The channel versions of a checkpoint, its small values, and the numbers of the blobs with the
    others."""

    versions: Mapping[str, str]
    small: dict[str, Value] = field(default_factory=dict)
    numbers: dict[str, int] = field(default_factory=dict)

    def take_over(self, parent: Contents) -> None:
        """Add what did not change since the parent."""
        for channel, version in self.versions.items():
            if (
                channel in self.small
                or channel in self.numbers
                or parent.versions.get(channel) != version
            ):
                continue
            if (value := parent.small.get(channel)) is not None:
                self.small[channel] = value
            elif (number := parent.numbers.get(channel)) is not None:
                self.numbers[channel] = number

    def missing(self) -> list[str]:
        """Channels whose value was not found."""
        return [c for c in self.versions if c not in self.small and c not in self.numbers]

    def pack(self) -> bytes:
        """The contents as bytes, to be remembered."""
        return ormsgpack.packb((self.versions, self.small, self.numbers))

    @classmethod
    def unpack(cls, data: bytes) -> Contents:
        """The contents behind `pack`."""
        versions, small, numbers = ormsgpack.unpackb(data)
        return cls(versions, {c: (t, d) for c, (t, d) in small.items()}, numbers)


def contents(
    cursor: Rows, batch: Batch, threads: Mapping[str, Thread], numbers: Mapping[BlobKey, int]
) -> dict[CheckpointRef, Contents]:
    """What each checkpoint of the batch has. `numbers` are those of the blobs that the batch
    writes."""
    found: dict[CheckpointRef, Contents] = {}
    incomplete: list[CheckpointRef] = []
    for key, versions in batch.versions.items():
        thread_id, ns, _ = key
        own = found[key] = Contents(versions)
        came_along = batch.own.get(key, {})
        for channel, version in versions.items():
            at = (thread_id, ns, channel, version)
            if (value := came_along.get(channel) or batch.small.get(at)) is not None:
                own.small[channel] = value
            elif (number := numbers.get(at)) is not None:
                own.numbers[channel] = number
        if len(own.small) + len(own.numbers) < len(versions):
            incomplete.append(key)
    if incomplete:
        _complete(cursor, batch, threads, found, incomplete)
    for (thread_id, ns, checkpoint_id), own in found.items():
        thread = threads[thread_id]
        thread.newest[thread.ns_pks[ns]] = (checkpoint_id, own.pack())
    return found


def _complete(
    cursor: Rows,
    batch: Batch,
    threads: Mapping[str, Thread],
    found: Mapping[CheckpointRef, Contents],
    incomplete: list[CheckpointRef],
) -> None:
    """Take over what did not change, in order: a parent comes before its children."""
    stored = _stored_parents(cursor, batch, threads, found, incomplete)
    for key in incomplete:
        own, parent_id = found[key], batch.checkpoints[key].parent_id
        thread = threads[key[0]]
        ns_pk = thread.ns_pks[key[1]]
        parent = None
        if parent_id is not None:
            parent = found.get(CheckpointRef(key[0], key[1], parent_id)) or stored.get(
                (ns_pk, parent_id)
            )
        if parent is not None:
            own.take_over(parent)
        if ns_pk in thread.fresh:
            continue
        strange = {
            c for c in own.missing() if parent is None or parent.versions.get(c) != own.versions[c]
        }
        # their rows have no numbers: written at level 1, or by a retry
        for channel in own.missing():
            arguments = {"ns_pk": ns_pk, "channel": channel, "version": own.versions[channel]}
            row = cursor.execute(SQL["stored_version"], arguments).fetchone()
            if row is not None:
                own.numbers[channel] = row["n"]
        _search(cursor, ns_pk, own, strange - own.numbers.keys())


def _stored_parents(
    cursor: Rows,
    batch: Batch,
    threads: Mapping[str, Thread],
    found: Mapping[CheckpointRef, Contents],
    incomplete: list[CheckpointRef],
) -> dict[tuple[int, str], Contents]:
    """The parents that are not in the batch: as they are remembered, else as the database has
    them."""
    stored: dict[tuple[int, str], Contents] = {}
    asked: set[tuple[int, str]] = set()
    for key in incomplete:
        thread, parent_id = threads[key[0]], batch.checkpoints[key].parent_id
        ns_pk = thread.ns_pks[key[1]]
        if parent_id is None or (key[0], key[1], parent_id) in found or ns_pk in thread.fresh:
            continue
        newest = thread.newest.get(ns_pk)
        if newest is not None and newest[0] == parent_id:
            stored[ns_pk, parent_id] = Contents.unpack(newest[1])
        else:
            asked.add((ns_pk, parent_id))
    if asked:
        ordered = sorted(asked)
        arguments = {"ns_pks": [p[0] for p in ordered], "ids": [p[1] for p in ordered]}
        for row in cursor.execute(SQL["parents"], arguments).fetchall():
            stored[row["ns_pk"], row["checkpoint_id"]] = _of_row(row)
    return stored


def in_their_rows(cursor: Rows, batch: Batch, threads: Mapping[str, Thread]) -> set[BlobKey]:
    """Of replayed checkpoints that are stored already: the versions whose values lie in their
    rows."""
    pairs = {
        (threads[key[0]].ns_pks[key[1]], key[2]): key
        for key in batch.versions
        if key in batch.replayed and threads[key[0]].ns_pks[key[1]] not in threads[key[0]].fresh
    }
    if not pairs:
        return set()
    ordered = sorted(pairs)
    arguments = {"ns_pks": [p[0] for p in ordered], "ids": [p[1] for p in ordered]}
    stored: set[BlobKey] = set()
    for row in cursor.execute(SQL["parents"], arguments).fetchall():
        thread_id, ns, _ = pairs[row["ns_pk"], row["checkpoint_id"]]
        has = _of_row(row)
        stored.update((thread_id, ns, channel, has.versions[channel]) for channel in has.small)
    return stored


def _of_row(row: Mapping[str, Any]) -> Contents:
    record = unpack_body(None, row["codec"], row["body"])
    versions = envelope.present_versions(record, row["checkpoint_id"])
    return Contents(versions, dict(record.small or {}), row["blob_numbers"] or {})


def _search(cursor: Rows, ns_pk: int, own: Contents, channels: set[str]) -> None:
    """Find values that didn't come from a parent as it is known: it was parked or deleted, or there
    is none.

    From the newest checkpoint on; what isn't found has not been written yet, or its blob is found
    by version.
    """
    before = None
    while channels:
        arguments = {"ns_pk": ns_pk, "before": before, "limit": _PAGE}
        rows = cursor.execute(SQL["bodies_before"], arguments).fetchall()
        for row in rows:
            own.take_over(_of_row(row))
            before = row["checkpoint_id"]
        channels &= set(own.missing())
        if len(rows) < _PAGE:
            return
