"""Deleting, copying and pruning threads. Every deletion is an entry of its own in the thread's
partition.

So it takes effect at once, in its place among the writes, and needs no database at the moment of
the call; the flush carries it out in PostgreSQL. What is still needed to rebuild a `DeltaChannel`
is never pruned.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from surgetank.buffer.log import Log
from surgetank.encode import jsontext, limits
from surgetank.exceptions import EntryRejected
from surgetank.model import Entry, Record
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold.reader import Cold
from surgetank.streams.checkpoints.envelope import STREAM, CheckpointRecord, Operation
from surgetank.streams.checkpoints.forgetting import append_deletion_and_forget
from surgetank.streams.checkpoints.hot import HotThread
from surgetank.streams.checkpoints.raw import RawCheckpoint
from surgetank.streams.checkpoints.reader import Reader
from surgetank.streams.checkpoints.refs import CheckpointRef
from surgetank.streams.checkpoints.steps import Steps

STRATEGIES = ("keep_latest", "delete")
_IDS_PER_OPERATION = 10_000
_COUNTERS = "counters_since_delta_snapshot"

Metadata = Callable[[RawCheckpoint], Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class _Brief:
    """What pruning has to know of a checkpoint."""

    checkpoint_id: str
    parent_id: str | None
    present: frozenset[str]
    delta_channels: frozenset[str]


def no_events(thread_id: str) -> None:
    """There is no event log."""


def append_thread_deletion(
    buffer: Log, thread_id: str, *, forget_events: Callable[[str], None] = no_events
) -> None:
    """Accept the deletion of a thread, with what was told of it. Killed on the way, it is to be
    repeated."""
    limits.check_names(thread_id, [("$.thread_id", thread_id)])
    forget_events(thread_id)
    append_deletion_and_forget(buffer, thread_id)
    operation = Operation(uuid.uuid4().hex, "delete_thread")
    buffer.append(
        STREAM, thread_id, [Record(envelope.OPERATION_KEY, operation.pack())], start_guarding=True
    )


def append_deletion(
    buffer: Log, thread_id: str, ns: str, ids: Sequence[str], *, wait: bool = True
) -> None:
    """Accept the deletion of checkpoints of one namespace. With `wait` false a full buffer raises
    `BufferFull`."""
    for start in range(0, len(ids), _IDS_PER_OPERATION):
        operation = Operation(
            uuid.uuid4().hex,
            "delete_checkpoints",
            ns,
            tuple(ids[start : start + _IDS_PER_OPERATION]),
        )
        record = Record(envelope.OPERATION_KEY, operation.pack())
        buffer.append(STREAM, thread_id, [record], ask_guards=True, wait=wait)


def delete_again(buffer: Log, thread_id: str, entries: Sequence[Entry]) -> None:
    """Accept once more the deletion of checkpoints that were pruned while they were parked, and are
    tried again now: they come after their deletion."""
    with buffer.snapshot() as snapshot:
        thread = HotThread(snapshot, thread_id)
        pruned = [thread.pruned(entry) for entry in entries]
    for found in pruned:
        for ns, ids in found.items():
            append_deletion(buffer, thread_id, ns, ids)


class Maintenance:
    """Carries out what changes more than one checkpoint."""

    def __init__(
        self,
        buffer: Log,
        cold: Cold,
        reader: Reader,
        *,
        forget_events: Callable[[str], None] = no_events,
    ) -> None:
        self._buffer = buffer
        self._cold = cold
        self._reader = reader
        self._forget_events = forget_events

    def delete_thread(self, thread_id: str) -> None:
        """Delete all of a thread: its state, log, events, originals, and the references to it in
        system errors.

        Late writes of its runs vanish; a new conversation may use the id at once and finds nothing
        of the old one.
        """
        append_thread_deletion(self._buffer, thread_id, forget_events=self._forget_events)

    def delete_for_runs(self, run_ids: Sequence[str], metadata: Metadata) -> Steps[None]:
        """Delete the checkpoints of runs, with their writes.

        Refused (`EntryRejected`, nothing deleted) when a checkpoint that stays rebuilds a
        `DeltaChannel` from them. Needs the database, which alone knows where flushed runs are.
        """
        wanted = {str(run_id) for run_id in run_ids}
        limits.check_all("", "$.run_ids", sorted(wanted))
        if not wanted:
            return
        refs = set(self._hot_of_runs(wanted))
        cold: list[CheckpointRef] = yield partial(self._cold.run_checkpoints, sorted(wanted))
        refs |= set(cold)
        groups: dict[tuple[str, str], set[str]] = {}
        for thread_id, ns, checkpoint_id in refs:
            groups.setdefault((thread_id, ns), set()).add(checkpoint_id)
        for (thread_id, ns), ids in groups.items():
            briefs = yield from self._briefs(thread_id, ns, metadata)
            for brief in briefs.values():
                needed = (
                    _delta_ancestors(briefs, brief) & ids
                    if brief.checkpoint_id not in ids
                    else set()
                )
                if needed:
                    raise EntryRejected(
                        partition=thread_id, path=f"$.checkpoints[{brief.checkpoint_id}]",
                        reason=f"its DeltaChannels are rebuilt from {len(needed)} checkpoint(s) of "
                        f"these runs",
                        remedy="delete the runs that came after as well, or delete the thread.",
                    )  # fmt: skip
        for (thread_id, ns), ids in groups.items():
            yield partial(append_deletion, self._buffer, thread_id, ns, sorted(ids))

    def _hot_of_runs(self, wanted: set[str]) -> Iterable[CheckpointRef]:
        with self._buffer.snapshot() as snapshot:
            for thread_id in snapshot.partitions(STREAM):
                for found in snapshot.scan(STREAM, thread_id, b"c\x00"):
                    metadata = jsontext.loads(CheckpointRecord.unpack(found.value).metadata_json)
                    if str(metadata.get("run_id")) in wanted:
                        ns, checkpoint_id = envelope.split_key(found.key)
                        yield CheckpointRef(thread_id, ns, checkpoint_id)

    def prune(self, thread_ids: Sequence[str], strategy: str, metadata: Metadata) -> Steps[None]:
        """`keep_latest` keeps the newest checkpoint of each namespace and what its DeltaChannels
        are rebuilt from; `delete` deletes the threads. Raises `TypeError`, `ValueError` for wrong
        arguments.
        """
        if isinstance(thread_ids, str):
            raise TypeError("thread_ids must be a sequence of thread ids, not a single str")
        if strategy not in STRATEGIES:
            raise ValueError(f"unknown strategy {strategy!r}; use one of {', '.join(STRATEGIES)}")
        for thread_id in map(limits.thread_name, thread_ids):
            if strategy == "delete":
                yield partial(self.delete_thread, thread_id)
                continue
            for ns, ids in (yield from self.plan_prune(thread_id, metadata)).items():
                yield partial(append_deletion, self._buffer, thread_id, ns, ids)

    def plan_prune(self, thread_id: str, metadata: Metadata) -> Steps[dict[str, list[str]]]:
        """What `keep_latest` would delete: checkpoint ids by namespace."""
        limits.check_names(thread_id, [("$.thread_id", thread_id)])
        refs = yield from self.refs(thread_id, None)
        doomed: dict[str, list[str]] = {}
        for ns in sorted({ns for _, ns, _ in refs}):
            briefs = yield from self._briefs(thread_id, ns, metadata)
            if not briefs:
                continue
            newest = briefs[max(briefs)]
            kept = {newest.checkpoint_id} | _delta_ancestors(briefs, newest)
            ids = sorted(briefs.keys() - kept)
            if ids:
                doomed[ns] = ids
        return doomed

    def copy_thread(self, source: str, target: str) -> Steps[None]:
        """Copy all checkpoints, values and writes, oldest first. Repeating an interrupted copy
        completes it."""
        for name in (source, target):
            limits.check_names(name, [("$.thread_id", name)])
        refs = yield from self.refs(source, None)
        copied: dict[tuple[str, str, str], bytes] = {}  # digests: two values may have one version
        for _, ns, checkpoint_id in reversed(refs):
            raw = yield from self._reader.read(source, ns, checkpoint_id)
            if raw is None:
                continue
            versions = raw.versions()
            # without parents that are being deleted
            record = replace(raw.record, parent_id=raw.parent_id)
            if not record.metadata_json:  # a cold one is read without its projections
                projections = yield partial(self._cold.projections, source, ns, checkpoint_id)
                record = replace(record, metadata_json=projections[0], scalars_json=projections[1])
            records = [Record(envelope.checkpoint_key(ns, checkpoint_id), record.pack())]
            for channel, (type_, data) in raw.blobs.items():
                blob = envelope.pack_blob(type_, data)
                ref, digest = (ns, channel, versions[channel]), hashlib.sha256(blob).digest()
                if copied.get(ref) != digest:
                    copied[ref] = digest
                    records.append(envelope.blob_record(ns, channel, versions[channel], blob))
            for write in raw.writes:
                key = envelope.write_key(ns, checkpoint_id, write.task_id, write.idx)
                records.append(Record(key, write.record.pack()))
            yield partial(self._buffer.append, STREAM, target, records)

    # -- looking

    def refs(self, thread_id: str, ns: str | None = None) -> Steps[list[CheckpointRef]]:
        """All checkpoints of a thread, newest first."""
        listing = self._reader.start_listing(thread_id, ns, None)
        refs: list[CheckpointRef] = []
        while True:
            if listing.needs_page:
                yield from self._reader.add_page(listing, None)
            ref = listing.pop()
            if ref is not None:
                refs.append(ref)
            elif not listing.needs_page:
                return refs

    def _briefs(self, thread_id: str, ns: str, metadata: Metadata) -> Steps[dict[str, _Brief]]:
        briefs: dict[str, _Brief] = {}
        for _, _, checkpoint_id in (yield from self.refs(thread_id, ns)):
            raw = yield from self._reader.read(thread_id, ns, checkpoint_id, ())
            if raw is not None:
                delta = frozenset(metadata(raw).get(_COUNTERS) or ())
                briefs[checkpoint_id] = _Brief(
                    checkpoint_id, raw.parent_id, frozenset(raw.record.present), delta
                )
        return briefs


def _delta_ancestors(briefs: Mapping[str, _Brief], brief: _Brief) -> set[str]:
    """The ancestors that a checkpoint's DeltaChannels are rebuilt from: up to the nearest one with
    a stored value."""
    needed: set[str] = set()
    open_channels = set(brief.delta_channels - brief.present)
    current = briefs.get(brief.parent_id or "")
    while current is not None and open_channels and current.checkpoint_id not in needed:
        needed.add(current.checkpoint_id)
        open_channels -= current.present
        current = briefs.get(current.parent_id or "")
    return needed
