"""The cold part of a thread when a LangGraph saver is the durable store. All methods block.

What the saver gives is serialized again, so that everything above reads it as it reads PostgreSQL.
A saver's interface doesn't tell the path and index of a write: their order is the one in which it
shows them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from langgraph.checkpoint.base import WRITES_IDX_MAP, BaseCheckpointSaver, CheckpointTuple
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.types import INTERRUPT

from surgetank.streams.checkpoints import envelope
from surgetank.streams.checkpoints.any_saver.calls import (
    SaverCalls,
    is_unavailable,
    unavailable,
    value_in,
)
from surgetank.streams.checkpoints.entries import EntryMaker
from surgetank.streams.checkpoints.envelope import CheckpointRecord, WriteRecord
from surgetank.streams.checkpoints.raw import RawCheckpoint, RawWrite
from surgetank.streams.checkpoints.refs import CheckpointRef, config_of

_NO_LIMIT = 1 << 62


class SaverCold:
    """Reads checkpoints from a saver. Raises `DatabaseUnavailable`; other errors of the saver as
    they are."""

    page_size = 32  # a page of a saver's `list` carries the values too

    def __init__(self, saver: BaseCheckpointSaver[Any], serde: SerializerProtocol) -> None:
        self._calls = SaverCalls(saver, serde)
        self._maker = EntryMaker(serde, max_value_bytes=_NO_LIMIT)

    def checkpoint(
        self,
        thread_id: str,
        ns: str,
        checkpoint_id: str,
        *,
        values: bool = False,  # noqa: ARG002 - a saver gives them anyway
    ) -> RawCheckpoint | None:
        """One checkpoint with its values and writes."""
        with _named_errors():
            found = self._calls.get(thread_id, ns, checkpoint_id)
        return self._raw(thread_id, ns, found) if found is not None else None

    def latest(
        self,
        thread_id: str,
        ns: str,
        hidden: Sequence[str],
        *,
        values: bool = False,  # noqa: ARG002 - a saver gives them anyway
    ) -> RawCheckpoint | None:
        """The newest checkpoint of the namespace that is not among the hidden ones."""
        with _named_errors():
            found = self._calls.get(thread_id, ns, None)
            if found is not None and found.checkpoint["id"] in hidden:
                rest = (t for page in self._calls.pages(thread_id, ns) for t in page)
                found = next((t for t in rest if t.checkpoint["id"] not in hidden), None)
        return self._raw(thread_id, ns, found) if found is not None else None

    def mark(self, thread_id: str) -> bytes | None:  # noqa: ARG002 - a saver counts no changes
        """A saver can't tell."""
        return None

    def marks(self, threads: Sequence[str]) -> dict[str, bytes] | None:  # noqa: ARG002
        """A saver can't tell."""
        return None

    def deleted(self, threads: Sequence[str]) -> set[str]:  # noqa: ARG002
        """A saver can't tell."""
        return set()

    def writes(self, thread_id: str, ns: str, checkpoint_id: str) -> list[RawWrite]:
        """The writes of a checkpoint; none when the saver doesn't have it."""
        with _named_errors():
            found = self._calls.get(thread_id, ns, checkpoint_id)
        return self._writes(found) if found is not None else []

    def blobs(
        self, thread_id: str, ns: str, versions: Mapping[str, str]
    ) -> dict[str, tuple[str, bytes]]:
        """The values of channel versions, looked for from the newest checkpoint on."""
        values: dict[str, tuple[str, bytes]] = {}
        with _named_errors():
            for page in self._calls.pages(thread_id, ns) if versions else ():
                for found in page:
                    for channel in versions.keys() - values.keys():
                        value = value_in(found, channel, versions[channel])
                        if value is not None:
                            values[channel] = self._calls.serde.dumps_typed(value[0])
                if len(values) == len(versions):
                    break
        return values

    def projections(self, thread_id: str, ns: str, checkpoint_id: str) -> tuple[bytes, bytes]:
        """The JSON projections of a checkpoint's metadata and scalars; empty objects when it is
        gone."""
        raw = self.checkpoint(thread_id, ns, checkpoint_id)
        return (
            (raw.record.metadata_json, raw.record.scalars_json)
            if raw is not None
            else (b"{}", b"{}")
        )

    def still_there(self, thread_id: str, ns: str, checkpoint_id: str) -> bool:
        """Whether the checkpoint was not deleted meanwhile."""
        with _named_errors():
            return self._calls.get(thread_id, ns, checkpoint_id) is not None

    def page(
        self,
        thread_id: str | None,
        ns: str | None,
        *,
        before: str | None,
        metadata: Mapping[str, Any] | None,
        last: CheckpointRef | None,
        limit: int,
    ) -> list[CheckpointRef]:
        """Places, newest first, after `last`; a whole group of equal ids at the end, so that none
        is torn apart."""
        # Savers differ in what a filter means beyond these.
        metadata = {
            k: v
            for k, v in (metadata or {}).items()
            if k in ("source", "run_id") and type(v) is str and v.isprintable()
        } or None
        refs: list[CheckpointRef] = []
        cursor = last[2] if last is not None else before
        with _named_errors():
            for found in self._calls.pages(
                thread_id, ns, before=cursor, metadata=metadata, size=limit + 1
            ):
                of_page = [CheckpointRef.of(t.config) for t in found]
                refs += sorted(of_page, key=lambda p: (p[2], p[0], p[1]), reverse=True)
                if len(refs) >= limit:
                    break
        return refs

    def many(self, thread_id: str, ns: str, ids: Sequence[str]) -> dict[str, RawCheckpoint]:  # noqa: ARG002
        """A saver reads one by one."""
        return {}

    def run_checkpoints(self, run_ids: Sequence[str]) -> list[CheckpointRef]:
        """Places of the checkpoints that belong to runs."""
        with _named_errors():
            return [
                CheckpointRef.of(found.config)
                for run_id in run_ids
                for page in self._calls.pages(None, None, metadata={"run_id": run_id})
                for found in page
            ]

    def _raw(self, thread_id: str, ns: str, found: CheckpointTuple) -> RawCheckpoint:
        parent = CheckpointRef.of(found.parent_config)[2] if found.parent_config else None
        config: Any = config_of(thread_id, ns, parent)
        versions = found.checkpoint["channel_versions"]
        entry = self._maker.checkpoint(config, found.checkpoint, found.metadata, versions)
        record = CheckpointRecord.unpack(entry.records[0].value)
        raw = RawCheckpoint(thread_id, ns, found.checkpoint["id"], record, parent)
        for blob in entry.records[1:]:
            raw.blobs[envelope.split_blob_key(blob.key)[1]] = envelope.unpack_blob(blob.value)
        raw.writes = self._writes(found)
        return raw

    def _writes(self, found: CheckpointTuple) -> list[RawWrite]:
        counts: dict[str, int] = {}
        writes = []
        for order, (task_id, channel, value) in enumerate(found.pending_writes or ()):
            idx = WRITES_IDX_MAP.get(channel)
            if idx is None:
                idx = counts[task_id] = counts.get(task_id, -1) + 1
            # LangGraph's savers give back as a list what it wrote as a tuple.
            full = tuple(value) if channel == INTERRUPT and type(value) is list else value
            type_, data = self._calls.serde.dumps_typed(full)
            writes.append(RawWrite(task_id, idx, WriteRecord(channel, f"{order:08}", type_, data)))
        return writes


@contextmanager
def _named_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_unavailable(error):
            raise unavailable(error) from error
        raise
