"""Writing a batch's blobs, checkpoints and writes: COPY for what is new, keyed updates for what is
put again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson
from psycopg import Cursor
from psycopg.types.json import Jsonb

from surgetank.database.queries import queries
from surgetank.encode.differences import patch
from surgetank.sinks.fence import fetch_tuples
from surgetank.sinks.protocol import HotRecords
from surgetank.streams.checkpoints.cold import chains, completeness, small
from surgetank.streams.checkpoints.cold.bodies import pack_body, pack_others, unpack_others
from surgetank.streams.checkpoints.cold.chains import Thread
from surgetank.streams.checkpoints.cold.copying import BLOBS, CHECKPOINTS, WRITES, copy_rows, jsonb
from surgetank.streams.checkpoints.cold.rows import Batch, BlobKey, WriteKey
from surgetank.streams.checkpoints.cold.small import Contents
from surgetank.streams.checkpoints.cold.tally import Tally
from surgetank.streams.checkpoints.envelope import CheckpointRecord
from surgetank.streams.checkpoints.refs import CheckpointRef

SQL = queries("streams/checkpoints/cold/flush.sql")

Rows = Cursor[dict[str, Any]]


def write_rows(
    cursor: Rows,
    batch: Batch,
    threads: Mapping[str, Thread],
    tallies: Mapping[str, Tally],
    hot: HotRecords | None = None,
) -> dict[CheckpointRef, Contents]:
    """Write all rows of a batch whose threads are locked. Returns what the checkpoints have, at
    level 2."""
    _number_namespaces(cursor, batch, threads)
    _drop_replayed_blobs(cursor, batch, threads)
    _load_chains(cursor, batch, threads, tallies)
    numbers: dict[BlobKey, int] = {}
    if batch.blobs:
        copy_rows(cursor, SQL["copy_blobs"], BLOBS, _blob_rows(batch, threads, tallies, numbers))
    found = small.contents(cursor, batch, threads, numbers) if batch.versions else {}
    completeness.check(cursor, batch, threads, found, hot)
    _store_checkpoints(cursor, batch, threads, tallies, found)
    _store_writes(cursor, batch, threads, tallies)
    return found


def _number_namespaces(cursor: Rows, batch: Batch, threads: Mapping[str, Thread]) -> None:
    wanted = sorted(pair for pair in batch.namespaces if pair[1] not in threads[pair[0]].ns_pks)
    if not wanted:
        return
    made = fetch_tuples(cursor, SQL["new_namespaces"], wanted)
    for ns_pk, thread_id, ns in made:
        threads[thread_id].ns_pks[ns] = ns_pk
        threads[thread_id].fresh.add(ns_pk)
    if len(made) < len(wanted):
        arguments = {"threads": [t for t, _ in wanted], "namespaces": [ns for _, ns in wanted]}
        cursor.execute(SQL["find_namespaces"], arguments)
        for row in cursor.fetchall():
            threads[row["thread_id"]].ns_pks[row["checkpoint_ns"]] = row["ns_pk"]


def _drop_replayed_blobs(cursor: Rows, batch: Batch, threads: Mapping[str, Thread]) -> None:
    """A parked entry that is tried again must not come before a version that was stored
    meanwhile."""
    if not batch.replayed:
        return
    replayed = {key for key, _ in batch.blobs if key in batch.replayed}
    stored = replayed & small.in_their_rows(cursor, batch, threads)
    for key in replayed - stored:
        thread, ns, channel, version = key
        arguments = {"ns_pk": threads[thread].ns_pks[ns], "channel": channel, "version": version}
        if cursor.execute(SQL["stored_version"], arguments).fetchone() is not None:
            stored.add(key)
    if stored:
        batch.blobs = [(key, blob) for key, blob in batch.blobs if key not in stored]


def _load_chains(
    cursor: Rows, batch: Batch, threads: Mapping[str, Thread], tallies: Mapping[str, Tally]
) -> None:
    wanted: dict[tuple[int, str], Thread] = {}
    for (thread_id, ns, channel, _), _ in batch.blobs:
        thread = threads[thread_id]
        ns_pk = thread.ns_pks[ns]
        if ns_pk not in thread.fresh and (ns_pk, channel) not in thread.channels:
            wanted[ns_pk, channel] = thread
    if wanted:
        cursor.execute(
            SQL["tips"],
            {
                "ns_pks": [ns_pk for ns_pk, _ in wanted],
                "channels": [channel for _, channel in wanted],
                "patchable": patch.MAX_PATCHED,
            },
        )
        found = chains.load_tips(
            {ns_pk: thread for (ns_pk, _), thread in wanted.items()}, cursor.fetchall()
        )
        for thread_id, damage in found:
            tallies[thread_id].replaced += (damage,)


def _blob_rows(
    batch: Batch,
    threads: Mapping[str, Thread],
    tallies: Mapping[str, Tally],
    numbers: dict[BlobKey, int],
) -> Iterator[tuple[Any, ...]]:
    for key, (type_, data) in batch.blobs:
        thread_id, ns, channel, version = key
        thread = threads[thread_id]
        ns_pk = thread.ns_pks[ns]
        blob = chains.next_blob(thread, ns_pk, channel, type_, data)
        numbers[key] = blob.n
        tallies[thread_id].count(len(blob.data))
        yield (
            ns_pk,
            blob.n,
            blob.base_n,
            blob.raw_bytes,
            blob.position,
            blob.codec,
            channel,
            version,
            type_,
            blob.data,
        )


def _store_checkpoints(
    cursor: Rows,
    batch: Batch,
    threads: Mapping[str, Thread],
    tallies: Mapping[str, Tally],
    found: Mapping[CheckpointRef, Contents],
) -> None:
    new: list[tuple[CheckpointRef, int, CheckpointRecord]] = []
    there = _existing(cursor, "existing_checkpoints", _stale_pairs(threads, batch.checkpoints))
    stored = {(row["ns_pk"], row["checkpoint_id"]) for row in there}
    for key, record in batch.checkpoints.items():
        at = (threads[key[0]].ns_pks[key[1]], key[2])
        if at not in stored:
            new.append((key, at[0], record))
        elif key not in batch.replayed:
            codec, body, numbers = _packed(record, found.get(key))
            shown = [
                Jsonb(part, dumps=bytes) for part in (record.metadata_json, record.scalars_json)
            ]
            numbered = Jsonb(numbers, dumps=bytes) if numbers is not None else None
            cursor.execute(
                SQL["replace_checkpoint"], (record.parent_id, codec, body, *shown, numbered, *at)
            )
            tallies[key[0]].count(len(body))
    if new:
        copy_rows(
            cursor, SQL["copy_checkpoints"], CHECKPOINTS, _checkpoint_rows(new, tallies, found)
        )


def _checkpoint_rows(
    new: Sequence[tuple[CheckpointRef, int, CheckpointRecord]],
    tallies: Mapping[str, Tally],
    found: Mapping[CheckpointRef, Contents],
) -> Iterator[tuple[Any, ...]]:
    for key, ns_pk, record in new:
        codec, body, numbers = _packed(record, found.get(key))
        tallies[key[0]].count(len(body))
        yield (
            ns_pk,
            key[2],
            record.parent_id,
            codec,
            jsonb(record.metadata_json),
            jsonb(record.scalars_json),
            jsonb(numbers) if numbers is not None else None,
            body,
        )


def _packed(record: CheckpointRecord, has: Contents | None) -> tuple[int, bytes, bytes | None]:
    """The columns `codec`, `body` and `blob_numbers` of a checkpoint."""
    if has is None:
        return (*pack_body(record), None)
    return (*pack_body(record, has.small), orjson.dumps(has.numbers))


def _store_writes(
    cursor: Rows, batch: Batch, threads: Mapping[str, Thread], tallies: Mapping[str, Tally]
) -> None:
    if not batch.writes:
        return
    compress = patch.compress_words if batch.in_row else patch.compress
    stored = _stored_writes(cursor, batch, threads)
    others: dict[WriteKey, list[WriteKey]] = {}
    for key, host in batch.host_of.items():
        if key in batch.writes and not (stored and (key in stored or host in stored)):
            others.setdefault(host, []).append(key)
    hosted = {key for keys in others.values() for key in keys}

    def rows() -> Iterator[tuple[Any, ...]]:
        for key, record in batch.writes.items():
            if key in hosted or (stored and key in stored):
                continue
            codec, data = compress(record.data)
            more = None
            if key in others:
                more = pack_others((other[4], batch.writes[other]) for other in others[key])
            tallies[key[0]].count(len(data) + len(more or b""))
            yield (
                threads[key[0]].ns_pks[key[1]],
                key[4],
                codec,
                key[2],
                key[3],
                record.task_path,
                record.channel,
                record.type,
                more,
                data,
            )

    copy_rows(cursor, SQL["copy_writes"], WRITES, rows())
    for key, record in batch.writes.items():
        if key[4] < 0 and key in stored:  # of ordinary writes the first stays
            at = (threads[key[0]].ns_pks[key[1]], *key[2:])
            codec, data = compress(record.data)
            cursor.execute(
                SQL["replace_write"],
                (record.task_path, record.channel, codec, record.type, data, *at),
            )
            tallies[key[0]].count(len(data))


def _stored_writes(cursor: Rows, batch: Batch, threads: Mapping[str, Thread]) -> set[WriteKey]:
    """The writes of the batch's checkpoints that are in the database."""
    names = {threads[key[0]].ns_pks[key[1]]: key[:2] for key in batch.writes}
    stored: set[WriteKey] = set()
    for row in _existing(cursor, "existing_writes", _stale_pairs(threads, batch.writes)):
        task = (*names[row["ns_pk"]], row["checkpoint_id"], row["task_id"])
        stored.add((*task, row["idx"]))
        if row["others"] is not None:
            stored.update((*task, idx) for idx, _ in unpack_others("", row["others"]))
    return stored


def _stale_pairs(
    threads: Mapping[str, Thread], keys: Iterable[Sequence[Any]]
) -> set[tuple[int, str]]:
    """Checkpoints in namespaces that had rows before this transaction."""
    pairs = ((threads[key[0]], threads[key[0]].ns_pks[key[1]], key[2]) for key in keys)
    return {
        (ns_pk, checkpoint_id)
        for thread, ns_pk, checkpoint_id in pairs
        if ns_pk not in thread.fresh
    }


def _existing(cursor: Rows, query: str, pairs: set[tuple[int, str]]) -> list[dict[str, Any]]:
    if not pairs:
        return []
    ordered = sorted(pairs)
    cursor.execute(SQL[query], {"ns_pks": [p[0] for p in ordered], "ids": [p[1] for p in ordered]})
    return cursor.fetchall()
