"""Checkpoints into PostgreSQL: COPY and keyed updates, one transaction for all slices of a group.

Each transaction first takes the progress rows of its partitions with the lease's fencing token: a worker
that lost its lease is refused there, and entries that an interrupted flush had already written are
skipped. Then it locks the threads' rows, so that two buffers never write to one thread at once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from psycopg import Cursor
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from surgetank.database.pool import Database
from surgetank.database.queries import queries
from surgetank.encode import envelope, patch
from surgetank.encode.envelope import CheckpointRecord, Operation
from surgetank.exceptions import LeaseLost
from surgetank.model import Entry, Replacement
from surgetank.sinks import chains, deletion, projection
from surgetank.sinks.chains import Thread, ThreadCache
from surgetank.sinks.protocol import Slice, Written
from surgetank.sinks.rows import Batch, BlobKey, CheckpointKey, Plan, pack_body, plan

SQL = queries("flush")
_REPLACEMENTS_KEPT = 50
_COPY_CHECKPOINTS = ["int8", "text", "text", "int2", "bytea", "jsonb", "jsonb"]
_COPY_BLOBS = ["int8", "int4", "int4", "int4", "int2", "int2", "text", "text", "text", "bytea"]
_COPY_WRITES = ["int8", "int4", "int2", "text", "text", "text", "text", "text", "bytea"]

Rows = Cursor[dict[str, Any]]


@dataclass(slots=True)
class _Tally:
    rows: int = 0
    size: int = 0
    replaced: list[Replacement] = field(default_factory=list)
    forget: list[bytes] = field(default_factory=list)
    buried: dict[bytes, bytes] = field(default_factory=dict)


def _json(data: bytes) -> Jsonb:
    return Jsonb(data, dumps=bytes)


class PostgresCheckpointSink:
    """The sink of the stream `checkpoints`. Several threads may use it; transactions run one at a time each."""

    def __init__(self, database: Database, *, cache_bytes: int = 48 * 1024**2) -> None:
        self._database = database
        self._cache = ThreadCache(cache_bytes)
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return "postgresql"

    def ping(self) -> str:
        return self._database.ping()

    def close(self) -> None:
        """The database belongs to whoever made it."""

    def write(self, slices: Sequence[Slice], *, buffer_id: str) -> list[Written]:
        with self._lock:
            threads: dict[str, Thread] = {}
            tallies = {s.lease.partition: _Tally() for s in slices}
            try:
                with self._database.connection() as connection, connection.cursor(
                    binary=True, row_factory=dict_row
                ) as cursor:  # fmt: skip
                    work = self._transaction(cursor, slices, buffer_id, threads, tallies)
            except BaseException:
                for s in slices:
                    self._cache.forget(s.lease.partition)
                raise
            for thread in threads.values():
                self._cache.remember(thread)
            return [_written(s.lease.partition, tallies[s.lease.partition], work) for s in slices]

    def _transaction(
        self,
        cursor: Rows,
        slices: Sequence[Slice],
        buffer_id: str,
        threads: dict[str, Thread],
        tallies: dict[str, _Tally],
    ) -> Plan:
        parts = _fence(cursor, slices, buffer_id)
        names = [name for name, entries in parts if entries]
        cursor.execute(SQL["deletions"], {"threads": names})
        dead = {(r["thread_id"], r["ns"], r["id"]) for r in cursor.fetchall()}
        work = plan(parts, dead)
        self._write_batch(cursor, work.first, threads, tallies)
        buried: set[CheckpointKey] = set()
        for thread_id, step in work.steps:
            if isinstance(step, Batch):
                step.drop_late_writes(buried)
                self._write_batch(cursor, step, threads, tallies)
            else:
                buried |= self._operate(cursor, thread_id, step, threads, tallies[thread_id])
        for thread_id, replaced in work.replaced.items():
            tallies[thread_id].replaced += replaced
        cursor.execute(
            SQL["advance"],
            {
                "buffer_id": buffer_id,
                "streams": [s.lease.stream for s in slices],
                "partitions": [s.lease.partition for s in slices],
                "seqs": [s.entries[-1].seq for s in slices],
            },
        )
        return work

    # -- rows

    def _write_batch(
        self, cursor: Rows, batch: Batch, threads: dict[str, Thread], tallies: dict[str, _Tally]
    ) -> None:
        if not batch:
            return
        self._touch(cursor, sorted({t for t, _ in batch.namespaces} - threads.keys()), threads)
        _number_namespaces(cursor, batch, threads)
        _drop_replayed_blobs(cursor, batch, threads)
        _load_chains(cursor, batch, threads)
        _copy_blobs(cursor, batch, threads, tallies)
        _store_checkpoints(cursor, batch, threads, tallies)
        _store_writes(cursor, batch, threads, tallies)
        _project_states(cursor, batch, threads, tallies)

    def _touch(self, cursor: Rows, thread_ids: list[str], threads: dict[str, Thread]) -> None:
        if not thread_ids:
            return
        cursor.execute(SQL["touch_threads"], {"threads": thread_ids})
        for row in cursor.fetchall():
            thread = Thread(row["thread_id"], row["revision"], row["checkpoint_id"], row["versions"])
            if row["revision"] > 1:
                self._cache.recall(thread)
            threads[thread.thread_id] = thread

    # -- operations

    def _operate(
        self, cursor: Rows, thread_id: str, operation: Operation, threads: dict[str, Thread], tally: _Tally
    ) -> set[CheckpointKey]:
        """Carry out an operation; returns the checkpoints that were deleted with their thread."""
        # Whatever is remembered of the thread is no longer true.
        threads.pop(thread_id, None)
        self._cache.forget(thread_id)
        self._touch(cursor, [thread_id], {})
        if operation.kind == "delete_thread":
            buried = deletion.delete_thread(cursor, thread_id, operation)
            tally.forget = [envelope.HEAD]
            tally.buried |= {envelope.grave_note(ns, cid): b"" for ns, cid in buried}
            return {(thread_id, ns, cid) for ns, cid in buried}
        deletion.delete_checkpoints(cursor, thread_id, operation)
        return set()


def _fence(cursor: Rows, slices: Sequence[Slice], buffer_id: str) -> list[tuple[str, list[Entry]]]:
    """Take the partitions, refuse lost leases, and leave out what is already written."""
    cursor.execute(
        SQL["fence"],
        {
            "buffer_id": buffer_id,
            "streams": [s.lease.stream for s in slices],
            "partitions": [s.lease.partition for s in slices],
            "tokens": [s.lease.token for s in slices],
        },
    )
    written = {row["partition"]: row["seq"] for row in cursor.fetchall()}
    lost = [s.lease.partition for s in slices if s.lease.partition not in written]
    if lost:
        raise LeaseLost(
            f"A newer lease of {lost[0]!r} has written to the database.",
            remedy="nothing to do: whoever holds the partition now flushes it.",
        )
    return [(s.lease.partition, [e for e in s.entries if e.seq > written[s.lease.partition]]) for s in slices]


def _number_namespaces(cursor: Rows, batch: Batch, threads: dict[str, Thread]) -> None:
    wanted = sorted(pair for pair in batch.namespaces if pair[1] not in threads[pair[0]].ns_pks)
    if not wanted:
        return
    arguments = {"threads": [t for t, _ in wanted], "namespaces": [ns for _, ns in wanted]}
    cursor.execute(SQL["new_namespaces"], arguments)
    made = cursor.fetchall()
    for row in made:
        thread = threads[row["thread_id"]]
        thread.ns_pks[row["checkpoint_ns"]] = row["ns_pk"]
        thread.fresh.add(row["ns_pk"])
    if len(made) < len(wanted):
        cursor.execute(SQL["find_namespaces"], arguments)
        for row in cursor.fetchall():
            threads[row["thread_id"]].ns_pks[row["checkpoint_ns"]] = row["ns_pk"]


def _ns_pk(threads: dict[str, Thread], key: Sequence[Any]) -> int:
    return threads[key[0]].ns_pks[key[1]]


def _drop_replayed_blobs(cursor: Rows, batch: Batch, threads: dict[str, Thread]) -> None:
    """A parked entry that is tried again must not come before a version that was stored meanwhile."""
    stored: set[BlobKey] = set()
    for key in [k for k, _ in batch.blobs if k in batch.replayed]:
        thread, ns, channel, version = key
        arguments = {"ns_pk": threads[thread].ns_pks[ns], "channel": channel, "version": version}
        if cursor.execute(SQL["stored_version"], arguments).fetchone() is not None:
            stored.add(key)
    if stored:
        batch.blobs = [(key, blob) for key, blob in batch.blobs if key not in stored]


def _load_chains(cursor: Rows, batch: Batch, threads: dict[str, Thread]) -> None:
    wanted: dict[tuple[int, str], Thread] = {}
    for key, _ in batch.blobs:
        thread, pair = threads[key[0]], (_ns_pk(threads, key), key[2])
        if pair[0] not in thread.fresh and pair not in thread.channels:
            wanted[pair] = thread
    if wanted:
        cursor.execute(
            SQL["tips"],
            {
                "ns_pks": [ns_pk for ns_pk, _ in wanted],
                "channels": [channel for _, channel in wanted],
                "patchable": patch.MAX_PATCHED,
            },
        )
        chains.load_tips({ns_pk: thread for (ns_pk, _), thread in wanted.items()}, cursor.fetchall())


def _copy_blobs(cursor: Rows, batch: Batch, threads: dict[str, Thread], tallies: dict[str, _Tally]) -> None:
    if not batch.blobs:
        return
    with cursor.copy(SQL["copy_blobs"]) as copy:
        copy.set_types(_COPY_BLOBS)
        for key, (type_, data) in batch.blobs:
            thread_id, _, channel, version = key
            ns_pk = _ns_pk(threads, key)
            blob = chains.next_blob(threads[thread_id], ns_pk, channel, type_, data)
            copy.write_row(
                (
                    ns_pk, blob.n, blob.base_n, blob.raw_bytes, blob.position, blob.codec,
                    channel, version, type_, blob.data,
                )
            )  # fmt: skip
            _count(tallies[thread_id], len(blob.data))


def _store_checkpoints(
    cursor: Rows, batch: Batch, threads: dict[str, Thread], tallies: dict[str, _Tally]
) -> None:
    rows: dict[tuple[int, str], tuple[tuple[str, ...], CheckpointRecord]] = {
        (_ns_pk(threads, key), key[2]): (key, record) for key, record in batch.checkpoints.items()
    }
    there = _existing(cursor, "existing_checkpoints", _stale_pairs(threads, batch.checkpoints))
    stored = {(row["ns_pk"], row["checkpoint_id"]) for row in there}
    new = [item for item in rows.items() if item[0] not in stored]
    if new:
        with cursor.copy(SQL["copy_checkpoints"]) as copy:
            copy.set_types(_COPY_CHECKPOINTS)
            for (ns_pk, checkpoint_id), (key, record) in new:
                codec, body = pack_body(record)
                copy.write_row(
                    (
                        ns_pk, checkpoint_id, record.parent_id, codec, body,
                        _json(record.metadata_json), _json(record.scalars_json),
                    )
                )  # fmt: skip
                _count(tallies[key[0]], len(body))
    for pair in stored:
        key, record = rows[pair]
        if key not in batch.replayed:
            codec, body = pack_body(record)
            projections = (_json(record.metadata_json), _json(record.scalars_json))
            cursor.execute(SQL["replace_checkpoint"], (record.parent_id, codec, body, *projections, *pair))
            _count(tallies[key[0]], len(body))


def _store_writes(cursor: Rows, batch: Batch, threads: dict[str, Thread], tallies: dict[str, _Tally]) -> None:
    there = _existing(cursor, "existing_writes", _stale_pairs(threads, batch.writes))
    stored = {(row["ns_pk"], row["checkpoint_id"], row["task_id"], row["idx"]) for row in there}
    replaced = []
    new = []
    for key, record in batch.writes.items():
        at = (_ns_pk(threads, key), *key[2:])
        if at not in stored:
            new.append((key[0], at, record))
        elif key[4] < 0:  # of ordinary writes the first stays
            replaced.append((key[0], at, record))
    if new:
        with cursor.copy(SQL["copy_writes"]) as copy:
            copy.set_types(_COPY_WRITES)
            for thread_id, (ns_pk, checkpoint_id, task_id, idx), record in new:
                codec, data = patch.compress(record.data)
                copy.write_row(
                    (
                        ns_pk, idx, codec, checkpoint_id, task_id, record.task_path, record.channel,
                        record.type, data,
                    )
                )  # fmt: skip
                _count(tallies[thread_id], len(data))
    for thread_id, at, record in replaced:
        codec, data = patch.compress(record.data)
        values = (record.task_path, record.channel, codec, record.type, data)
        cursor.execute(SQL["replace_write"], (*values, *at))
        _count(tallies[thread_id], len(data))


def _stale_pairs(threads: dict[str, Thread], keys: Iterable[Sequence[Any]]) -> set[tuple[int, str]]:
    """Checkpoints in namespaces that had rows before this transaction."""
    pairs = ((threads[key[0]], _ns_pk(threads, key), key[2]) for key in keys)
    return {(ns_pk, checkpoint_id) for thread, ns_pk, checkpoint_id in pairs if ns_pk not in thread.fresh}


def _existing(cursor: Rows, query: str, pairs: set[tuple[int, str]]) -> list[dict[str, Any]]:
    if not pairs:
        return []
    ordered = sorted(pairs)
    cursor.execute(SQL[query], {"ns_pks": [p[0] for p in ordered], "ids": [p[1] for p in ordered]})
    return cursor.fetchall()


def _count(tally: _Tally, size: int) -> None:
    tally.rows += 1
    tally.size += size


# -- projection


def _project_states(
    cursor: Rows, batch: Batch, threads: dict[str, Thread], tallies: dict[str, _Tally]
) -> None:
    latest: dict[str, tuple[str, CheckpointRecord]] = {}
    values = dict(batch.blobs)  # of a version put twice the last counts
    for (thread_id, ns, checkpoint_id), record in batch.checkpoints.items():
        if ns == "" and checkpoint_id >= max(
            threads[thread_id].checkpoint_id or "", latest.get(thread_id, ("",))[0]
        ):
            latest[thread_id] = (checkpoint_id, record)
    for thread_id, (checkpoint_id, record) in latest.items():
        thread = threads[thread_id]
        versions = _shown_versions(record)
        gone = [name for name in thread.versions if name not in versions]
        parts = []
        for channel, version in versions.items():
            if thread.versions.get(channel) != version:
                value = _channel_value(cursor, values, thread, channel, version)
                if value is not None:
                    encoded, replaced = projection.project(channel, *value)
                    parts.append((channel, encoded))
                    tallies[thread_id].replaced += replaced
        state = projection.join(parts)
        cursor.execute(SQL["save_state"], (checkpoint_id, Jsonb(versions), gone, _json(state), thread_id))
        thread.checkpoint_id, thread.versions = checkpoint_id, versions


def _shown_versions(record: CheckpointRecord) -> dict[str, str]:
    """The channels shown in the projection: those with a value, without LangGraph's own bookkeeping."""
    versions = envelope.read_structure(record.structure)["channel_versions"]
    shown = [c for c in record.present if c in versions and not c.startswith(("branch:", "__"))]
    return {c: envelope.version_text(versions[c]) for c in shown[: projection.MAX_CHANNELS]}


def _channel_value(
    cursor: Rows, values: Mapping[BlobKey, tuple[str, bytes]], thread: Thread, channel: str, version: str
) -> tuple[str, bytes] | None:
    key: BlobKey = (thread.thread_id, "", channel, version)
    if key in values:
        return values[key]
    return deletion.load_value(cursor, thread.ns_pks[""], channel, version)


def _written(thread_id: str, tally: _Tally, work: Plan) -> Written:
    heads = work.heads.get(thread_id, {})
    return Written(
        rows=tally.rows,
        size=tally.size,
        replaced=tuple(tally.replaced[:_REPLACEMENTS_KEPT]),
        values_replaced=len(tally.replaced),
        forget=[*tally.forget, *work.revived.get(thread_id, ())],
        maxima={envelope.head_note(ns): cid.encode() for ns, cid in heads.items()},
        passing=tally.buried,
    )
