"""Any LangGraph `BaseCheckpointSaver` as the sink of checkpoints: entries are replayed as the calls
they came from.

What is replayed is keyed by checkpoint and task, so doing it again changes nothing. The rest of the
sink's contract (`sinks/protocol.py`) can't be had through a saver's interface, which knows no
transaction over several calls:

- **All or nothing** becomes at least once: after a failure a part of a group may be in the saver. It is still in the
  buffer as well, and the next attempt puts all of it again, in order.
- **Fencing** holds inside this process only. A worker that lost its lease repeats puts, which do no harm; a
  `delete_thread` that it repeats late would. Let one process flush into a saver.
- **Single checkpoints can't be deleted.** `prune` is passed on where the saver's own does exactly the same; otherwise
  the deletion is parked: Surgetank hides those checkpoints, the saver keeps their rows.
- **Nothing is altered silently.** Each checkpoint is read back after it was put, and each write goes through the
  saver's serializer first. What comes back different (a tuple as a list ...) is refused, and so parked with its place.
- Writes are shown by a saver with their checkpoint only: those of a parked checkpoint are parked along with it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import (
    BaseCheckpointSaver,
    Checkpoint,
    CheckpointMetadata,
    empty_checkpoint,
)
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import INTERRUPT

from surgetank.bounded import BoundedMap
from surgetank.exceptions import EntryRejected, LeaseLost, SinkError
from surgetank.model import Entry
from surgetank.sinks.protocol import HotRecords, Slice, Written
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.any_saver.calls import (
    SaverCalls,
    ValueCache,
    raise_refused,
    unavailable,
    writes_in_order,
)
from surgetank.streams.checkpoints.any_saver.fidelity import Fidelity
from surgetank.streams.checkpoints.envelope import CheckpointRecord, Operation, WriteRecord
from surgetank.streams.checkpoints.refs import LocalRef, config_of

_WAIT_FOR_CHECKPOINT_S = 60.0
_THREADS_KNOWN = 10_000
_PROBE, _PROBE_ID = "surgetank-probe", "1ef00000-0000-6000-8000-000000000000"
_FAITHFUL = (
    "make the saver with serde=surgetank.streams.checkpoints.serde.FaithfulSerializer(), "
    "then retry the parked entry."
)


@dataclass(slots=True)
class _Work:
    """One slice on its way: what is still to come, and what is to be told afterwards."""

    thread_id: str
    coming: dict[LocalRef, int]
    held: dict[LocalRef, list[Entry]] = field(default_factory=dict)
    heads: dict[str, str] = field(default_factory=dict)
    forget: list[bytes] = field(default_factory=list)
    passing: dict[bytes, bytes] = field(default_factory=dict)
    rows: int = 0
    size: int = 0


class SaverSink:
    """A sink around `saver`. `serde` is the serializer that the buffer's entries were written with.

    The saver's synchronous methods are called from the flush thread: give it a connection pool, or
    a SQLite connection made with `check_same_thread=False`. A saver on one connection stays broken
    when that connection breaks.
    """

    def __init__(
        self,
        saver: BaseCheckpointSaver[Any],
        serde: SerializerProtocol,
        hot: HotRecords,
        *,
        cache_bytes: int = 48 * 1024**2,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._calls = SaverCalls(saver, serde)
        self._fidelity = Fidelity(self._calls)
        self._hot = hot
        self._clock = clock
        self._values = ValueCache(cache_bytes)
        self._tokens = BoundedMap[str, int](_THREADS_KNOWN)
        # Checkpoints that are known to be in the saver, and those deleted with their thread.
        self._put = BoundedMap[str, set[LocalRef]](_THREADS_KNOWN)
        self._deleted = BoundedMap[str, set[LocalRef]](_THREADS_KNOWN)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return type(self._calls.saver).__name__

    def probe(self, *, buffer_id: str) -> None:  # noqa: ARG002 - a saver knows no buffers
        saver, at = self._calls.saver, cast("RunnableConfig", config_of(_PROBE, "", None))
        new = saver.put(
            at, {**empty_checkpoint(), "id": _PROBE_ID}, {"source": "input", "step": -1}, {}
        )
        saver.put_writes(new, [("probe", "probe")], _PROBE)
        # then its one checkpoint stays, and is put again the next time
        with suppress(NotImplementedError):
            saver.delete_thread(_PROBE)

    def ping(self) -> str:
        try:
            self._calls.get("surgetank-ping", "", "ping")
        except Exception as error:
            raise unavailable(error) from error
        return f"{self.name} answers"

    def close(self) -> None:
        """The saver belongs to whoever made it."""

    def write(self, slices: Sequence[Slice], *, buffer_id: str) -> list[Written]:
        with self._lock:
            for part in slices:
                self._fence(part, buffer_id)
            return [self._replay(part) for part in slices]

    def _fence(self, part: Slice, buffer_id: str) -> None:
        key = f"{buffer_id}/{part.lease.partition}"
        if part.lease.token < self._tokens.get(key, 0):
            raise LeaseLost(
                f"A newer lease of {part.lease.partition!r} has written to the saver.",
                remedy="nothing to do: whoever holds the partition now flushes it.",
            )
        self._tokens[key] = part.lease.token

    def _replay(self, part: Slice) -> Written:
        work = _Work(part.lease.partition, _checkpoints_of(part.entries))
        try:
            for entry in part.entries:
                try:
                    self._entry(work, entry)
                except Exception as error:  # noqa: BLE001 - told by kind, with the entry that it is about
                    raise_refused(error, work.thread_id, entry)
        except BaseException:
            self._values.forget(work.thread_id)
            raise
        return Written(
            rows=work.rows, size=work.size, forget=work.forget, passing=work.passing,
            maxima={envelope.head_note(ns): cid.encode() for ns, cid in work.heads.items()},
        )  # fmt: skip

    def _entry(self, work: _Work, entry: Entry) -> None:
        first = entry.records[0] if entry.records else None
        if first is not None and first.key == envelope.OPERATION_KEY:
            self._operate(work, Operation.unpack(first.value), entry)
            return
        kinds = {r.key[:1] for r in entry.records}
        if kinds - {b"b", b"c", b"w"}:
            raise EntryRejected(
                partition=work.thread_id, path="$", seq=entry.seq, reason="an unknown kind of "
                "record",
                remedy="flush with the Surgetank version that wrote it.",
            )  # fmt: skip
        if b"c" in kinds:
            self._checkpoint(work, entry)
        elif b"w" in kinds:
            self._writes(work, entry)

    # -- checkpoints

    def _checkpoint(self, work: _Work, entry: Entry) -> None:
        record = next(r for r in entry.records if r.key[:1] == b"c")
        ns, checkpoint_id = envelope.split_key(record.key)
        stored = CheckpointRecord.unpack(record.value)
        deleted = self._deleted.get(work.thread_id, set())
        if stored.parent_id is not None and (ns, stored.parent_id) in deleted:
            deleted.add((ns, checkpoint_id))  # a late arrival of a run whose thread was deleted
            return
        if (ns, checkpoint_id) in deleted:
            deleted.discard((ns, checkpoint_id))
            work.forget.append(envelope.tombstone_note(ns, checkpoint_id))
        for blob in entry.records:
            if blob.key[:1] == b"b":
                _, channel, version = envelope.split_blob_key(blob.key)
                self._values.add(
                    (work.thread_id, ns, channel, version), envelope.unpack_blob(blob.value)
                )
        there = entry.replayed and self._calls.get(work.thread_id, ns, checkpoint_id) is not None
        if not there:  # of a parked entry that is tried again the later put stays
            self._put_checkpoint(work, entry, (ns, checkpoint_id), stored)
        self._note(work, ns, checkpoint_id, entry)
        self._put.setdefault(work.thread_id, set()).add((ns, checkpoint_id))
        for task_id, task_path, writes in writes_in_order(work.thread_id, entry):
            self._put_writes(work.thread_id, (ns, checkpoint_id), task_id, task_path, writes, entry)
        for waiting in work.held.pop((ns, checkpoint_id), ()):
            try:
                self._writes(work, waiting)
            except Exception as error:  # noqa: BLE001 - told as this entry's, not as the checkpoint's
                raise_refused(error, work.thread_id, waiting)

    def _put_checkpoint(
        self, work: _Work, entry: Entry, at: LocalRef, stored: CheckpointRecord
    ) -> None:
        thread_id, (ns, checkpoint_id), calls = work.thread_id, at, self._calls
        structure = envelope.read_structure(stored.structure)
        versions: dict[str, Any] = structure["channel_versions"]
        new = {envelope.split_blob_key(r.key)[1] for r in entry.records if r.key[:1] == b"b"}
        values: dict[str, Any] = {}
        for channel in stored.present:
            version = (
                envelope.version_text(versions[channel])
                if channel in versions
                else envelope.unversioned(checkpoint_id)
            )
            values[channel], is_new = self._value(thread_id, ns, channel, version, stored, entry)
            if is_new or channel in new:
                new.add(channel)
                self._fidelity.check(
                    f"$.channel_values.{channel}", values[channel], thread_id, entry
                )
        checkpoint: dict[str, Any] = {**structure, "channel_values": values}
        if stored.extra is not None:
            type_, data = stored.extra
            checkpoint["pending_sends"] = calls.serde.loads_typed((type_, data)) if type_ else []
        metadata = calls.serde.loads_typed((stored.metadata_type, stored.metadata))
        calls.saver.put(
            cast("RunnableConfig", config_of(thread_id, ns, stored.parent_id)),
            cast("Checkpoint", checkpoint),
            cast("CheckpointMetadata", metadata),
            {channel: versions[channel] for channel in new if channel in versions},
        )
        self._fidelity.compare(thread_id, at, checkpoint, metadata, stored.parent_id, entry)

    def _value(
        self,
        thread_id: str,
        ns: str,
        channel: str,
        version: str,
        stored: CheckpointRecord,
        entry: Entry,
    ) -> tuple[Any, bool]:
        """A channel's value: of this entry or an earlier one, out of the saver, or of a parked
        entry. True with the latter: the saver doesn't have it.
        """
        key = (thread_id, ns, channel, version)
        raw, is_new = self._values.get(key), False
        if raw is None and (
            hot := self._hot.latest(thread_id, envelope.blob_key(ns, channel, version))
        ):
            raw, is_new = envelope.unpack_blob(hot[0]), True
        if raw is None:
            found = self._calls.value(thread_id, ns, channel, version, stored.parent_id)
            if found is None:
                raise EntryRejected(
                    partition=thread_id, path=f"$.channel_values.{channel}", seq=entry.seq,
                    reason="its value, unchanged since an earlier put, is neither in the buffer "
                    "nor in the saver",
                    remedy="retry it when the earlier checkpoint is there again.",
                )  # fmt: skip
            raw = self._calls.serde.dumps_typed(found[0])
        self._values.add(key, raw)
        return self._calls.serde.loads_typed(raw), is_new

    # -- writes

    def _writes(self, work: _Work, entry: Entry) -> None:
        record = next(r for r in entry.records if r.key[:1] == b"w")
        ns, checkpoint_id, _, _ = envelope.split_write_key(record.key)
        at = (ns, checkpoint_id)
        if at in self._deleted.get(work.thread_id, ()):
            return
        if at not in self._put.get(work.thread_id, ()) and work.coming.get(at, 0) > entry.seq:
            work.held.setdefault(at, []).append(entry)  # until its checkpoint is there
            return
        self._await_checkpoint(work.thread_id, at, entry)
        for task_id, task_path, writes in writes_in_order(work.thread_id, entry):
            self._put_writes(work.thread_id, at, task_id, task_path, writes, entry)
        self._note(work, ns, checkpoint_id, entry)

    def _await_checkpoint(self, thread_id: str, at: LocalRef, entry: Entry) -> None:
        """A saver shows writes with their checkpoint only: they must not leave the buffer before it
        does."""
        put = self._put.setdefault(thread_id, set())
        if len(put) > _THREADS_KNOWN:
            put.clear()
        if at in put:
            return
        if self._calls.get(thread_id, *at) is not None:
            put.add(at)
            return
        hot = self._hot.latest(thread_id, envelope.checkpoint_key(*at))
        if hot is not None and hot[1]:
            raise EntryRejected(
                partition=thread_id, path="$.writes", seq=entry.seq, reason="their checkpoint is "
                "parked",
                remedy="retry both when what the checkpoint was refused for is mended.",
            )  # fmt: skip
        if hot is not None or self._clock() - entry.accepted_at < _WAIT_FOR_CHECKPOINT_S:
            raise SinkError(
                f"Writes of {thread_id!r} came before their checkpoint and wait for it.",
                remedy="nothing to do.",
            )

    def _put_writes(
        self,
        thread_id: str,
        at: LocalRef,
        task_id: str,
        task_path: str,
        writes: Sequence[WriteRecord],
        entry: Entry,
    ) -> None:
        values = [(w.channel, self._calls.serde.loads_typed((w.type, w.data))) for w in writes]
        for channel, value in values:
            # LangGraph writes its interrupts as a tuple and reads a list as well, which its own
            # savers make of it.
            plain = list(value) if channel == INTERRUPT and type(value) is tuple else value
            self._fidelity.check(f"$.writes.{channel}", plain, thread_id, entry)
        self._calls.saver.put_writes(
            cast("RunnableConfig", config_of(thread_id, *at)), values, task_id, task_path
        )

    def _note(self, work: _Work, ns: str, checkpoint_id: str, entry: Entry) -> None:
        work.heads[ns] = max(checkpoint_id, work.heads.get(ns, ""))
        work.rows += len(entry.records)
        work.size += entry.size

    # -- operations

    def _operate(self, work: _Work, operation: Operation, entry: Entry) -> None:
        thread_id = work.thread_id
        self._values.forget(thread_id)
        if operation.kind != "delete_thread":
            self._delete_checkpoints(thread_id, operation, entry)
            return
        newest = self._hot.heads(thread_id)
        for ns, checkpoint_id in work.heads.items():
            newest[ns] = max(checkpoint_id, newest.get(ns, ""))
        self._calls.saver.delete_thread(thread_id)
        self._put.pop(thread_id, None)
        self._deleted[thread_id] = set(newest.items())
        work.passing |= {envelope.tombstone_note(ns, cid): b"" for ns, cid in newest.items()}
        work.forget.append(envelope.HEAD)
        work.heads.clear()

    def _delete_checkpoints(self, thread_id: str, operation: Operation, entry: Entry) -> None:
        refs = self._calls.refs(thread_id)
        doomed = {(operation.checkpoint_ns, cid) for cid in operation.checkpoint_ids}
        left = refs - doomed
        if left == refs:
            return
        # The saver's own prune keeps the newest checkpoint of each namespace, and may take
        # subgraphs' ones along.
        if left == {max(refs)} and {ns for ns, _ in refs} == {""}:
            with suppress(NotImplementedError):
                self._calls.saver.prune([thread_id], strategy="keep_latest")
            if self._calls.refs(thread_id) == left:
                self._put[thread_id] = left
                return
        raise EntryRejected(
            partition=thread_id, path="$.checkpoints", seq=entry.seq,
            reason=f"{self.name} can't delete {len(doomed)} single checkpoint(s); their rows stay, "
            f"hidden by Surgetank",
            remedy="delete the whole thread, or leave the parked deletion as it is.",
        )  # fmt: skip


def _checkpoints_of(entries: Sequence[Entry]) -> dict[LocalRef, int]:
    """The checkpoints that the entries put, with the seq of the last one each."""
    return {
        (found[0], found[1]): entry.seq
        for entry in entries
        for record in entry.records
        if record.key[:1] == b"c" and (found := envelope.split_key(record.key))
    }
