"""From rows of LangGraph's own savers to checkpoints as Surgetank keeps them; what can be wrong
with the rows. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any

from surgetank.encode.sanitize import dumps_jsonb
from surgetank.exceptions import BrokenRow, DatabaseUnavailable, InvalidRequest
from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.entries import scalars_of
from surgetank.streams.checkpoints.envelope import CheckpointRecord, WriteRecord
from surgetank.streams.checkpoints.raw import RawCheckpoint, RawWrite
from surgetank.streams.checkpoints.refs import CheckpointRef, ParentedRef
from surgetank.streams.checkpoints.serde.serializer import FaithfulSerializer
from surgetank.streams.checkpoints.transfer.packed import Typed, check

_serde = FaithfulSerializer()


def make_raw(
    ref: CheckpointRef,
    parent: str | None,
    checkpoint: dict[str, Any],
    metadata: Any,
    values: dict[str, Typed],
    scalars: dict[str, Any],
    writes: Sequence[tuple[str, int, str, str, str, bytes]],
) -> RawCheckpoint:
    """A checkpoint as Surgetank keeps it, from what a row holds."""
    if not isinstance(metadata, dict):
        raise BrokenRow(ref, "the column `metadata` is not an object")
    if checkpoint.get("id") != ref[2]:
        raise BrokenRow(ref, "it holds another checkpoint's data")
    metadata_type, packed = _serde.dumps_typed(metadata)
    metadata_json, replaced = dumps_jsonb(metadata)
    scalars_json, _ = dumps_jsonb(scalars_of(scalars))
    structure = envelope.structure_of(checkpoint)
    record = CheckpointRecord(
        parent_id=parent or None,
        structure=structure,
        present=tuple(values),
        metadata_type=metadata_type,
        metadata=packed,
        metadata_json=metadata_json,
        scalars_json=scalars_json,
        extra=None,
        replaced=replaced,
    )
    raw = RawCheckpoint(*ref, record, parent or None, blobs=values)
    for task_id, idx, task_path, channel, type_, data in writes:
        typed = check(ref, f"$.writes.{channel}", type_, data)
        raw.writes.append(RawWrite(task_id, idx, WriteRecord(channel, task_path, *typed)))
    raw.writes.sort(key=lambda w: w.order)
    return raw


def parents_first(rows: Sequence[ParentedRef]) -> list[ParentedRef]:
    """By namespace and id, but never a child before its parent."""
    by_key = {(ns, cid): (ns, cid, parent) for ns, cid, parent in rows}
    ordered: dict[tuple[str, str], ParentedRef] = {}
    for key in sorted(by_key):
        branch: list[tuple[str, str]] = []
        seen: set[tuple[str, str]] = set()
        at: tuple[str, str] | None = key
        while at is not None and at in by_key and at not in ordered and at not in seen:
            branch.append(at)
            seen.add(at)
            parent = by_key[at][2]
            at = (at[0], parent) if parent else None
        for found in reversed(branch):
            ordered[found] = by_key[found]
    return list(ordered.values())


def json_of(ref: CheckpointRef, data: bytes | str | None) -> Any:
    """Metadata as `SqliteSaver` reads it (with NaN, which is not JSON)."""
    try:
        return json.loads(data) if data is not None else {}
    except ValueError as error:
        raise BrokenRow(ref, f"its metadata is not JSON ({error})") from error


def refuse_schema(address: str, tables: set[str], wanted: set[str], current: bool) -> None:
    """Raise when the tables aren't a saver's, or an older version's."""
    if not wanted <= tables:
        raise InvalidRequest(
            f"{address} is no checkpoint database: {', '.join(sorted(wanted - tables))} missing.",
            remedy="give the database of a PostgresSaver or SqliteSaver (PostgreSQL: its schema in "
            "the search_path).",
        )
    if not current:
        raise InvalidRequest(
            f"{address} has an older schema (no column task_path).",
            remedy="open it once with a current langgraph-checkpoint-postgres or -sqlite and call "
            "saver.setup().",
        )


def unreachable(address: str, error: Exception) -> DatabaseUnavailable:
    """The family's error for a connection that failed."""
    text = " ".join(str(error).split())
    return DatabaseUnavailable(
        f"{address} can't be read or written ({text[:300]}).",
        remedy="check that it runs, and address, user and password; then start the same command "
        "again.",
    )


def each_write(raw: RawCheckpoint) -> Iterator[tuple[str, int, str, str, str, bytes]]:
    """The writes as plain rows, in order."""
    for w in raw.writes:
        yield w.task_id, w.idx, w.record.task_path, w.record.channel, w.record.type, w.record.data
