"""The hot part of a thread: what a snapshot of the buffer says about its checkpoints.

A pending `delete_thread` hides everything that was accepted before it, hot and cold; a pending
`delete_checkpoints` hides the checkpoints that it names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from surgetank.buffer.copies import Glance
from surgetank.buffer.log import Found, Guard, Log, Snapshot
from surgetank.exceptions import EntryRejected
from surgetank.model import Entry
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.envelope import STREAM, CheckpointRecord, Operation, WriteRecord
from surgetank.streams.checkpoints.raw import RawCheckpoint, RawWrite


class HotThread:
    """One thread in one snapshot."""

    def __init__(self, snapshot: Snapshot, thread_id: str) -> None:
        self._snapshot = snapshot
        self._thread_id = thread_id
        self.deleted_seq = 0
        self._hidden: dict[str, dict[str, int]] = {}
        for found in snapshot.scan(STREAM, thread_id, envelope.OPERATION_KEY):
            operation = Operation.unpack(found.value)
            if operation.kind == "delete_thread":
                self.deleted_seq = found.seq
                self._hidden = {}
            else:
                hidden = self._hidden.setdefault(operation.checkpoint_ns, {})
                hidden |= dict.fromkeys(operation.checkpoint_ids, found.seq)

    @property
    def cold_is_deleted(self) -> bool:
        """True when all that the database holds of the thread is about to be deleted."""
        return self.deleted_seq > 0

    def has_records(self) -> bool:
        """True when anything of the thread is hot."""
        return self._snapshot.last(STREAM, self._thread_id, b"") is not None

    def glance(self) -> Glance:
        """What is known of the thread's copy."""
        return self._snapshot.copy(STREAM, self._thread_id)

    def hidden(self, ns: str) -> list[str]:
        """Cold checkpoints of a namespace that are about to be deleted."""
        return list(self._hidden.get(ns, ()))

    def hidden_refs(self) -> frozenset[tuple[str, str]]:
        """Namespace and id of all cold checkpoints that are about to be deleted one by one."""
        return frozenset((ns, cid) for ns, ids in self._hidden.items() for cid in ids)

    def _visible(self, ns: str, checkpoint_id: str, found: Found) -> bool:
        deleted = max(self.deleted_seq, self._hidden.get(ns, {}).get(checkpoint_id, 0))
        return found.seq > deleted and not (found.parked and self._pruned(ns, checkpoint_id))

    def _pruned(self, ns: str, checkpoint_id: str) -> bool:
        """Whether a parked checkpoint was pruned, and the deletion has been flushed."""
        note = envelope.hidden_note(ns, checkpoint_id)
        return note in self._snapshot.notes(STREAM, self._thread_id, note)

    def pruned(self, entry: Entry) -> dict[str, list[str]]:
        """The checkpoints of a parked entry that were pruned since, by namespace."""
        found: dict[str, list[str]] = {}
        for record in entry.records:
            if record.key[:1] == b"c":
                ns, checkpoint_id = envelope.split_key(record.key)
                if self._pruned(ns, checkpoint_id):
                    found.setdefault(ns, []).append(checkpoint_id)
        return found

    def head(self, ns: str) -> str:
        """The largest checkpoint id of the namespace with data in the database, as far as this
        buffer knows."""
        key = envelope.head_note(ns)
        return self._snapshot.notes(STREAM, self._thread_id, key).get(key, b"").decode()

    def known_cold(self, ns: str | None) -> bool:
        """True when this buffer has flushed data of the namespace (of any, if None).

        By namespace, because a running graph looks into the new namespace of each subgraph call:
        during an outage it must not be held up by what the rest of its thread has in the database.
        """
        if ns is not None:
            return bool(self.head(ns))
        return bool(self._snapshot.notes(STREAM, self._thread_id, envelope.HEAD))

    def find(self, ns: str, checkpoint_id: str | None) -> Found | None:
        """A hot checkpoint, or the newest one of the namespace."""
        if checkpoint_id is not None:
            key = envelope.checkpoint_key(ns, checkpoint_id)
            found = self._snapshot.latest(STREAM, self._thread_id, [key]).get(key)
            return found if found is not None and self._visible(ns, checkpoint_id, found) else None
        prefix = envelope.checkpoint_prefix(ns)
        found = self._snapshot.last(STREAM, self._thread_id, prefix, after_seq=self.deleted_seq)
        if found is None or self._visible(ns, found.key[len(prefix) :].decode(), found):
            return found
        newest = next(iter(self.ids(ns)), None)
        return self.find(ns, newest[1]) if newest else None

    def ids(self, ns: str | None) -> list[tuple[str, str]]:
        """Namespace and id of the hot checkpoints, newest first."""
        prefix = b"c\x00" if ns is None else envelope.checkpoint_prefix(ns)
        found = self._snapshot.scan(
            STREAM, self._thread_id, prefix, keys_only=True, after_seq=self.deleted_seq
        )
        refs = {(ref[0], ref[1]): f for f in found for ref in (envelope.split_key(f.key),)}
        visible = [(n, cid) for (n, cid), f in refs.items() if self._visible(n, cid, f)]
        return sorted(visible, key=lambda ref: (ref[1], ref[0]), reverse=True)

    def namespaces(self) -> set[str]:
        """Namespaces that have hot checkpoints."""
        return {ns for ns, _ in self.ids(None)}

    def load(self, ns: str, found: Found, channels: Sequence[str] | None = None) -> RawCheckpoint:
        """The checkpoint behind `found` with those of its values that are hot, and its hot
        writes."""
        record = CheckpointRecord.unpack(found.value)
        checkpoint_id = found.key[len(envelope.checkpoint_prefix(ns)) :].decode()
        parent = record.parent_id
        if parent is not None and parent in self._hidden.get(ns, {}):
            parent = None
        raw = RawCheckpoint(self._thread_id, ns, checkpoint_id, record, parent)
        raw.blobs = self.blobs(ns, raw.versions(), channels, of_seq=found.seq)
        raw.writes = self.writes(ns, checkpoint_id)
        return raw

    def blobs(
        self,
        ns: str,
        versions: Mapping[str, str],
        channels: Sequence[str] | None = None,
        *,
        of_seq: int | None = None,
    ) -> dict[str, tuple[str, bytes]]:
        """The hot ones of these channel versions; of a version that was put with several values,
        the one that came with the entry `of_seq`, else the newest.
        """
        keys = {
            envelope.blob_key(ns, channel, version): channel
            for channel, version in versions.items()
            if channels is None or channel in channels
        }
        found = self._snapshot.latest(STREAM, self._thread_id, list(keys))
        for key in [key for key, f in found.items() if of_seq is not None and f.seq > of_seq]:
            again = self._snapshot.scan(STREAM, self._thread_id, key, after_seq=(of_seq or 1) - 1)
            found[key] = next((f for f in again if f.key == key and f.seq == of_seq), found[key])
        return {
            keys[key]: envelope.unpack_blob(f.value)
            for key, f in found.items()
            if f.seq > self.deleted_seq
        }

    def writes(self, ns: str, checkpoint_id: str) -> list[RawWrite]:
        """The hot writes of a checkpoint, in the order of acceptance."""
        prefix = envelope.write_prefix(ns, checkpoint_id)
        after = max(self.deleted_seq, self._hidden.get(ns, {}).get(checkpoint_id, 0))
        found = sorted(
            self._snapshot.scan(STREAM, self._thread_id, prefix, after_seq=after),
            key=lambda f: f.seq,
        )
        writes = []
        for f in found:
            _, _, task_id, idx = envelope.split_write_key(f.key)
            writes.append(RawWrite(task_id, idx, WriteRecord.unpack(f.value)))
        return writes


class HotLookup:
    """Single hot records, for a sink that has to put together what was accepted in parts
    (any_saver/sink.py)."""

    def __init__(self, buffer: Log) -> None:
        self._buffer = buffer

    def latest(self, thread_id: str, key: bytes) -> tuple[bytes, bool] | None:
        """The newest hot record of a key, and whether it is parked."""
        with self._buffer.snapshot() as snapshot:
            found = snapshot.latest(STREAM, thread_id, [key]).get(key)
        return (found.value, found.parked) if found is not None else None

    def parked(self, partition: str, keys: Sequence[bytes]) -> list[bytes]:
        """Those of the keys whose newest hot record is parked."""
        with self._buffer.snapshot() as snapshot:
            found = snapshot.latest(STREAM, partition, keys)
        return [key for key, record in found.items() if record.parked]

    def heads(self, thread_id: str) -> dict[str, str]:
        """The largest checkpoint id of each namespace that has been flushed."""
        with self._buffer.snapshot() as snapshot:
            notes = snapshot.notes(STREAM, thread_id, envelope.HEAD)
        return {key[len(envelope.HEAD) :].decode(): value.decode() for key, value in notes.items()}


def guard_put(
    thread_id: str,
    ns: str,
    checkpoint_id: str,
    parent_id: str | None,
    root: tuple[str, str] | None,
    *,
    complete: bool = True,
) -> Guard:
    """Refuses a checkpoint that descends from one that was deleted with its thread, or was pruned.

    `root` is namespace and id of the parent graph's checkpoint that a subgraph's one belongs to.
    `complete` tells that the entry has all values of the checkpoint, so that nothing of it can be
    pruned away; what is not is refused by `EntryRejected`, because nobody asked for its end.
    """

    def guard(snapshot: Snapshot) -> Mapping[bytes, bytes] | None:
        hot = HotThread(snapshot, thread_id)
        # LangGraph saves a checkpoint after its parent: while the deletion is pending, a parent
        # that isn't here lies before it.
        orphaned = parent_id is not None and hot.cold_is_deleted and hot.find(ns, parent_id) is None
        orphan = parent_id is not None and _has_tombstone(snapshot, hot, thread_id, ns, parent_id)
        astray = root is not None and _has_tombstone(snapshot, hot, thread_id, *root)
        if orphaned or orphan or astray:
            return {envelope.tombstone_note(ns, checkpoint_id): b""}
        if (
            parent_id is not None
            and not complete
            and _pruned(snapshot, hot, thread_id, ns, parent_id)
        ):
            raise EntryRejected(
                partition=thread_id, path="$.checkpoint", reason=f"its parent {parent_id} was "
                f"pruned meanwhile, and"
                " with it the values that this one did not change",
                remedy="read the thread again and go on from its newest checkpoint.",
            )  # fmt: skip
        return None

    return guard


def guard_writes(thread_id: str, ns: str, checkpoint_id: str) -> Guard:
    """Refuses writes of a checkpoint that was deleted: with its thread, or pruned."""

    def guard(snapshot: Snapshot) -> Mapping[bytes, bytes] | None:
        hot = HotThread(snapshot, thread_id)
        gone = _has_tombstone(snapshot, hot, thread_id, ns, checkpoint_id)
        return {} if gone or _pruned(snapshot, hot, thread_id, ns, checkpoint_id) else None

    return guard


def _pruned(
    snapshot: Snapshot, hot: HotThread, thread_id: str, ns: str, checkpoint_id: str
) -> bool:
    """Whether a checkpoint was deleted lately, its thread not, and not put again since."""
    note = envelope.pruned_note(ns, checkpoint_id)
    deleted = checkpoint_id in hot.hidden(ns) or note in snapshot.notes(STREAM, thread_id, note)
    return deleted and hot.find(ns, checkpoint_id) is None


def _has_tombstone(
    snapshot: Snapshot, hot: HotThread, thread_id: str, ns: str, checkpoint_id: str
) -> bool:
    if hot.find(ns, checkpoint_id) is not None:
        return False
    note = envelope.tombstone_note(ns, checkpoint_id)
    if note in snapshot.notes(STREAM, thread_id, note):
        return True
    key = envelope.checkpoint_key(ns, checkpoint_id)
    # Still in the buffer, but accepted before the deletion.
    return hot.cold_is_deleted and key in snapshot.latest(STREAM, thread_id, [key])
