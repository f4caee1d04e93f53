"""Copies of recently used threads (`buffer.copies`): read when the database is away, or says that
nothing changed.

A copy knows the newest checkpoint of each namespace and what its DeltaChannels are rebuilt from.
What it can't answer is only in the database.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from surgetank.buffer.copies import CopyStore, Glance
from surgetank.buffer.log import Log, Snapshot
from surgetank.exceptions import BufferProblem
from surgetank.flush.doubts import Found
from surgetank.model import CopyChange, Record
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.copies.check import is_stale
from surgetank.streams.checkpoints.copies.layout import (
    BODY,
    SMALL,
    Body,
    Version,
    body_key,
    namespace_of,
)
from surgetank.streams.checkpoints.envelope import STREAM, CheckpointRecord, WriteRecord
from surgetank.streams.checkpoints.raw import RawCheckpoint, RawWrite
from surgetank.telemetry import log


class CopiedThread:
    """One thread's copy in one snapshot."""

    def __init__(self, snapshot: Snapshot, thread_id: str) -> None:
        self._snapshot = snapshot
        self._thread_id = thread_id
        self.mark = snapshot.copy(STREAM, thread_id).mark

    def _body(self, ns: str) -> Body | None:
        if self.mark is None:
            return None
        key = body_key(ns)
        packed = self._snapshot.copied(STREAM, self._thread_id, [key]).get(key)
        return Body.unpack(packed) if packed is not None else None

    def find(
        self, ns: str, checkpoint_id: str | None, channels: Sequence[str] | None = None
    ) -> RawCheckpoint | None:
        """A checkpoint (the newest, if none is named) with these values and its writes; None when
        it isn't here whole.

        Of an ancestor only the values are here that DeltaChannels are rebuilt from, so `channels`
        has to name them.
        """
        body = self._body(ns)
        if body is None or not body.checkpoints:
            return None
        wanted = checkpoint_id or body.newest
        if wanted not in body.checkpoints or (wanted != body.newest and channels is None):
            return None
        record = CheckpointRecord.unpack(body.checkpoints[wanted])
        raw = RawCheckpoint(
            self._thread_id, ns, wanted, record, record.parent_id, mark=self.mark, copied=True
        )
        versions = {c: v for c, v in raw.versions().items() if channels is None or c in channels}
        raw.blobs = self._values(ns, body, versions)
        raw.writes = _writes(body, wanted)
        return raw if len(raw.blobs) == len(versions) else None

    def blobs(self, ns: str, versions: Mapping[str, str]) -> dict[str, tuple[str, bytes]]:
        """Those of these values that are here."""
        body = self._body(ns)
        return self._values(ns, body, versions) if body is not None else {}

    def writes(self, ns: str, checkpoint_id: str) -> list[RawWrite] | None:
        """The writes of a checkpoint that is itself hot; None when they may be elsewhere."""
        body = self._body(ns)
        return (
            _writes(body, checkpoint_id)
            if body is not None and checkpoint_id >= body.newest
            else None
        )

    def is_current(self, ns: str) -> bool:
        """Whether it has all that this buffer knows to be in the database: a version of this
        program that knows no copies may have flushed since.
        """
        key = envelope.head_note(ns)
        head = self._snapshot.notes(STREAM, self._thread_id, key).get(key, b"").decode()
        body = self._body(ns)
        return body is not None and head == max(
            (body.newest, *(_id_of(write) for write in body.writes))
        )

    def _values(
        self, ns: str, body: Body, versions: Mapping[str, str]
    ) -> dict[str, tuple[str, bytes]]:
        found = {c: body.small[c, v] for c, v in versions.items() if (c, v) in body.small}
        large = {
            envelope.blob_key(ns, c, v): c for c, v in versions.items() if (c, v) in body.large
        }
        if large:
            parts = self._snapshot.copied(STREAM, self._thread_id, list(large))
            found |= {large[key]: value for key, value in parts.items()}
        return {channel: envelope.unpack_blob(value) for channel, value in found.items()}


def _writes(body: Body, checkpoint_id: str) -> list[RawWrite]:
    writes = []
    for key, value in body.writes.items():
        _, of, task_id, idx = envelope.split_write_key(key)
        if of == checkpoint_id:
            writes.append(RawWrite(task_id, idx, WriteRecord.unpack(value)))
    return writes


def _id_of(write_key: bytes) -> str:
    return envelope.split_write_key(write_key)[1]


class LogWithCopies(Log, CopyStore, Protocol):
    """A log that keeps copies of what was flushed."""


class Copies:
    """Keeps copies of what was read from the database."""

    def __init__(self, buffer: LogWithCopies) -> None:
        self._buffer = buffer

    def keep(self, raw: RawCheckpoint, seen: Glance) -> None:
        """Keep the newest checkpoint of a namespace, read whole. `seen` is what the reader saw
        before."""
        if raw.mark is None or not self._buffer.recent.max_bytes:
            return
        if seen.mark not in (None, raw.mark) and not is_stale(
            seen.mark or b"", raw.mark, deleted=False
        ):
            return  # the database went back: the copy is what it lost
        ns = raw.checkpoint_ns
        body, put = _body_of(raw)
        put[body_key(ns)] = body.pack()
        reach = max((raw.checkpoint_id, *(_id_of(key) for key in body.writes)))
        notes = {envelope.head_note(ns): reach.encode()}
        clear = seen.mark != raw.mark
        change = CopyChange(raw.mark, weight(put), put, (), clear)
        kept = self._buffer.keep_copy(STREAM, raw.thread_id, seen, change, notes=notes)
        if not kept and clear and seen.mark is not None:
            # it is known to be of yesterday
            self._buffer.drop_copies(STREAM, {raw.thread_id: seen.mark})

    def keep_ancestors(
        self, thread_id: str, ns: str, ancestors: Sequence[RawCheckpoint], seen: Glance
    ) -> None:
        """Add what the DeltaChannels of the newest checkpoint were rebuilt from (nearest first), if
        that is what these are and all was read in one state.
        """
        with self._buffer.snapshot() as snapshot:
            key = body_key(ns)
            packed = snapshot.copied(STREAM, thread_id, [key]).get(key)
        if packed is None or any(raw.mark != seen.mark for raw in ancestors):
            return
        body = Body.unpack(packed)
        newest = body.checkpoints.get(body.newest)
        if (
            newest is None
            or CheckpointRecord.unpack(newest).parent_id != ancestors[0].checkpoint_id
        ):
            return
        put: dict[bytes, bytes] = {}
        for raw in ancestors:
            part, large = _body_of(raw)
            put |= large
            body.checkpoints |= part.checkpoints
            body.writes |= part.writes
            body.small |= part.small
            body.large |= part.large
        assert seen.mark is not None
        put[key] = body.pack()
        grown = weight(put) - len(key) - len(packed)
        self._buffer.keep_copy(STREAM, thread_id, seen, CopyChange(seen.mark, grown, put), notes={})

    def entries(self, thread_id: str) -> list[list[Record]]:
        """The copy of a thread as entries that put it back whole, wherever the database has less:
        for each namespace its checkpoints (oldest first) with the values and writes that the copy
        has. Empty without a copy.

        What a reader brought has no projections for SQL. Of ancestors, only what DeltaChannels need
        is here.
        """
        entries: list[list[Record]] = []
        with self._buffer.snapshot() as snapshot:
            for key in snapshot.copied_keys(STREAM, thread_id, BODY):
                packed = snapshot.copied(STREAM, thread_id, [key]).get(key)
                if packed is None:
                    continue
                ns, body = namespace_of(key), Body.unpack(packed)
                large = {envelope.blob_key(ns, *version): version for version in body.large}
                parts = snapshot.copied(STREAM, thread_id, list(large))
                values = body.small | {large[part]: value for part, value in parts.items()}
                entries += [
                    _entry(ns, cid, record, values, body)
                    for cid, record in body.checkpoints.items()
                ]
        return entries


def _entry(
    ns: str, checkpoint_id: str, packed: bytes, values: Mapping[Version, bytes], body: Body
) -> list[Record]:
    record = CheckpointRecord.unpack(packed)
    shown = replace(
        record,
        metadata_json=record.metadata_json or b"{}",
        scalars_json=record.scalars_json or b"{}",
    )
    records = [Record(envelope.checkpoint_key(ns, checkpoint_id), shown.pack())]
    records += [
        envelope.blob_record(ns, *version, values[version])
        for version in envelope.present_versions(record, checkpoint_id).items()
        if version in values
    ]
    records += [
        Record(key, value) for key, value in body.writes.items() if _id_of(key) == checkpoint_id
    ]
    return records


def weight(parts: Mapping[bytes, bytes]) -> int:
    """Bytes of keys and values."""
    return sum(len(key) + len(value) for key, value in parts.items())


def _body_of(raw: RawCheckpoint) -> tuple[Body, dict[bytes, bytes]]:
    """A checkpoint as a body, and its large values."""
    ns, versions = raw.checkpoint_ns, raw.versions()
    record = replace(raw.record, parent_id=raw.parent_id)
    body, large = Body({raw.checkpoint_id: record.pack()}), {}
    for channel, (type_, data) in raw.blobs.items():
        version, packed = (channel, versions[channel]), envelope.pack_blob(type_, data)
        if len(packed) <= SMALL:
            body.small[version] = packed
        else:
            key = envelope.blob_key(ns, *version)
            body.large[version] = len(key) + len(packed)
            large[key] = packed
    for write in raw.writes:
        key = envelope.write_key(ns, raw.checkpoint_id, write.task_id, write.idx)
        body.writes[key] = write.record.pack()
    return body, large


def restore_lost(buffer: LogWithCopies, findings: Sequence[Found]) -> list[Found]:
    """Put the newest states of threads back whose database lost entries that nobody keeps any more.

    Only what the buffer has a copy of; the findings with what was restored. What can't be appended
    just now (a full buffer) is not.
    """
    copies, reported = Copies(buffer), []
    for found in findings:
        if found.stream == STREAM and found.gone is not None:
            try:
                entries = copies.entries(found.partition)
                for records in entries:
                    buffer.append(STREAM, found.partition, records, wait=False)
            except BufferProblem as error:
                log.error("state_not_restored", thread=found.partition, error=error.what)
            else:
                found = replace(found, restored=bool(entries))  # noqa: PLW2901
        reported.append(found)
    return reported
