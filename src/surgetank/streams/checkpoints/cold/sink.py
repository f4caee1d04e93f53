"""Checkpoints into PostgreSQL: COPY and keyed updates, one transaction for all slices of a group.

Each transaction first takes the progress rows of its partitions with the lease's fencing token: a
worker that lost its lease is refused there, and entries that an interrupted flush had already
written are skipped. Then it locks the threads' rows, so that two buffers never write to one thread
at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from psycopg import Cursor
from psycopg.rows import dict_row

from surgetank.database import collector
from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.sinks.fence import Passed, fence
from surgetank.sinks.probe import rolled_back
from surgetank.sinks.protocol import HotRecords, Slice, Written
from surgetank.sinks.standing import ProgressDoubtful
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold import deletion, forks, latest
from surgetank.streams.checkpoints.cold.chains import Thread, ThreadCache
from surgetank.streams.checkpoints.cold.latest import Draft
from surgetank.streams.checkpoints.cold.probe import probe
from surgetank.streams.checkpoints.cold.rows import Batch, Plan, plan
from surgetank.streams.checkpoints.cold.store import write_rows
from surgetank.streams.checkpoints.cold.tally import Tally
from surgetank.streams.checkpoints.copies.upkeep import Step, ThreadKeeper, steps_of
from surgetank.streams.checkpoints.envelope import Operation
from surgetank.streams.checkpoints.refs import CheckpointRef

SQL = queries("streams/checkpoints/cold/flush.sql")
_REPLACEMENTS_KEPT = 50
# of the checkpoints that an operation deletes, the newest: a run may be at one of them
_PRUNED_NOTED = 100
# the level of the storage format from which on small values lie in their checkpoint's row
_IN_ROW = 2

Rows = Cursor[dict[str, Any]]


class PostgresCheckpointSink:
    """The sink of the stream `checkpoints`. Several threads may use it; transactions run one at a
    time each.

    `hot` are the records of the buffer that it empties: what waits or is parked there is not lost.
    """

    def __init__(
        self, database: Database, *, cache_bytes: int = 48 * 1024**2, hot: HotRecords | None = None
    ) -> None:
        self._database = database
        self._cache = ThreadCache(cache_bytes)
        self._lock = threading.Lock()
        self._known_level = 0
        self._hot = hot

    @property
    def name(self) -> str:
        return "postgresql"

    def ping(self) -> str:
        return self._database.ping()

    def probe(self, *, buffer_id: str) -> None:
        part = probe()
        name = part.lease.partition
        try:
            with rolled_back(self._database) as cursor:
                self._transaction(cursor, [part], buffer_id, {}, {name: Tally()})
        finally:
            self._cache.forget(name)

    def close(self) -> None:
        """The database belongs to whoever made it."""

    def write(self, slices: Sequence[Slice], *, buffer_id: str) -> list[Written]:
        with self._lock, collector.held_back():
            threads: dict[str, Thread] = {}
            tallies = {s.lease.partition: Tally() for s in slices}
            size = sum(entry.size for s in slices for entry in s.entries)
            try:
                with self._database.connection(size=size) as connection, connection.cursor(
                    binary=True, row_factory=dict_row
                ) as cursor:  # fmt: skip
                    work, passed = self._transaction(cursor, slices, buffer_id, threads, tallies)
            except ProgressDoubtful:
                # It may be another database than it was: one that was restored, or a replica that
                # took over.
                self._cache.clear()
                self._known_level = 0
                raise
            except BaseException:
                for s in slices:
                    self._cache.forget(s.lease.partition)
                raise
            for thread in threads.values():
                self._cache.remember(thread)
            steps = steps_of(work)
            return [
                _written(part, tallies[part.partition], work, steps.get(part.partition, ()))
                for part in passed
            ]

    def _transaction(
        self,
        cursor: Rows,
        slices: Sequence[Slice],
        buffer_id: str,
        threads: dict[str, Thread],
        tallies: dict[str, Tally],
    ) -> tuple[Plan, list[Passed]]:
        passed = fence(cursor, slices, buffer_id, self._database.claim(cursor.connection))
        parts = [(part.partition, part.entries) for part in passed]
        names = [name for name, entries in parts if entries]
        cursor.execute(SQL["deletions"], {"threads": names})
        dead = {CheckpointRef(r["thread_id"], r["ns"], r["id"]) for r in cursor.fetchall()}
        work = plan(parts, dead, in_row=self._level(cursor) >= _IN_ROW)
        self._write_batch(cursor, work.first, threads, tallies, buffer_id)
        gone: set[CheckpointRef] = set()
        for thread_id, step in work.steps:
            if isinstance(step, Batch):
                step.drop_late_writes(gone)
                self._write_batch(cursor, step, threads, tallies, buffer_id)
            else:
                gone |= self._operate(cursor, thread_id, step, threads, tallies)
        deleted = {t for t, step in work.steps if getattr(step, "kind", "") == "delete_thread"}
        for thread_id, replaced in work.replaced.items():
            if thread_id not in deleted:  # what was replaced in it is nobody's any more
                tallies[thread_id].replaced += tuple(replaced)
        for part in passed:
            if part.written_before:
                _note_before(cursor, part, work, tallies[part.partition])
        return work, passed

    def _level(self, cursor: Rows) -> int:
        """The database's storage format. It is raised by an operator and never lowered."""
        if self._known_level < _IN_ROW:
            row = cursor.execute(SQL["storage_level"]).fetchone()
            self._known_level = row["level"] if row is not None else 1
        return self._known_level

    def _write_batch(
        self,
        cursor: Rows,
        batch: Batch,
        threads: dict[str, Thread],
        tallies: dict[str, Tally],
        buffer_id: str,
    ) -> None:
        if not batch:
            return
        found = latest.drafts(batch)
        new = sorted({thread for thread, _ in batch.namespaces} - threads.keys())
        touched = self._touch(cursor, new, found, tallies, writers=dict.fromkeys(found, buffer_id))
        for fork in forks.find(batch, [t for t in touched if t.revision > 1], buffer_id):
            tallies[fork.thread_id].fork = fork
        for thread in touched:
            threads[thread.thread_id] = thread
            draft = found.get(thread.thread_id)
            if (
                draft is not None
                and thread.checkpoint_id == draft.checkpoint_id
                and thread.revision == 1
            ):
                tallies[thread.thread_id].replaced += tuple(draft.replaced())
                thread.versions = draft.versions
                del found[thread.thread_id]  # stored with the thread
        contents = write_rows(cursor, batch, threads, tallies, self._hot)
        latest.save(cursor, threads, found, tallies, contents)

    def _touch(
        self,
        cursor: Rows,
        thread_ids: Iterable[str],
        found: dict[str, Draft],
        tallies: dict[str, Tally],
        writers: Mapping[str, str],
    ) -> list[Thread]:
        early = {
            thread_id: draft
            for thread_id, draft in found.items()
            if not (draft.replayed or self._cache.knows(thread_id))
        }
        threads = latest.touch(cursor, thread_ids, early, writers)
        for thread in threads:
            tallies[thread.thread_id].touched(thread)
            if thread.revision > 1:
                self._cache.recall(thread)
        return threads

    # -- operations

    def _operate(
        self,
        cursor: Rows,
        thread_id: str,
        operation: Operation,
        threads: dict[str, Thread],
        tallies: dict[str, Tally],
    ) -> set[CheckpointRef]:
        """Carry out an operation; returns the checkpoints that were deleted with their thread."""
        tally = tallies[thread_id]
        # Whatever is remembered of the thread is no longer true.
        threads.pop(thread_id, None)
        self._cache.forget(thread_id)
        self._touch(cursor, [thread_id], {}, tallies, {})
        tally.rows += 1
        if operation.kind == "delete_thread":
            gone = deletion.delete_thread(cursor, thread_id, operation)
            tally.forget, tally.replaced = (envelope.HEAD,), ()
            tally.thread = None
            tally.deletion_notes = {
                **tally.deletion_notes,
                **{envelope.tombstone_note(ns, cid): b"" for ns, cid in gone},
            }
            return {CheckpointRef(thread_id, ns, cid) for ns, cid in gone}
        tally.replaced += tuple(deletion.delete_checkpoints(cursor, thread_id, operation))
        newest = sorted(operation.checkpoint_ids)[-_PRUNED_NOTED:]
        notes = {envelope.pruned_note(operation.checkpoint_ns, cid): b"" for cid in newest}
        tally.deletion_notes = {**tally.deletion_notes, **notes}
        if self._hot is not None:
            ns = operation.checkpoint_ns
            keys = [envelope.checkpoint_key(ns, cid) for cid in operation.checkpoint_ids]
            for key in self._hot.parked(thread_id, keys):
                note = envelope.hidden_note(*envelope.split_key(key))
                tally.hidden = {**tally.hidden, note: b""}
        return set()


def _note_before(cursor: Rows, part: Passed, work: Plan, tally: Tally) -> None:
    """What an interrupted flush wrote and could not tell the buffer: the newest ids, and what was
    deleted."""
    before = plan([(part.partition, part.written_before)], set())
    heads = work.heads.setdefault(part.partition, {})
    deleted = any(isinstance(s, Operation) and s.kind == "delete_thread" for _, s in work.steps)
    for ns, checkpoint_id in () if deleted else before.heads.get(part.partition, {}).items():
        heads[ns] = max(checkpoint_id, heads.get(ns, ""))
    for _, step in before.steps:
        if isinstance(step, Operation) and step.kind == "delete_thread":
            tally.forget = (envelope.HEAD,)
            tombstones = deletion.deleted_with(cursor, step) or ()
            tally.deletion_notes = {
                **{envelope.tombstone_note(ns, cid): b"" for ns, cid in tombstones},
                **tally.deletion_notes,
            }


def _written(part: Passed, tally: Tally, work: Plan, steps: Sequence[Step]) -> Written:
    heads = work.heads.get(part.partition, {})
    return Written(
        rows=tally.rows,
        size=tally.size,
        replaced=tally.replaced[:_REPLACEMENTS_KEPT],
        values_replaced=len(tally.replaced),
        forget=(*tally.forget, *work.revived.get(part.partition, ())),
        maxima={
            **{envelope.head_note(ns): cid.encode() for ns, cid in heads.items()},
            **tally.hidden,
        },
        passing=tally.deletion_notes,
        fork=tally.fork,
        keep=ThreadKeeper(part.partition, steps, tally.before, tally.after),
        skipped=len(part.written_before),
        mark=part.mark,
    )
