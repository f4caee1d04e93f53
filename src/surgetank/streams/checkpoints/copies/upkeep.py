"""What becomes of the copy of a thread (`buffer.copies`) when a flush has written to it. Pure.

Everything is made of what the flush has in hand and of the copy as it was; nothing is read from the
database. A namespace whose newest checkpoint can't be put together from that has no copy until a
reader brings it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from surgetank.model import CopyChange, OldCopy
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold.rows import Batch, Plan, WriteKey
from surgetank.streams.checkpoints.copies.layout import (
    BODY,
    SMALL,
    Body,
    Mark,
    Version,
    body_key,
    delta_channels,
    namespace_of,
)
from surgetank.streams.checkpoints.envelope import CheckpointRecord, Operation
from surgetank.streams.checkpoints.refs import CheckpointRef

NAMESPACES = 100  # of a thread, at most: each call of a subgraph makes a new one
_HISTORY = 5000  # checkpoints that a DeltaChannel is rebuilt from, at most


@dataclass(slots=True)
class Wrote:
    """What one batch wrote to one namespace of a thread."""

    batch: Batch
    values: Mapping[tuple[str, str, str, str], tuple[str, bytes]]
    checkpoints: dict[str, CheckpointRecord] = field(default_factory=dict)
    writes: list[WriteKey] = field(default_factory=list)


Step = dict[str, Wrote] | Operation  # by namespace


def steps_of(work: Plan) -> dict[str, list[Step]]:
    """What a transaction did, by thread and in order."""
    threads: dict[str, list[Step]] = {}
    for thread_id, step in (("", work.first), *work.steps):
        if isinstance(step, Operation):
            threads.setdefault(thread_id, []).append(step)
        elif step:
            for name, namespaces in _by_thread(step).items():
                threads.setdefault(name, []).append(namespaces)
    return threads


def _by_thread(batch: Batch) -> dict[str, dict[str, Wrote]]:
    values = batch.small | dict(batch.blobs)  # of a version put twice the last counts
    wrote: dict[str, dict[str, Wrote]] = {}
    for ckey, record in batch.checkpoints.items():
        thread = wrote.get(ckey[0])
        if thread is None:
            thread = wrote[ckey[0]] = {}
        part = thread.get(ckey[1])
        if part is None:
            part = thread[ckey[1]] = Wrote(batch, values)
        part.checkpoints[ckey[2]] = record
    for wkey in batch.writes:
        thread = wrote.setdefault(wkey[0], {})
        part = thread.get(wkey[1])
        if part is None:
            part = thread[wkey[1]] = Wrote(batch, values)
        part.writes.append(wkey)
    return wrote


class ThreadKeeper:
    """A `Keeper` for one thread. `before` and `after` are its marks around the transaction; None:
    it did not exist."""

    def __init__(
        self, thread_id: str, steps: Sequence[Step], before: Mark | None, after: Mark | None
    ) -> None:
        self._thread_id = thread_id
        self._steps = steps
        self._before = before
        self._after = after

    def __call__(self, old: OldCopy) -> CopyChange | None:
        if self._after is None:
            return None
        before = self._before.pack() if self._before is not None else None
        draft = _Draft(self._thread_id, old, clear=old.mark is not None and old.mark != before)
        for step in self._steps:
            if not isinstance(step, Operation):
                for ns, wrote in step.items():
                    draft.write(ns, wrote)
            elif step.kind == "delete_thread":
                draft = _Draft(self._thread_id, old, clear=True)
            else:
                draft.delete(step.checkpoint_ns, frozenset(step.checkpoint_ids))
        return draft.change(self._after.pack())


class _Draft:
    """A copy while it is changed. `clear`: what it was doesn't count."""

    def __init__(self, thread_id: str, old: OldCopy, *, clear: bool) -> None:
        self._thread_id = thread_id
        self._old = old
        self._clear = clear
        self._empty = clear or old.mark is None
        self._bodies: dict[str, Body] = {}
        self._new: set[str] = set()
        self._put: dict[bytes, bytes] = {}
        self._drop: list[bytes] = []
        self._grown = 0

    def _body(self, ns: str) -> Body:
        if ns not in self._bodies:
            packed = None if self._empty else self._old.get(body_key(ns))
            if packed is None:
                self._new.add(ns)
                self._bodies[ns] = Body()
            else:
                self._bodies[ns] = Body.unpack(packed)
                self._grown -= len(packed) + len(body_key(ns))
        return self._bodies[ns]

    def write(self, ns: str, wrote: Wrote) -> None:
        """Take in what was written to a namespace."""
        body = self._body(ns)
        records, replayed = wrote.checkpoints, wrote.batch.replayed
        if replayed:  # what was put after them stays
            records = {
                cid: record
                for cid, record in records.items()
                if cid not in body.checkpoints or (self._thread_id, ns, cid) not in replayed
            }
        newest = max(body.newest, max(records, default=""))
        if not newest:  # writes come before their checkpoint, or the copy doesn't know it
            self._bodies[ns] = Body(writes=_writes(body, wrote, set(), ""))
            return
        record = records.get(newest) or CheckpointRecord.unpack(body.checkpoints[newest])
        after = Body()
        lineage = _lineage(record, records, body) if (missing := delta_channels(record)) else []
        for checkpoint_id, ancestor in reversed(lineage):
            after.checkpoints[checkpoint_id] = (
                body.checkpoints.get(checkpoint_id) or ancestor.pack()
            )
        after.checkpoints[newest] = record.pack() if newest in records else body.checkpoints[newest]
        after.writes = _writes(body, wrote, after.checkpoints.keys(), newest)
        known = wrote.batch.versions.get(CheckpointRef(self._thread_id, ns, newest))
        wanted = (known if known is not None else envelope.present_versions(record, newest)).items()
        complete = self._values(
            ns, body, after, wrote, [*wanted, *_seeds(missing, lineage)] if missing else wanted
        )
        if body.large:
            self._forget(
                ns, [v for v in body.large.items() if not complete or v[0] not in after.large]
            )
        self._bodies[ns] = after if complete else Body()

    def _values(
        self, ns: str, body: Body, after: Body, wrote: Wrote, wanted: Iterable[Version]
    ) -> bool:
        """Bring the wanted values into `after`; False when one is neither in hand nor in the
        copy."""
        for version in wanted:
            key = (self._thread_id, ns, *version)
            blob = wrote.values.get(key)
            there = version in body.small or version in body.large
            if blob is not None and not (there and key in wrote.batch.replayed):
                packed = envelope.pack_blob(*blob)
                if len(packed) <= SMALL:
                    after.small[version] = packed
                else:
                    part = envelope.blob_key(ns, *version)
                    after.large[version] = size = len(part) + len(packed)
                    self._put[part] = packed
                    self._grown += size - body.large.get(version, 0)
            elif version in body.small:
                after.small[version] = body.small[version]
            elif there:
                after.large[version] = body.large[version]
            else:
                self._forget(ns, [v for v in after.large.items() if v[0] not in body.large])
                return False
        return True

    def _forget(self, ns: str, versions: Iterable[tuple[Version, int]]) -> None:
        for version, size in versions:
            key = envelope.blob_key(ns, *version)
            self._put.pop(key, None)
            self._drop.append(key)
            self._grown -= size

    def delete(self, ns: str, ids: frozenset[str]) -> None:
        """Take out checkpoints."""
        body = self._body(ns)
        if body.newest in ids:  # which is the newest now, the copy doesn't know
            self._forget(ns, body.large.items())
            self._bodies[ns] = Body()
            return
        body.writes = {
            k: v for k, v in body.writes.items() if envelope.split_write_key(k)[1] not in ids
        }
        for checkpoint_id, packed in list(body.checkpoints.items()):
            if checkpoint_id in ids:
                del body.checkpoints[checkpoint_id]
                continue
            record = CheckpointRecord.unpack(packed)
            if record.parent_id in ids:
                body.checkpoints[checkpoint_id] = replace(record, parent_id=None).pack()

    def change(self, mark: bytes) -> CopyChange | None:
        """What is to be done with the copy."""
        if self._new and self._new != {""}:
            self._thin_out()
        for ns, body in self._bodies.items():
            key = body_key(ns)
            if body.checkpoints or body.writes:
                self._put[key] = packed = body.pack()
                self._grown += len(packed) + len(key)
            elif not self._empty:
                self._drop.append(key)
        if not self._put and (self._empty or not set(self._old.keys(BODY)).difference(self._drop)):
            return None
        drop = [] if self._empty else [key for key in self._drop if key not in self._put]
        return CopyChange(mark, self._grown, self._put, drop, self._clear)

    def _thin_out(self) -> None:
        """Drop the namespaces that were written longest ago, down to three quarters; never the
        root."""
        there = [] if self._empty else [namespace_of(key) for key in self._old.keys(BODY)]
        names = {*there, *self._bodies} - {""}
        if len(names) > NAMESPACES:
            oldest = sorted(names, key=lambda ns: self._body(ns).newest)
            for ns in oldest[: len(names) - NAMESPACES * 3 // 4]:
                self._forget(ns, self._body(ns).large.items())
                self._bodies[ns] = Body()


def _lineage(
    record: CheckpointRecord, records: Mapping[str, CheckpointRecord], body: Body
) -> list[tuple[str, CheckpointRecord]]:
    """The ancestors that the DeltaChannels of the newest checkpoint are rebuilt from, nearest
    first."""
    found: list[tuple[str, CheckpointRecord]] = []
    missing = delta_channels(record)
    parent = record.parent_id
    while missing and parent is not None and len(found) < _HISTORY:
        ancestor = records.get(parent)
        if ancestor is None:
            packed = body.checkpoints.get(parent)
            if packed is None:
                break  # a reader is told that the rest is only in the database
            ancestor = CheckpointRecord.unpack(packed)
        found.append((parent, ancestor))
        missing -= set(ancestor.present)
        parent = ancestor.parent_id
    return found


def _seeds(missing: set[str], lineage: Sequence[tuple[str, CheckpointRecord]]) -> Iterator[Version]:
    """The full values that DeltaChannels are rebuilt from."""
    for checkpoint_id, ancestor in lineage:
        found = missing.intersection(ancestor.present)
        if found:
            versions = envelope.present_versions(ancestor, checkpoint_id)
            yield from ((channel, versions[channel]) for channel in found)
        missing = missing - found


def _writes(body: Body, wrote: Wrote, kept: Iterable[str], newest: str) -> dict[bytes, bytes]:
    """Writes of what is kept, and of checkpoints that are still to come. Of ordinary writes with
    one key the first counts, of special ones the last.
    """
    merged = {
        key: value
        for key, value in body.writes.items()
        if (of := envelope.split_write_key(key)[1]) in kept or of > newest
    }
    for key_of_write in wrote.writes:
        if key_of_write[2] in kept or key_of_write[2] > newest:
            key = envelope.write_key(*key_of_write[1:])
            if key_of_write[4] < 0 or key not in merged:
                merged[key] = wrote.batch.writes[key_of_write].pack()
    return merged
