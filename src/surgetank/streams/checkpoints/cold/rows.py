"""From buffer entries to the rows of the checkpoint tables. Pure: folds repeated keys, finds
operations.

A **batch** is what lies between two operations: its rows can be written in any order. Rules of
folding: a checkpoint put again replaces the older one; of two ordinary writes with one key the
first stays, of two special writes (index below zero) the last (langgraph-checkpoint 4,
`WRITES_IDX_MAP`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from surgetank.encode.differences.patch import MAX_PATCHED
from surgetank.exceptions import EntryRejected
from surgetank.model import Entry, Replacement
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.envelope import CheckpointRecord, Operation, WriteRecord
from surgetank.streams.checkpoints.refs import CheckpointRef

WriteKey = tuple[str, str, str, str, int]  # ... task id, index
BlobKey = tuple[str, str, str, str]  # thread, namespace, channel, version
SMALL_BYTES = 32  # values up to here lie in their checkpoint's row


@dataclass(slots=True)
class Batch:
    """Rows to be written, folded by key."""

    checkpoints: dict[CheckpointRef, CheckpointRecord] = field(default_factory=dict)
    writes: dict[WriteKey, WriteRecord] = field(default_factory=dict)
    # Not folded: how blobs are numbered must not depend on how entries are grouped into
    # transactions.
    blobs: list[tuple[BlobKey, tuple[str, bytes]]] = field(default_factory=list)
    replayed: set[tuple[str, ...]] = field(default_factory=set)
    in_row: bool = False  # level 2 of the storage format
    # the entry that each checkpoint came with
    seqs: dict[CheckpointRef, int] = field(default_factory=dict)
    # Of level 2 (small.py): values that are in their checkpoint's row, and each checkpoint's
    # channel versions.
    small: dict[BlobKey, tuple[str, bytes]] = field(default_factory=dict)
    # The same by checkpoint: a version that was put with two values is what it is in each.
    own: dict[CheckpointRef, dict[str, tuple[str, bytes]]] = field(default_factory=dict)
    versions: dict[CheckpointRef, dict[str, str]] = field(default_factory=dict)
    # And small writes with the write of the same call in whose row they lie.
    host_of: dict[WriteKey, WriteKey] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.checkpoints or self.writes or self.blobs)

    @property
    def namespaces(self) -> set[tuple[str, str]]:
        """Threads and namespaces that have rows."""
        found = {key[:2] for key in self.checkpoints}
        found.update(key[:2] for key in self.writes)
        found.update(key[:2] for key, _ in self.blobs)
        return found

    def drop_late_writes(self, deleted: set[CheckpointRef]) -> None:
        """Leave out writes that came after the deletion of the checkpoint that they belong to."""
        for key in [k for k in self.writes if k[:3] in deleted and k[:3] not in self.checkpoints]:
            del self.writes[key]


@dataclass(slots=True)
class Plan:
    """All that a transaction has to do: first the batch, then steps in order."""

    # small values are kept in their checkpoint's row: level 2 of the storage format
    in_row: bool = False
    first: Batch = field(default_factory=Batch)
    steps: list[tuple[str, Operation | Batch]] = field(default_factory=list)
    replaced: dict[str, list[Replacement]] = field(default_factory=dict)
    # thread -> namespace -> largest id
    heads: dict[str, dict[str, str]] = field(default_factory=dict)
    # grave notes of ids that were put again
    revived: dict[str, list[bytes]] = field(default_factory=dict)

    def batches(self) -> Iterable[Batch]:
        """Every batch, in order."""
        yield self.first
        for _, step in self.steps:
            if isinstance(step, Batch):
                yield step


def plan(
    parts: Sequence[tuple[str, Sequence[Entry]]], dead: set[CheckpointRef], *, in_row: bool = False
) -> Plan:
    """What the entries of several threads ask for. `dead` are checkpoints deleted with their thread
    before; `in_row` asks for level 2 of the storage format (`streams/checkpoints/cold/small.py`).
    """
    work = Plan(in_row, Batch(in_row=in_row))
    for thread, entries in parts:
        batch = work.first
        for entry in entries:
            operation = _operation(entry)
            if operation is None:
                _add_entry(work, batch, thread, entry, dead)
                continue
            work.steps.append((thread, operation))
            if operation.kind == "delete_thread":
                work.heads.pop(thread, None)
            batch = Batch(in_row=in_row)
            work.steps.append((thread, batch))
    work.steps = [(t, s) for t, s in work.steps if isinstance(s, Operation) or s]
    return work


def _operation(entry: Entry) -> Operation | None:
    if entry.records and entry.records[0].key == envelope.OPERATION_KEY:
        return Operation.unpack(entry.records[0].value)
    return None


def _add_entry(
    work: Plan, batch: Batch, thread: str, entry: Entry, dead: set[CheckpointRef]
) -> None:
    blobs: list[tuple[BlobKey, tuple[str, bytes]]] = []
    dropped = False
    versions: Mapping[str, str] = {}
    at = CheckpointRef(thread, "", "")
    writes: list[WriteKey] = []
    for record in entry.records:
        kind = record.key[:1]
        if kind == b"b":
            ns, channel, version = envelope.split_blob_key(record.key)
            blobs.append(((thread, ns, channel, version), _blob(record.value)))
        elif kind == b"c":
            versions, dropped = _add_checkpoint(
                work, batch, thread, entry, record.key, record.value, dead
            )
            ns, checkpoint_id = envelope.split_key(record.key)
            at = CheckpointRef(thread, ns, checkpoint_id)
        elif kind == b"w":
            _add_write(work, batch, thread, record.key, record.value, dead, writes)
        else:
            raise EntryRejected(
                partition=thread, path="$", seq=entry.seq, reason=f"an unknown kind of record "
                f"{record.key[:8]!r}",
                remedy="flush with the Surgetank version that wrote it.",
            )  # fmt: skip
    if len(writes) > 1 and batch.in_row and not entry.replayed:
        _share_row(batch, writes)
    if dropped:
        return
    if entry.replayed:
        batch.replayed |= {key for key, _ in blobs}
    elif versions:
        for key, value in blobs:
            if len(value[1]) <= SMALL_BYTES and versions.get(key[2]) == key[3]:
                batch.small[key] = value
                batch.own.setdefault(at, {})[key[2]] = value
            else:
                batch.blobs.append((key, value))
        return
    batch.blobs += blobs


def _blob(value: bytes) -> tuple[str, bytes]:
    """Type and bytes of a channel value; of a large one a view, so that it isn't copied."""
    if len(value) <= MAX_PATCHED:
        return envelope.unpack_blob(value)
    end = 1 + value[0]
    return value[1:end].decode(), cast("bytes", memoryview(value)[end:])


def _add_checkpoint(
    work: Plan,
    batch: Batch,
    thread: str,
    entry: Entry,
    raw_key: bytes,
    value: bytes,
    dead: set[CheckpointRef],
) -> tuple[Mapping[str, str], bool]:
    """The channel versions of a checkpoint that is written at level 2, and whether it is left
    out."""
    ns, checkpoint_id = envelope.split_key(raw_key)
    key = CheckpointRef(thread, ns, checkpoint_id)
    record = CheckpointRecord.unpack(value)
    if record.parent_id is not None and (thread, ns, record.parent_id) in dead:
        dead.add(key)
        return {}, True
    if key in dead:
        dead.discard(key)
        work.revived.setdefault(thread, []).append(envelope.tombstone_note(ns, checkpoint_id))
    if entry.replayed:
        if key in batch.checkpoints:
            return {}, False
        batch.replayed.add(key)
    batch.checkpoints[key] = record
    batch.seqs[key] = entry.seq
    versions: Mapping[str, str] = {}
    if work.in_row:
        versions = batch.versions[key] = envelope.present_versions(record, checkpoint_id)
    if record.replaced:
        work.replaced.setdefault(thread, []).extend(record.replaced)
    _note_head(work, thread, ns, checkpoint_id)
    return versions, False


def _add_write(
    work: Plan,
    batch: Batch,
    thread: str,
    raw_key: bytes,
    value: bytes,
    dead: set[CheckpointRef],
    added: list[WriteKey],
) -> None:
    ns, checkpoint_id, task_id, idx = envelope.split_write_key(raw_key)
    if (thread, ns, checkpoint_id) in dead:
        return
    key = (thread, ns, checkpoint_id, task_id, idx)
    if idx < 0 or key not in batch.writes:
        batch.writes[key] = WriteRecord.unpack(value)
        if idx >= 0:
            added.append(key)
    _note_head(work, thread, ns, checkpoint_id)


def _share_row(batch: Batch, writes: Sequence[WriteKey]) -> None:
    """Of the ordinary writes of one call the small ones lie in the row of the first that isn't, or
    of the first."""
    by_task: dict[tuple[str, ...], list[WriteKey]] = {}
    for key in writes:
        by_task.setdefault((*key[:4], batch.writes[key].task_path), []).append(key)
    for keys in by_task.values():
        host = next((key for key in keys if len(batch.writes[key].data) > SMALL_BYTES), keys[0])
        for key in keys:
            if key != host and len(batch.writes[key].data) <= SMALL_BYTES:
                batch.host_of[key] = host


def _note_head(work: Plan, thread: str, ns: str, checkpoint_id: str) -> None:
    heads = work.heads.setdefault(thread, {})
    if checkpoint_id > heads.get(ns, ""):
        heads[ns] = checkpoint_id
