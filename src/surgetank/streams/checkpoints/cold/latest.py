"""The latest state of each thread, for SQL: what a batch says about it, and one statement for many
threads.

A **draft** is made from the batch alone. A thread that is new is inserted with it at once; for one
that was there, only the channels that changed are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from psycopg import Cursor
from psycopg.rows import tuple_row
from psycopg.types.json import Jsonb

from surgetank.database.queries import queries
from surgetank.exceptions import StateCorrupt
from surgetank.model import Replacement
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.cold import deletion, projection
from surgetank.streams.checkpoints.cold.chains import Thread, damaged
from surgetank.streams.checkpoints.cold.rows import Batch
from surgetank.streams.checkpoints.cold.small import Contents
from surgetank.streams.checkpoints.cold.tally import Tally
from surgetank.streams.checkpoints.envelope import CheckpointRecord
from surgetank.streams.checkpoints.refs import CheckpointRef

SQL = queries("streams/checkpoints/cold/flush.sql")
_STATEMENT_BYTES = 4 * 1024**2  # of JSON in one statement, about

Rows = Cursor[dict[str, Any]]
Shown = tuple[bytes, tuple[Replacement, ...]]


@dataclass(slots=True)
class Draft:
    """A thread's newest checkpoint in a batch, and the values that the batch has of it.

    `replayed`: some of its values may be stored already, in another form.
    """

    checkpoint_id: str
    versions: dict[str, str]
    values: dict[str, tuple[str, bytes]]
    replayed: bool
    shown: dict[str, Shown] = field(default_factory=dict)

    def show(self, channel: str, value: tuple[str, bytes]) -> Shown:
        """A value of the channel as JSON, and what was replaced in it."""
        if channel not in self.shown:
            self.shown[channel] = projection.project(channel, *value)
        return self.shown[channel]

    def full_body(self) -> bytes:
        """The state of a thread that has nothing else."""
        shown = (each for each in self.values.items() if projection.is_shown(each[0]))
        return projection.join([(c, self.show(c, value)[0]) for c, value in shown])

    def replaced(self) -> list[Replacement]:
        """What was replaced in all that was shown so far."""
        return [replacement for _, replaced in self.shown.values() for replacement in replaced]


def drafts(batch: Batch) -> dict[str, Draft]:
    """The newest root checkpoint of each thread in the batch."""
    newest: dict[str, tuple[str, CheckpointRecord]] = {}
    for (thread_id, ns, checkpoint_id), record in batch.checkpoints.items():
        if ns == "" and checkpoint_id >= newest.get(thread_id, ("",))[0]:
            newest[thread_id] = (checkpoint_id, record)
    values = batch.small | dict(batch.blobs)  # of a version put twice the last counts
    found: dict[str, Draft] = {}
    for thread_id, (checkpoint_id, record) in newest.items():
        versions = _versions(record)
        keys = [
            (channel, (thread_id, "", channel, version)) for channel, version in versions.items()
        ]
        replayed = bool(batch.replayed) and any(key in batch.replayed for _, key in keys)
        known = {} if replayed else {c: values[key] for c, key in keys if key in values}
        found[thread_id] = Draft(checkpoint_id, versions, known, replayed)
    return found


def _versions(record: CheckpointRecord) -> dict[str, str]:
    """The channels that have a value: the cold reader finds them by these."""
    versions = envelope.read_structure(record.structure)["channel_versions"]
    present = [c for c in record.present if c in versions]
    return {c: envelope.version_text(versions[c]) for c in present[: projection.MAX_CHANNELS]}


def touch(
    cursor: Rows, thread_ids: Iterable[str], found: Mapping[str, Draft], writers: Mapping[str, str]
) -> list[Thread]:
    """Make the threads with their drafts, or lock those that are there; one `Thread` each.
    `writers` are the buffers of those that get a checkpoint.
    """
    items = (_first_item(t, found.get(t), writers.get(t)) for t in thread_ids)
    threads: list[Thread] = []
    with cursor.connection.cursor(binary=True, row_factory=tuple_row) as plain:
        for statement in _statements(items):
            rows = plain.execute(SQL["touch_threads"], {"items": statement}).fetchall()
            threads += [
                Thread(
                    thread_id=thread,
                    revision=revision,
                    checkpoint_id=latest,
                    versions=versions or {},
                    incarnation=incarnation,
                    writer=writer,
                )
                for thread, revision, latest, versions, incarnation, writer in rows
            ]
    return threads


def _first_item(thread_id: str, draft: Draft | None, writer: str | None) -> bytes:
    if draft is None:
        return b"[%b,null,{},{},%b]" % (orjson.dumps(thread_id), orjson.dumps(writer))
    return b"[%b,%b,%b,%b]" % (
        orjson.dumps(thread_id),
        orjson.dumps(draft.checkpoint_id),
        orjson.dumps(draft.versions) + b"," + draft.full_body(),
        orjson.dumps(writer),
    )


def save(
    cursor: Rows,
    threads: Mapping[str, Thread],
    found: Mapping[str, Draft],
    tallies: Mapping[str, Tally],
    contents: Mapping[CheckpointRef, Contents],
) -> None:
    """Write what the drafts change in threads that were there."""
    for statement in _statements(_changes(cursor, threads, found, tallies, contents)):
        cursor.execute(SQL["save_states"], {"items": statement})


def _changes(
    cursor: Rows,
    threads: Mapping[str, Thread],
    found: Mapping[str, Draft],
    tallies: Mapping[str, Tally],
    contents: Mapping[CheckpointRef, Contents],
) -> Iterator[bytes]:
    for thread_id, draft in found.items():
        thread = threads[thread_id]
        has = contents.get(CheckpointRef(thread_id, "", draft.checkpoint_id))
        if draft.checkpoint_id < (thread.checkpoint_id or ""):
            continue
        parts: list[tuple[str, bytes]] = []
        for channel, version in draft.versions.items():
            if thread.versions.get(channel) == version or not projection.is_shown(channel):
                continue
            value = draft.values.get(channel) or (
                has.small.get(channel) if has is not None else None
            )
            if value is None:
                try:
                    value = deletion.load_value(cursor, thread.ns_pks[""], channel, version)
                except StateCorrupt as error:  # the projection shows null
                    tallies[thread_id].replaced += (damaged(channel, error),)
                    value = ("null", b"")
            if value is not None:
                encoded, replaced = draft.show(channel, value)
                parts.append((channel, encoded))
                tallies[thread_id].replaced += replaced
        gone = [name for name in thread.versions if name not in draft.versions]
        thread.checkpoint_id, thread.versions = draft.checkpoint_id, draft.versions
        texts: Sequence[Any] = (thread_id, draft.checkpoint_id, draft.versions, gone)
        yield orjson.dumps(texts)[:-1] + b"," + projection.join(parts) + b"]"


def _statements(items: Iterable[bytes]) -> Iterator[Jsonb]:
    """JSON arrays of items, of bounded size."""
    pending: list[bytes] = []
    size = 0
    for item in items:
        pending.append(item)
        size += len(item)
        if size >= _STATEMENT_BYTES:
            yield _array(pending)
            pending, size = [], 0
    if pending:
        yield _array(pending)


def _array(items: Sequence[bytes]) -> Jsonb:
    return Jsonb(b"[" + b",".join(items) + b"]", dumps=bytes)
