"""Moving threads between Surgetank and LangGraph's own savers: resumable, and verified value by
value.

Both directions know what is done by looking at the target, where a checkpoint is there as a whole
(with its writes) or not at all: so a move that was killed anywhere goes on where it stopped, moves
nothing twice and misses nothing. An import goes through the buffer and is flushed in portions;
accepted means kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from surgetank.bounded import BoundedMap
from surgetank.encode import limits
from surgetank.exceptions import (
    BrokenRow,
    BufferFull,
    EntryRejected,
    InvalidRequest,
    TransferStopped,
)
from surgetank.model import Record
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.entries import Target
from surgetank.streams.checkpoints.envelope import STREAM
from surgetank.streams.checkpoints.raw import RawCheckpoint
from surgetank.streams.checkpoints.refs import LocalRef, config_of
from surgetank.streams.checkpoints.transfer.journal import Journal
from surgetank.streams.checkpoints.transfer.moving import (
    Move,
    OurStore,
    Wishes,
    compare,
    digest,
    state_of,
)
from surgetank.streams.checkpoints.transfer.official import Official
from surgetank.streams.checkpoints.transfer.official_rows import parents_first
from surgetank.streams.checkpoints.transfer.official_target import OfficialTarget
from surgetank.streams.checkpoints.transfer.report import REFS_SHOWN, Report

_PORTION_BYTES = 16 * 1024**2
_PORTION_ENTRIES = 2000
_PORTION_THREADS = 500
_VERSIONS_KNOWN = 256
# Of the last checkpoints: the next one's parent is mostly among them.
_Versions = BoundedMap[LocalRef, dict[str, str]]


class Importer(Move):
    """Moves threads of a LangGraph saver into Surgetank."""

    def __init__(
        self, source: Official, ours: OurStore, target: str, wishes: Wishes, journal: Journal
    ) -> None:
        super().__init__(Report("import", source.address, target), wishes, journal)
        self._source = source
        self._ours = ours
        self._waiting: list[tuple[str, str, dict[LocalRef, bytes]]] = []
        self._portion: set[str] = set()
        self._bytes = self._entries = 0

    def run(self) -> Report:
        """Move, flush and verify. Raises `TransferStopped`, and what database and buffer raise."""
        threads = self.chosen(self._source.threads())
        if not self.wishes.dry_run:
            self.journal.begin()
        try:
            for number, thread_id in enumerate(threads):
                self.tell(number, len(threads))
                self._thread(thread_id)
            self._confirm()
        except TransferStopped:
            self._ours.flush()  # what was accepted before; its job says what became of it
            raise
        self.tell(len(threads), len(threads))
        if not self.wishes.dry_run:
            self.journal.finish()
        return self.report

    def _thread(self, thread_id: str) -> None:
        refs = self._source.refs(thread_id)
        writes, orphans = self._source.counts(thread_id)
        state = state_of(refs, writes)
        there = set(self._ours.refs(thread_id))
        self.report.threads += 1
        self.report.orphan_writes += orphans
        if self.journal.is_done(thread_id, state) and there >= {(ns, cid) for ns, cid, _ in refs}:
            self.report.threads_done_before += 1
            return
        if there and self.wishes.replace and not self.wishes.dry_run:
            self._ours.maintenance.delete_thread(thread_id)
            self._ours.must_flush([thread_id])
            there = set()
        digests: dict[LocalRef, bytes] = {}
        versions = _Versions(_VERSIONS_KNOWN)
        for ns, checkpoint_id, parent in refs:
            with self.tolerant():
                raw = self._source.read(thread_id, ns, checkpoint_id)
                if (ns, checkpoint_id) in there:
                    self._same_as_ours(raw)
                    self.report.already_there += 1
                else:
                    if not self.wishes.dry_run:
                        self._append(raw, self._known(thread_id, versions, ns, parent))
                        digests[ns, checkpoint_id] = digest(raw)
                    self._count(raw)
                versions[ns, checkpoint_id] = raw.versions()
            if self._bytes >= _PORTION_BYTES or self._entries >= _PORTION_ENTRIES:
                self._confirm()
            self.tell()
        if not self.wishes.dry_run:
            self._waiting.append((thread_id, state, digests))
            if len(self._waiting) > _PORTION_THREADS:
                self._confirm()

    def _count(self, raw: RawCheckpoint) -> None:
        self.report.checkpoints += 1
        self.report.writes += len(raw.writes)
        self.report.bytes += raw.size

    def _known(
        self, thread_id: str, versions: _Versions, ns: str, parent: str | None
    ) -> Mapping[str, str]:
        """The channel versions that are stored with the parent already. After an interruption it is
        asked for."""
        if parent is None:
            return {}
        if (ns, parent) not in versions:
            raw = self._ours.read(thread_id, ns, parent)
            versions[ns, parent] = raw.versions() if raw is not None else {}
        return versions[ns, parent]

    def _append(self, raw: RawCheckpoint, known: Mapping[str, str]) -> None:
        """One entry per checkpoint, with its writes: it is accepted as a whole or not at all."""
        ns, cid, where = (
            raw.checkpoint_ns,
            raw.checkpoint_id,
            (raw.thread_id, raw.checkpoint_ns, raw.checkpoint_id),
        )
        versions = raw.versions()
        records = [Record(envelope.checkpoint_key(ns, cid), raw.record.pack())]
        for channel, typed in raw.blobs.items():
            if known.get(channel) != versions[channel]:
                blob = envelope.pack_blob(*typed)
                records.append(envelope.blob_record(ns, channel, versions[channel], blob))
        records += [
            Record(envelope.write_key(ns, cid, w.task_id, w.idx), w.record.pack())
            for w in raw.writes
        ]
        try:
            _check_names(raw, versions)
            try:
                self._ours.buffer.append(STREAM, raw.thread_id, records, wait=False)
            except BufferFull:
                self._ours.must_flush(self._portion)
                self._ours.buffer.append(STREAM, raw.thread_id, records)
        except EntryRejected as error:
            raise BrokenRow(where, f"{error.path}: {error.reason}", remedy=error.remedy) from error
        self._bytes += sum(len(r.value) for r in records)
        self._entries += 1
        self._portion.add(raw.thread_id)

    def _same_as_ours(self, raw: RawCheckpoint) -> None:
        ours = self._ours.read(raw.thread_id, raw.checkpoint_ns, raw.checkpoint_id)
        deviation = compare(raw, ours)
        if deviation is not None:
            raise BrokenRow(
                (raw.thread_id, raw.checkpoint_ns, raw.checkpoint_id), f"it is here already, but "
                f"different: {deviation}",
                remedy="--force replaces threads that are here; --on-error skip leaves what is "
                "here.",
            )  # fmt: skip
        self.report.verified += 1

    def _confirm(self) -> None:
        """Flush what waits, read every moved checkpoint back, compare it, and note its thread as
        done."""
        # of this run, or of one that was killed
        if self._waiting and self._ours.buffer.last_seq(STREAM):
            self._ours.must_flush(self._portion | {thread_id for thread_id, _, _ in self._waiting})
        elif self._entries:
            self._ours.must_flush(self._portion)
        self._bytes = self._entries = 0
        self._portion.clear()
        while self._waiting:
            thread_id, state, digests = self._waiting.pop(0)
            skipped = self.report.skipped_count
            for (ns, checkpoint_id), expected in digests.items():
                ours = self._ours.read(thread_id, ns, checkpoint_id)
                if ours is None or digest(ours) != expected:
                    with self.tolerant():
                        self._same_as_ours(self._source.read(thread_id, ns, checkpoint_id))
                else:
                    self.report.verified += 1
            if self.report.skipped_count == skipped:
                self.journal.done(thread_id, state)


class Exporter(Move):
    """Moves threads of Surgetank into a LangGraph saver."""

    def __init__(
        self, ours: OurStore, target: OfficialTarget, source: str, wishes: Wishes, journal: Journal
    ) -> None:
        super().__init__(Report("export", source, target.tables.address), wishes, journal)
        self._ours = ours
        self._target = target

    def run(self, *, merge: bool) -> Report:
        """Write and verify. Raises `InvalidRequest` for a target that isn't empty,
        `TransferStopped`."""
        if not (merge or self.wishes.replace or self.journal.resumed or self._target.is_empty()):
            raise InvalidRequest(
                f"{self.report.target} already has threads.",
                remedy="--merge adds to them (equal checkpoints are left as they are), --force "
                "replaces those threads "
                "that are in both; or give an empty database.",
            )
        threads = self.chosen(self._ours.threads())
        if not self.wishes.dry_run:
            self.journal.begin()
        for number, thread_id in enumerate(threads):
            self.tell(number, len(threads))
            self._thread(thread_id)
        self.tell(len(threads), len(threads))
        self.report.altered = list(dict.fromkeys(self._target.altered))[:REFS_SHOWN]
        if not self.wishes.dry_run:
            self.journal.finish()
        return self.report

    def _thread(self, thread_id: str) -> None:
        ids = self._ours.refs(thread_id)
        there = {(ns, cid) for ns, cid, _ in self._target.tables.refs(thread_id)}
        state = state_of([(ns, cid, None) for ns, cid in sorted(ids)], 0)
        self.report.threads += 1
        if self.journal.is_done(thread_id, state) and there >= set(ids):
            self.report.threads_done_before += 1
            return
        if there and self.wishes.replace and not self.wishes.dry_run:
            self._target.delete(thread_id)
            there = set()
        skipped = self.report.skipped_count
        versions = _Versions(_VERSIONS_KNOWN)
        for ns, checkpoint_id, _ in parents_first([(ns, cid, None) for ns, cid in ids]):
            with self.tolerant():
                raw = self._ours.read(thread_id, ns, checkpoint_id)
                if raw is not None:  # deleted meanwhile
                    self._checkpoint(self._target.fit(raw), versions, there)
            self.tell()
        if not self.wishes.dry_run and self.report.skipped_count == skipped:
            self.journal.done(thread_id, state)

    def _checkpoint(self, raw: RawCheckpoint, versions: _Versions, there: set[LocalRef]) -> None:
        ref = (raw.checkpoint_ns, raw.checkpoint_id)
        new = ref not in there
        if new:
            self.report.checkpoints += 1
            self.report.writes += len(raw.writes)
            self.report.bytes += raw.size
        if new and not self.wishes.dry_run:
            known = versions.get((raw.checkpoint_ns, raw.parent_id or ""), {})
            named = raw.structure["channel_versions"]
            fresh = {
                c: named[c] for c, v in raw.versions().items() if c in named and known.get(c) != v
            }
            self._target.put(raw, fresh)
        versions[ref] = raw.versions()
        if new and self.wishes.dry_run:
            return
        deviation = compare(raw, self._target.tables.read(raw.thread_id, *ref))
        if deviation is not None:
            reason = "it came back different" if new else "it is there already, but different"
            raise BrokenRow(
                (raw.thread_id, *ref),
                f"{reason}: {deviation}",
                remedy="--force replaces the thread.",
            )
        self.report.verified += 1
        self.report.already_there += not new


def _check_names(raw: RawCheckpoint, versions: Mapping[str, str]) -> None:
    """Refuse the names that `put` refuses. Raises `EntryRejected`."""
    thread_id = raw.thread_id
    Target.of(cast("Any", config_of(thread_id, raw.checkpoint_ns, raw.checkpoint_id)))
    limits.check_pair(thread_id, "$.thread_id with $.checkpoint.id", thread_id, raw.checkpoint_id)
    limits.check_all(thread_id, "$.channel_values", list(versions))
    limits.check_all(thread_id, "$.channel_versions", list(versions.values()))
    for w in raw.writes:
        names = [
            ("$.task_id", w.task_id),
            ("$.task_path", w.record.task_path),
            ("$.channel", w.record.channel),
        ]
        limits.check_names(thread_id, names)
        limits.check_pair(thread_id, "$.checkpoint_id with $.task_id", raw.checkpoint_id, w.task_id)
